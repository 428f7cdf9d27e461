/**
 * Families that are not plain vision transformers, recognised by their configs and tensors, with the parts that SlimViT
 * does not support.
 */
import { SlimViTError } from "../../src/errors.ts";

interface Family {
  /** of transformers' `model_type` and `architectures`, or of timm's `architecture` */
  config?: RegExp;
  /** of tensor names, for checkpoints without a config */
  tensors?: RegExp;
  /** a sentence that begins with the family's name */
  has: string;
}

const OTHER_FAMILIES: Family[] = [
  {
    config: /swin(v2)?[_-]?|^swin/i,
    tensors: /relative_position_index|layers\.\d+\.downsample\./,
    has: "Swin has windows that shift and stages that merge patches",
  },
  { config: /cait_/i, tensors: /blocks_token_only|proj_l\./, has: "CaiT has talking heads and class-attention blocks" },
  { config: /convit/i, tensors: /attn\.gating_param/, has: "ConViT has gated positional attention" },
  {
    config: /^vit.*(_r\d+_|_r_|resnet|_mci_)|vit[-_]hybrid/i,
    tensors: /patch_embed\.backbone\./,
    has: "A hybrid ViT has a convolutional network before its patches",
  },
  { config: /vitamin/i, has: "ViTamin has convolutional stages" },
  { config: /samvit|^sam/i, tensors: /rel_pos_h$/, has: "SAM's encoder has windows and decomposed relative positions" },
  { config: /mobilevit/i, has: "MobileViT has convolutions between its transformers" },
  {
    config:
      /efficientvit|fastvit|edgenext|coat_|coatnet|nest_|volo|twins|visformer|davit|mvit|hiera|maxvit|maxxvit|levit|pit_|tnt_|crossvit|xcit|tiny_vit|gcvit|pvt|poolformer|crossformer|focalnet|nextvit|repvit|cvt|segformer|efficientformer|mobileone/i,
    has: "This network has convolutions, stages or attention of other kinds between its blocks",
  },
  {
    config:
      /resnet|convnext|efficientnet|mixer|mobilenet|vgg|densenet|regnet|sequencer|inception|bit$|poolformer|resmlp|gmlp/i,
    tensors: /^(layer[1-4]\.\d|stages\.\d|features\.\d|conv_stem|stem\.)/,
    has: "This network is no vision transformer: it has convolutions or mixers",
  },
  {
    config: /yolos|detr|owlvit|owlv2/i,
    tensors: /bbox_predictor|class_labels_classifier/,
    has: "An object detector has boxes",
  },
  {
    config: /^dpt|depth[_-]?anything|zoedepth|DepthEstimation|SemanticSegmentation|upernet/i,
    tensors: /^(neck\.|decode_head\.)/,
    has: "A model of depth or segments has a decoder of many maps",
  },
  { config: /videomae|vivit|timesformer/i, has: "A video model takes several frames" },
  { config: /audio[_-]?spectrogram|^ast$|^ASTFor/i, has: "An audio model takes spectrograms" },
  {
    config: /^(bert|roberta|gpt|llama|t5|qwen|mistral|distilbert|electra|deberta)/i,
    tensors: /word_embeddings|lm_head|embed_tokens/,
    has: "A language model takes text",
  },
  {
    config: /sapiens2|^test_vit4$|_xp_/i,
    has: "A ViT with RMSNorm, such as Sapiens 2, keeps the mean that LayerNorm takes away",
  },
  { config: /_rpn_|_rpn$/i, has: "A ViT with norms after its branches (res-post-norm) has no norm before them" },
  {
    config: /beit3|eva02_\w+_clip/i,
    tensors: /attn\.(inner_attn_ln|norm)\.weight$/,
    has: "BEiT-3, EVA-02 CLIP and their kin have a norm between the heads and their projection",
  },
  {
    config: /_d(wee|little)_/i,
    tensors: /attn\.lambda_q1$/,
    has: "A ViT with differential attention has two softmaxes a head",
  },
  {
    config: /_d?p(wee)_/i,
    tensors: /blocks\.0\.in_proj\./,
    has: "A ViT with parallel blocks runs attention and MLP from one norm",
  },
  {
    config: /siglip2_vision|Siglip2(Vision)?Model|Siglip2For/i,
    tensors: /vision_model\.embeddings\.patch_embedding\.weight\.naflex/,
    has: "SigLIP 2 NaFlex has pictures of any shape, packed into one length",
  },
  {
    config: /vit_?det|internvl|intern_vit|qwen2?.*vision|pixtral/i,
    has: "This vision tower belongs to a language model",
  },
];

/**
 * @param kinds what the config calls the network: model type, architecture
 * @throws SlimViTError `unsupported`, naming the family
 */
export function refuseOtherFamilies(kinds: string[], names: string[], source: string): void {
  const found =
    OTHER_FAMILIES.find(({ config }) => config && kinds.some((kind) => config.test(kind))) ??
    OTHER_FAMILIES.find(({ tensors }) => tensors && names.some((name) => tensors.test(name)));
  if (!found) return;
  const called = kinds.length ? ` (${kinds.join(", ")})` : "";
  throw new SlimViTError(
    "unsupported",
    `${source}: ${found.has.replace("This network", kinds[0] ?? "This network")}${called}; SlimViT imports plain vision transformers, whose tokens all meet in every block.`,
  );
}
