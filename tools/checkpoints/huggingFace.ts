/** Checkpoints of Hugging Face transformers: their tensor names and configs. */
import { SlimViTError } from "../../src/errors.ts";
import type { Activation, Pooling, ZeroShot } from "../../src/format/model.ts";
import { type Description, readActivation, readNumber, readScores, readSize } from "./description.ts";
import { type Rule, rename } from "./names.ts";
import type { Stored, Weights } from "./weights.ts";

type Json = Record<string, unknown>;

const LAYER = String.raw`^(?:encoder\.)?(?:layers?|blocks)\.(\d+)\.`;
const layer = (rest: string): RegExp => new RegExp(LAYER + rest);

/** Rules for every model type in one list. The tower's own name is cut off before they apply. */
const RULES: Rule[] = [
  [/^embeddings\.(?:cls_token|class_embedding)$/, "cls_token"],
  [/^embeddings\.distillation_token$/, "dist_token"],
  [/^embeddings\.register_tokens$/, "reg_token"],
  [/^embeddings\.position_embeddings?(?:\.weight)?$/, "pos_embed"],
  [/^embeddings\.patch_embeddings?\.(?:projection\.)?/, "patch_embed.proj."],
  [/^embeddings\.(?:mask_token|position_ids)$/, ""],
  [/^(?:pre_layrnorm|pre_layernorm)\./, "norm_pre."],
  [
    layer(String.raw`(?:attention\.attention|attention|self_attn)\.(query|key|value|q_proj|k_proj|v_proj)\.`),
    "blocks.$1.attn.$2.",
  ],
  [
    layer(String.raw`(?:attention\.output\.dense|attention\.o_proj|attention\.out_proj|self_attn\.out_proj)\.`),
    "blocks.$1.attn.proj.",
  ],
  [
    layer(String.raw`(?:attention\.)?attention\.relative_position_bias\.relative_position_bias_table$`),
    "blocks.$1.attn.rel_table",
  ],
  [layer(String.raw`(?:attention\.)?attention\.relative_position_bias\.relative_position_index$`), ""],
  [layer(String.raw`(?:intermediate\.dense|mlp\.weights_in|mlp\.fc1)\.`), "blocks.$1.mlp.fc1."],
  [layer(String.raw`(?:output\.dense|mlp\.weights_out|mlp\.fc2|mlp\.down_proj)\.`), "blocks.$1.mlp.fc2."],
  [layer(String.raw`mlp\.gate_proj\.`), "blocks.$1.mlp.gate."],
  [layer(String.raw`mlp\.up_proj\.`), "blocks.$1.mlp.up."],
  [layer(String.raw`(?:layernorm_before|layer_norm1|norm1)\.`), "blocks.$1.norm1."],
  [layer(String.raw`(?:layernorm_after|layer_norm2|norm2)\.`), "blocks.$1.norm2."],
  [layer(String.raw`(?:layer_scale([12])\.lambda1|lambda_([12]))$`), "blocks.$1.ls$2$3.gamma"],
  [/^encoder\.relative_position_bias\.relative_position_bias_table$/, "rel_table"],
  [/^encoder\.relative_position_bias\.relative_position_index$/, ""],
  [/^(?:layernorm|layer_norm|post_layernorm|norm)\./, "norm."],
  [/^pooler\.layernorm\./, "fc_norm."],
  [/^(?:cls_)?classifier\./, "head."],
  [/^distillation_classifier\./, "head_dist."],
  [/^visual_projection\.weight$/, "projection.weight"],
  [/^head\.probe$/, "attn_pool.latent"],
  [/^head\.attention\.in_proj_/, "attn_pool.in_proj."],
  [/^head\.attention\.out_proj\./, "attn_pool.proj."],
  [/^head\.layernorm\./, "attn_pool.norm."],
  [/^head\.mlp\./, "attn_pool.mlp."],
  [/^(?:text_model|text_projection|decoder)\..*/, ""],
  [/^pooler\.dense\./, "pooler."],
];

const TOWERS =
  /^(?:vit|deit|dinov2|dinov2_with_registers|dinov3_vit|dinov3|beit|data2vec_vision|ijepa|vit_mae|vit_msn|clip|siglip|vision_model)\./;

export function fromHuggingFace(stored: Stored): Stored {
  const short: Stored = new Map();
  for (const [name, tensor] of stored) {
    let cut = name;
    while (TOWERS.test(cut)) cut = cut.replace(TOWERS, "");
    short.set(cut, tensor);
  }
  const out: Stored = new Map();
  for (const [name, tensor] of rename(short, RULES)) {
    const renamed = name
      .replace(/\.attn\.(q|k|v)(?:uery|ey|alue|_proj)\./, ".attn.$1.")
      .replace(
        /\.mlp\.up\./,
        [...short.keys()].some((key) => key.includes("mlp.gate_proj")) ? ".mlp.up." : ".mlp.fc1.",
      );
    out.set(renamed, tensor);
  }
  return out;
}

/** Defaults of a model type, which a config leaves out. */
interface ModelType {
  family: string;
  heads?: number;
  eps: number;
  activation?: string;
  imageSize?: number;
}

const VIT: ModelType = { family: "ViT", eps: 1e-12 };
const BEIT: ModelType = { family: "BEiT", eps: 1e-12 };
const CLIP: ModelType = { family: "CLIP", eps: 1e-5, activation: "quick_gelu" };
const SIGLIP: ModelType = { family: "SigLIP", eps: 1e-6, activation: "gelu_pytorch_tanh" };

