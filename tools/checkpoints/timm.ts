/**
 * Checkpoints of timm (and of facebookresearch, whose names timm kept): their tensor names, architectures and model
 * arguments.
 */
import { SlimViTError } from "../../src/errors.ts";
import type { Activation, Pooling } from "../../src/format/model.ts";
import { type Description, type RopeRule, readActivation, readNumber, readScores, readSize } from "./description.ts";
import { hasFusedGate, type Rule, rename } from "./names.ts";
import type { Resampling } from "./resize.ts";
import type { Stored, Weights } from "./weights.ts";

type Json = Record<string, unknown>;

const RULES: Rule[] = [
  [/^register_tokens$/, "reg_token"],
  [/^mask_token$/, ""],
  [/^(blocks\.\d+)\.attn\.([qkv])_proj\./, "$1.attn.$2."],
  [/^(blocks\.\d+)\.attn\.([qkv])_bias$/, "$1.attn.$2.bias"],
  [
    /^(blocks\.\d+)\.attn\.(?:relative_position_bias_table|rel_pos\.relative_position_bias_table)$/,
    "$1.attn.rel_table",
  ],
  [/^(blocks\.\d+)\.attn\.rel_pos\.mlp\./, "$1.attn.rel_mlp."],
  [/^(?:blocks\.\d+\.attn\.)?(?:rel_pos\.)?relative_position_index$/, ""],
  [/^rel_pos_bias\.relative_position_bias_table$/, "rel_table"],
  [/^shared_rel_pos\.relative_position_bias_table$/, "rel_table"],
  [/^shared_rel_pos\.mlp\./, "rel_mlp."],
  [/^(blocks\.\d+)\.gamma_([12])$/, "$1.ls$2.gamma"],
  [/^(blocks\.\d+)\.mlp\.(?:fc1_g|w1)\./, "$1.mlp.gate."],
  [/^(blocks\.\d+)\.mlp\.(?:fc1_x|w2)\./, "$1.mlp.up."],
  [/^(blocks\.\d+)\.mlp\.w12\./, "$1.mlp.fc1."],
  [/^(blocks\.\d+)\.mlp\.w3\./, "$1.mlp.fc2."],
  [/^(blocks\.\d+)\.mlp\.ffn_ln\./, "$1.mlp.norm."],
  [/^rope\.(?:bands|t_x|t_y|periods|pos_embed_cached)$/, ""],
  [/^embeds\.(cls_token|reg_token|pos_embed)$/, "$1"],
  [/^embeds\.pos_embed_([xy])$/, "pos_embed.$1"],
  [/^embeds\.proj\.weight$/, "patch_embed.linear.weight"],
  [/^embeds\.proj\.bias$/, "patch_embed.proj.bias"],
  [/^head\.(?:fc|proj|1)\.(weight|bias)$/, "head.$1"],
  [/^head_drop\..*$/, ""],
];

export function fromTimm(stored: Stored): Stored {
  // DINOv2's own files hold their blocks in chunks: blocks.CHUNK.NUMBER.
  const chunked = [...stored.keys()].some((name) => /^blocks\.\d+\.\d+\.norm1\./.test(name));
  const flat = chunked ? rename(stored, [[/^blocks\.\d+\.(\d+)\./, "blocks.$1."]]) : stored;
  return rename(flat, RULES);
}

/**
 * Facts that follow from an architecture's name and not from its tensors. The widths of heads are listed by model size.
 */
interface Said {
  headDim?: number;
  heads?: number;
  eps?: number;
  activation?: Activation;
  pooling?: Pooling;
  rope?: RopeRule;
  poolHeads?: number;
  resampling?: Resampling;
}

const EVA_ROPE: RopeRule = {
  grid: "index",
  temperature: 10000,
  offset: 0,
  reference: [16, 16],
  columnsFirst: false,
  half: false,
};
const PE_ROPE: RopeRule = { ...EVA_ROPE, offset: 1, columnsFirst: true };
const DINOV3_ROPE: RopeRule = { grid: "centred", temperature: 100, offset: 0, columnsFirst: false, half: true };

const CUT_FROM_SQUARE: Resampling = { filter: "bilinear", antialias: false, alignCorners: false, fromSquare: true };

