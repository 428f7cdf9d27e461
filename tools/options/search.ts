import { MASK_MODES, type MaskMode, PATCH_FORMS, type PatchForm, type TokenRule } from "../masks/masks.ts";
import { RECIPE_DEFAULTS } from "../training/recipe.ts";
import { choice, flag, withDefault } from "./spec.ts";
import { trainOptions } from "./training.ts";
import { nonNegative, positive } from "./values.ts";

export const TOKEN_RULES: TokenRule[] = ["union", "intersect"];

/**
 * The reference's loss weights for DeiT-S; a weight of 0 freezes its family. Patch masks start where tanh is flat (at 3) and
 * have further to go, so they move faster.
 */
const DEFAULTS = {
  masks: "channel" as MaskMode,
  wAttn: 2e-4,
  wMlp: 5e-5,
  wPatch: 1e-4,
  lrMask: 2e-3,
  lrMaskPatch: 1e-2,
  patchForm: "gate" as PatchForm,
};

export const SEARCH = {
  ...trainOptions({ ...RECIPE_DEFAULTS, weightDecay: 1e-3, schedule: "constant" }),
  masks: choice("--masks <mode>", "what an attention mask is shared by", MASK_MODES, DEFAULTS.masks),
  wAttn: withDefault("--w-attn <w>", "weight of the attention masks' L1; 0 freezes them", nonNegative, DEFAULTS.wAttn),
  wMlp: withDefault("--w-mlp <w>", "weight of the MLP masks' L1; 0 freezes them", nonNegative, DEFAULTS.wMlp),
  wPatch: withDefault("--w-patch <w>", "weight of the patch masks' L1; 0 freezes them", nonNegative, DEFAULTS.wPatch),
  lrMask: withDefault("--lr-mask <rate>", "AdamW's rate for the masks", positive, DEFAULTS.lrMask),
  lrMaskPatch: withDefault(
    "--lr-mask-patch <rate>",
    "AdamW's rate for the patch masks, which start where tanh is flat",
    positive,
    DEFAULTS.lrMaskPatch,
  ),
  patchForm: choice(
    "--patch-form <form>",
    "how patch masks act: tanh ζ on the norms' outputs, as the reference, or on attention scores",
    PATCH_FORMS,
    DEFAULTS.patchForm,
  ),
  tokens: choice("--tokens <rule>", "how the score form nests keep-lists", TOKEN_RULES, "union"),
  zetaDecay: flag("--zeta-decay", "decay masks like weights, as the reference does"),
  masksOnly: flag("--masks-only", "train masks and norms, keep the other weights"),
};
