/** Recognises which library a checkpoint's tensor names belong to, and removes prefixes that training scripts add. */
import type { Stored, Weights } from "./weights.ts";

export type Rule = [pattern: RegExp, replacement: string];

/**
 * Prefixes that wrappers add to every name: DistributedDataParallel, torch.compile, Lightning, averaged weights, timm
 * in transformers.
 */
const WRAPPERS = /^(module|_orig_mod|model|backbone|net|network|state_dict|timm_model|visual\.trunk)\./;
const AVERAGED = /^(ema|model_ema|ema_model|module_ema|teacher|averaged_model)\./;

/**
 * Removes wrappers' prefixes. Of a file with both trained and averaged weights, the averaged ones are taken, and
 * `assumed` says so.
 */
export function unwrap(stored: Stored, assumed: string[]): Stored {
  let chosen = [...stored];
  const averaged = chosen.filter(([name]) => AVERAGED.test(bare(name)));
  if (averaged.length) {
    if (averaged.length < chosen.length)
      assumed.push(
        `the averaged weights ("${averaged[0][0]}" and so on), not the ${chosen.length - averaged.length} other tensors`,
      );
    chosen = averaged.map(([name, tensor]) => [bare(name).replace(AVERAGED, ""), tensor]);
  }
  const out: Stored = new Map();
  for (const [name, tensor] of chosen) {
    const short = bare(name);
    out.set(out.has(short) ? name : short, tensor);
  }
  return out;
}

function bare(name: string): string {
  let short = name;
  while (WRAPPERS.test(short)) short = short.replace(WRAPPERS, "");
  return short;
}

export type Naming = "timm" | "huggingFace" | "torchvision" | "openClip";

/** Recognises a naming by a tensor name that only this naming has. */
export function namingOf(stored: Stored): Naming {
  const names = [...stored.keys()];
  const some = (pattern: RegExp) => names.some((name) => pattern.test(name));
  if (some(/^(visual\.)?transformer\.resblocks\./)) return "openClip";
  if (some(/^encoder\.layers\.encoder_layer_\d/) || some(/^conv_proj\./)) return "torchvision";
  if (some(/(^|\.)embeddings\.(cls_token|class_embedding|patch_embedding)/)) return "huggingFace";
  if (some(/(^|\.)(encoder\.)?layers?\.\d+\.(attention|self_attn|layernorm_before)\./)) return "huggingFace";
  return "timm";
}

/**
 * The first rule that fits renames a tensor. A name that fits no rule stays, and one that a rule makes empty is left
 * out.
 */
export function rename(stored: Stored, rules: Rule[]): Stored {
  const out: Stored = new Map();
  for (const [name, tensor] of stored) {
    const rule = rules.find(([pattern]) => pattern.test(name));
    const renamed = rule ? name.replace(rule[0], rule[1]) : name;
    if (renamed) out.set(renamed, tensor);
  }
  return out;
}

/** torchvision.models.vit_*; its q, k and v are one linear already. */
export const TORCHVISION: Rule[] = [
  [/^class_token$/, "cls_token"],
  [/^conv_proj\./, "patch_embed.proj."],
  [/^encoder\.pos_embedding$/, "pos_embed"],
  [/^encoder\.layers\.encoder_layer_(\d+)\.ln_([12])\./, "blocks.$1.norm$2."],
  [/^encoder\.layers\.encoder_layer_(\d+)\.self_attention\.in_proj_/, "blocks.$1.attn.qkv."],
  [/^encoder\.layers\.encoder_layer_(\d+)\.self_attention\.out_proj\./, "blocks.$1.attn.proj."],
  [/^encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:0|linear_1)\./, "blocks.$1.mlp.fc1."],
  [/^encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:3|linear_2)\./, "blocks.$1.mlp.fc2."],
  [/^encoder\.ln\./, "norm."],
  [/^heads\.(?:head|0)\./, "head."],
];

/** OpenAI's CLIP and OpenCLIP; the text tower's tensors are left out. */
export const OPEN_CLIP: Rule[] = [
  [/^(?:visual\.)?class_embedding$/, "cls_token"],
  [/^(?:visual\.)?conv1\./, "patch_embed.proj."],
  [/^visual\.positional_embedding$/, "pos_embed"],
  [/^visual\.ln_pre\./, "norm_pre."],
  [/^visual\.ln_post\./, "norm."],
  [/^visual\.proj$/, "projection.transposed"],
  [/^visual\.transformer\.resblocks\.(\d+)\.ln_([12])\./, "blocks.$1.norm$2."],
  [/^visual\.transformer\.resblocks\.(\d+)\.ls_([12])\./, "blocks.$1.ls$2."],
  [/^visual\.transformer\.resblocks\.(\d+)\.attn\.in_proj_/, "blocks.$1.attn.qkv."],
  [/^visual\.transformer\.resblocks\.(\d+)\.attn\.out_proj\./, "blocks.$1.attn.proj."],
  [/^visual\.transformer\.resblocks\.(\d+)\.mlp\.c_fc\./, "blocks.$1.mlp.fc1."],
  [/^visual\.transformer\.resblocks\.(\d+)\.mlp\.c_proj\./, "blocks.$1.mlp.fc2."],
  [
    /^(?:text\.)?(?:transformer\.|token_embedding\.|ln_final\.|positional_embedding$|text_projection$|attn_mask$).*/,
    "",
  ],
  [/^(?:input_resolution|context_length|vocab_size)$/, ""],
];

/** An MLP whose fc1 makes twice what fc2 takes: a SwiGLU whose gates and values are one linear, gates first. */
export function hasFusedGate(weights: Weights): boolean {
  const [first, second] = ["blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc2.weight"];
  if (!weights.has(first) || !weights.has(second)) return false;
  return weights.shape(first, 2)[0] === 2 * weights.shape(second, 2)[1];
}