/** All entries that fit apply; later ones win. */
const ARCHITECTURES: [RegExp, Said][] = [
  [/_huge_patch1[46]|huge_patch16_radio|deit3_huge/, { headDim: 80 }],
  [/_giant_patch1[46]|eva_giant/, { headDim: 88 }],
  [/_gigantic_patch14/, { headDim: 104 }],
  [/so400m/, { headDim: 72 }],
  [/giantopt/, { headDim: 96 }],
  [/giant_patch14_(reg\d_)?(dinov2|tipsv2)/, { headDim: 64 }],
  [/pe_\w+_gigantic/, { headDim: 96 }],
  [/vit_base_patch16_gap_224/, { headDim: 48 }],
  [/vit_7b_patch16_dinov3/, { headDim: 128 }],
  [/giant_patch16_lingbot/, { headDim: 64 }],
  [/^test_vit/, { headDim: 32 }],
  [/_clip_/, { eps: 1e-5 }],
  [/^eva_giant_patch14_clip/, { eps: 1e-6 }],
  [/quickgelu/, { activation: "quick_gelu" }],
  [
    /(giantopt_patch16|so400m_patch16|base_patch32)_siglip|large_patch16_siglip_(gap_)?512|^naflexvit_\w+_siglip/,
    { activation: "gelu_tanh" },
  ],
  [/dinov3/, { eps: 1e-5, rope: DINOV3_ROPE, pooling: "mean" }],
  [/lingbot/, { eps: 1e-5, rope: DINOV3_ROPE }],
  [/^eva02_/, { rope: EVA_ROPE }],
  [/_rope_reg\d_gap/, { rope: EVA_ROPE }],
  [/_rope_(ape_)?224/, { rope: { ...EVA_ROPE, temperature: 100, reference: undefined, columnsFirst: true } }],
  [/_pe_(core|lang|spatial)_/, { eps: 1e-5, rope: PE_ROPE, poolHeads: 8 }],
  [/_pe_\w+_gigantic/, { rope: { ...PE_ROPE, offset: 0 } }],
  [/_pe_core_\w+_224/, { rope: { ...PE_ROPE, reference: [14, 14] } }],
  [/_pe_core_(tiny|small|large)/, { rope: { ...PE_ROPE, reference: [24, 24] } }],
  [/_pe_(lang|spatial)_(?!gigantic)/, { pooling: "mean", rope: { ...PE_ROPE, reference: [32, 32] } }],
  [/_pe_\w+_gigantic/, { rope: { ...PE_ROPE, offset: 0, reference: [32, 32] } }],
  [/giant_patch16_radio/, { headDim: 64 }],
  [/^naflexvit_\w+_siglip/, { resampling: { filter: "bilinear", antialias: true, alignCorners: false } }],
  [
    /^naflexvit_\w+_par_/,
    { resampling: { filter: "bicubic", antialias: true, alignCorners: false, fromSquare: true } },
  ],
  [/^naflexvit_\w+_(parfac|radio)_/, { resampling: CUT_FROM_SQUARE }],
  [/^naflexvit_(base|huge)\w+_radio_v3/, { resampling: { ...CUT_FROM_SQUARE, alignCorners: true } }],
  [/_pe_(lang|spatial)_gigantic/, { pooling: "mean" }],
];

/** Arguments whose effect follows from the tensors, and those that affect training only. */
const SEEN = new Set(
  (
    "img_size patch_size in_chans num_classes embed_dim depth mlp_ratio qkv_bias qkv_fused proj_bias qk_norm class_token reg_tokens " +
    "num_reg_tokens no_embed_class pos_embed init_values pre_norm use_pre_transformer_norm use_post_transformer_norm final_norm fc_norm use_fc_norm " +
    "drop_rate drop_path_rate pos_drop_rate patch_drop_rate proj_drop_rate attn_drop_rate weight_init fix_init head_init_scale " +
    "dynamic_img_size dynamic_img_pad dynamic_size strict_img_size use_abs_pos_emb use_rel_pos_bias use_shared_rel_pos_bias class_token " +
    "swiglu_mlp scale_mlp rel_pos_dim shared_rel_pos attn_type distilled pretrained features_only scriptable exportable"
  ).split(" "),
);
/** Arguments that `describeTimm` reads. */
const FOLLOWED = new Set(
  (
    "num_heads act_layer norm_layer global_pool rope_temperature rope_grid_offset rope_grid_indexing rope_rotate_half rope_type " +
    "use_rot_pos_emb ref_feat_shape attn_pool_num_heads pool_type mlp_layer pool_include_prefix"
  ).split(" "),
);