const TYPES: Record<string, ModelType> = {
  vit: VIT,
  deit: { ...VIT, family: "DeiT" },
  vit_msn: { ...VIT, family: "ViT-MSN", eps: 1e-6 },
  vit_mae: { ...VIT, family: "ViT-MAE" },
  ijepa: { ...VIT, family: "I-JEPA" },
  beit: BEIT,
  "data2vec-vision": { ...BEIT, family: "Data2Vec" },
  dinov2: { family: "DINOv2", eps: 1e-6 },
  dinov2_with_registers: { family: "DINOv2 with registers", eps: 1e-6 },
  dinov3_vit: { family: "DINOv3", eps: 1e-5, heads: 6 },
  clip: CLIP,
  clip_vision_model: CLIP,
  siglip: SIGLIP,
  siglip_vision_model: SIGLIP,
};

/** Guesses the model type from the tensors' names, where there is no config. */
function guessType(weights: Weights, source: string): string {
  if (weights.has("attn_pool.latent")) return "siglip";
  if (weights.has("norm_pre.weight")) return "clip";
  if (weights.has("blocks.0.attn.rel_table") || weights.has("rel_table")) return "beit";
  const [registers, scaled] = [weights.has("reg_token"), weights.has("blocks.0.ls1.gamma")];
  if (scaled && weights.has("pos_embed")) return registers ? "dinov2_with_registers" : "dinov2";
  if (scaled)
    throw new SlimViTError(
      "bad-model",
      `${source}: the model type is not in the tensors; put config.json beside them.`,
    );
  return weights.has("dist_token") ? "deit" : "vit";
}

/** @param config config.json; {} where there is none */
export function describeHuggingFace(config: Json, weights: Weights, source: string): Description {
  const assumed: string[] = [];
  const named = config.model_type as string | undefined;
  const type = named ?? guessType(weights, source);
  const defaults = TYPES[type];
  if (!defaults)
    throw new SlimViTError(
      "unsupported",
      `${source}: model_type is ${JSON.stringify(type)}; expected one of ${Object.keys(TYPES).join(", ")}.`,
    );
  if (!named) assumed.push(`the model type "${type}", by its tensors (config.json)`);
  const tower = (config.vision_config ?? config) as Json;
  const eps = tower.layer_norm_eps ?? defaults.eps;
  if (!named) assumed.push(`LayerNorm eps ${eps} (transformers'; --eps)`);
  const isGated = weights.has("blocks.0.mlp.gate.weight");
  const isFused = tower.use_swiglu_ffn === true;
  const act = isFused ? "silu" : (tower.hidden_act ?? (isGated ? "silu" : (defaults.activation ?? "gelu")));
  const activation: Activation = readActivation(act, "hidden_act", source);
  const heads = tower.num_attention_heads ?? (named ? (defaults.heads ?? 12) : undefined);
  const { pooling, skipsFinalNorm } = poolingOf(type, config, weights);
  dropPooler(weights, assumed);
  return {
    family: defaults.family,
    depth: tower.num_hidden_layers,
    layerNormEps: readNumber(eps, "layer_norm_eps", source),
    heads: heads === undefined ? undefined : readNumber(heads, "num_attention_heads", source),
    activation,
    pooling,
    skipsFinalNorm,
    imageSize: readSize(tower.image_size) ?? (named ? [224, 224] : undefined),
    rope: type === "dinov3_vit" ? rope(tower, source) : undefined,
    poolHeads: heads as number | undefined,
    poolActivation: activation,
    scores: readScores(config, source),
    zeroShot: zeroShotOf(type, weights),
    assumed,
  };
}

/** Leaves out ViTModel's pooler, which no classifier of transformers reads. People take its output or the normed class token as the embedding. */
function dropPooler(weights: Weights, assumed: string[]): void {
  if (!weights.has("pooler.weight")) return;
  for (const part of ["weight", "bias"]) weights.drop(`pooler.${part}`);
  if (!weights.has("head.weight"))
    assumed.push("the class token after the final norm as the embedding; the pooler (tanh of a linear) is left out");
}

/** Pooling as in the class of each type in transformers' modeling_*.py. */
function poolingOf(type: string, config: Json, weights: Weights): { pooling: Pooling; skipsFinalNorm?: boolean } {
  const classifies = weights.has("head.weight");
  const meanOfBeit = (config.use_mean_pooling ?? true) === true;
  if (type === "beit" || type === "data2vec-vision") return { pooling: meanOfBeit ? "mean" : "class" };
  if (type === "ijepa") return { pooling: "mean" };
  if (type === "clip" && classifies) return { pooling: "mean", skipsFinalNorm: true };
  if (type.startsWith("siglip")) return { pooling: classifies || !weights.has("attn_pool.latent") ? "mean" : "map" };
  const isDino = type === "dinov2" || type === "dinov2_with_registers";
  if (isDino && classifies) {
    const both = weights.shape("head.weight", 2)[1] === 2 * weights.shape("norm.weight", 1)[0];
    return { pooling: both ? "class+mean" : "class" };
  }
  return { pooling: "class" };
}

function rope(config: Json, source: string): Description["rope"] {
  const parameters = (config.rope_parameters ?? {}) as Json;
  const theta = config.rope_theta ?? parameters.rope_theta ?? 100;
  return {
    grid: "centred",
    temperature: readNumber(theta, "rope_theta", source),
    offset: 0,
    columnsFirst: false,
    half: true,
  };
}

function zeroShotOf(type: string, weights: Weights): ZeroShot | undefined {
  if (!weights.has("logit_scale")) return undefined;
  const scale = Math.exp(weights.take("logit_scale").data[0]);
  const bias = weights.has("logit_bias") ? weights.take("logit_bias").data[0] : 0;
  return { scores: type.startsWith("siglip") ? "sigmoid" : "softmax", scale, bias };
}