const GLOBAL_POOL: Record<string, Pooling> = { token: "class", avg: "mean", map: "map" };

/** @param config timm's config.json; {} where there is none */
export function describeTimm(config: Json, weights: Weights, source: string): Description {
  const assumed: string[] = [];
  refusePrefixPooling(config, weights, source);
  const name = typeof config.architecture === "string" ? config.architecture.split(".")[0] : "";
  const args = (config.model_args ?? {}) as Json;
  refuseArguments(args, source);
  const said: Said = Object.assign(
    {},
    ...ARCHITECTURES.filter(([pattern]) => pattern.test(name)).map(([, fact]) => fact),
  );
  const embedDim = widthOf(weights);
  const preNorm = weights.has("norm_pre.weight");
  if (!name) {
    assumed.push("timm's standard ViT where the tensors leave it open (config.json)");
    if (preNorm) assumed.push("exact GELU; OpenAI's CLIP has quick_gelu (config.json)");
    refuseHiddenRope(weights, source);
  }
  const eps = epsOf(args.norm_layer, config.layer_norm_eps, source) ?? said.eps ?? (!name && preNorm ? 1e-5 : 1e-6);
  if (!name && config.layer_norm_eps === undefined) assumed.push(`LayerNorm eps ${eps} (timm's; --eps)`);
  const isGated = weights.has("blocks.0.mlp.gate.weight");
  const isFused = !isGated && hasFusedGate(weights);
  const act = args.act_layer ?? config.hidden_act;
  const ownActivation = act ? readActivation(act, "act_layer", source) : (said.activation ?? "gelu");
  const stated = args.num_heads ?? config.num_attention_heads ?? undefined;
  const heads =
    (stated === undefined ? undefined : readNumber(stated, "num_heads", source)) ??
    said.heads ??
    (name ? embedDim / (said.headDim ?? 64) : undefined);
  const cfg = (config.pretrained_cfg ?? config) as Json;
  const input = cfg.input_size as number[] | undefined;
  return {
    family: name || "timm's ViT",
    layerNormEps: eps,
    depth: args.depth ?? config.num_hidden_layers,
    heads,
    activation: gateActivation(isGated, isFused, name, args, ownActivation, source),
    pooling: poolingOf(config, args, said, weights, source),
    imageSize: readSize(args.img_size ?? config.image_size) ?? (input?.length === 3 ? [input[1], input[2]] : undefined),
    rope: ropeOf(args, said, weights, source),
    resampling: said.resampling,
    poolHeads: (args.attn_pool_num_heads as number | undefined) ?? said.poolHeads ?? heads,
    poolActivation: ownActivation,
    scores: readScores(config, source),
    assumed,
  };
}

function widthOf(weights: Weights): number {
  const norm = ["blocks.0.norm1.weight", "blocks.0.attns.0.norm.weight"].find((name) => weights.has(name));
  if (norm) return weights.shape(norm, 1)[0];
  throw weights.fault(
    'tensor "blocks.0.norm1.weight" is missing; expected timm, Hugging Face, torchvision or CLIP names.',
  );
}

/** EVA's gates are SiLU, whatever act_layer says. ViT's packed gates follow it; where they are first is not in the tensors. */
function gateActivation(
  isGated: boolean,
  isFused: boolean,
  name: string,
  args: Json,
  own: Activation,
  source: string,
): Activation {
  if (!isGated && !isFused) return own;
  if (isFused && "mlp_layer" in args)
    throw new SlimViTError(
      "unsupported",
      `${source}: model_args.mlp_layer is ${JSON.stringify(args.mlp_layer)}; import does not support a gated MLP of a custom layer.`,
    );
  return isGated || !name || /^eva02|giant_patch14_(reg\d_)?(dinov2|tipsv2)/.test(name) ? "silu" : own;
}

function refuseArguments(args: Json, source: string): void {
  const unknown = Object.keys(args).find((key) => !SEEN.has(key) && !FOLLOWED.has(key));
  if (unknown === undefined) return;
  throw new SlimViTError(
    "unsupported",
    `${source}: config.json's model_args has ${unknown} ${JSON.stringify(args[unknown])}, which import does not support; it may change what the network computes.`,
  );
}

/** Perception Encoder, and pool_include_prefix: attention pooling that also reads the class token or registers. */
function refusePrefixPooling(config: Json, weights: Weights, source: string): void {
  const name = String(config.architecture ?? "");
  if (!weights.has("cls_token") && !weights.has("reg_token")) return;
  const named =
    /_pe_core_|^test_vit3/.test(name) || (config.model_args as Json | undefined)?.pool_include_prefix === true;
  const seen = !name && weights.has("attn_pool.latent") && weights.has("cls_token");
  if (!named && !seen) return;
  throw new SlimViTError(
    "unsupported",
    `${source}: ${name || "this ViT"} pools its class token and registers together with its patches; SlimViT's attention pooling reads patches alone.`,
  );
}

/** EVA's names without positions: the rotation is in no tensor. */
function refuseHiddenRope(weights: Weights, source: string): void {
  if (weights.names().some((name) => /(^|\.)rel_(table|mlp)|^rope\.freqs$/.test(name))) return;
  if (weights.has("pos_embed") && !weights.has("blocks.0.attn.q.bias")) return;
  throw new SlimViTError(
    "bad-model",
    `${source}: looks like EVA-02 or DINOv3, whose rotary positions are in no tensor; put timm's config.json beside it.`,
  );
}

/** A config of transformers may lie beside timm's names. */
function epsOf(normLayer: unknown, stated: unknown, source: string): number | undefined {
  if (stated !== undefined) return readNumber(stated, "layer_norm_eps", source);
  if (normLayer === undefined || normLayer === null) return undefined;
  if (normLayer === "layernorm") return 1e-6;
  throw new SlimViTError(
    "unsupported",
    `${source}: model_args.norm_layer is ${JSON.stringify(normLayer)}; expected "layernorm".`,
  );
}

function poolingOf(config: Json, args: Json, said: Said, weights: Weights, source: string): Pooling {
  const value = (args.global_pool ?? config.global_pool) as string | undefined;
  if (value !== undefined && value !== null && value !== "") {
    if (Object.hasOwn(GLOBAL_POOL, value)) return GLOBAL_POOL[value];
    throw new SlimViTError(
      "unsupported",
      `${source}: global_pool is ${JSON.stringify(value)}; expected "token", "avg" or "map".`,
    );
  }
  if (weights.has("attn_pool.latent")) return "map";
  if (said.pooling) return said.pooling;
  return weights.has("fc_norm.weight") || !weights.has("cls_token") ? "mean" : "class";
}

function ropeOf(args: Json, said: Said, weights: Weights, source: string): RopeRule | undefined {
  if (weights.has("rope.freqs")) return { ...EVA_ROPE, reference: undefined, columnsFirst: true };
  const type = args.rope_type as string | undefined;
  if (args.use_rot_pos_emb === false) return undefined;
  let rule = said.rope ?? (args.use_rot_pos_emb ? { ...EVA_ROPE, reference: undefined } : undefined);
  if (!rule) return undefined;
  if (type === "dinov3") rule = { ...DINOV3_ROPE };
  else if (type !== undefined && type !== "cat")
    throw new SlimViTError(
      "unsupported",
      `${source}: model_args.rope_type is ${JSON.stringify(type)}; expected "cat", "dinov3" or "mixed".`,
    );
  rule = { ...rule };
  if (args.rope_temperature !== undefined)
    rule.temperature = readNumber(args.rope_temperature, "rope_temperature", source);
  if (args.rope_grid_offset !== undefined) rule.offset = readNumber(args.rope_grid_offset, "rope_grid_offset", source);
  if (args.rope_grid_indexing !== undefined) rule.columnsFirst = args.rope_grid_indexing === "xy";
  if (args.rope_rotate_half !== undefined) rule.half = args.rope_rotate_half === true;
  if (args.ref_feat_shape !== undefined) rule.reference = readSize(args.ref_feat_shape);
  return rule;
}
