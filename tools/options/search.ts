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
  masks: choice(
    "--masks <mode>",
    "what an attention mask stands for: a channel of one head, a channel of all heads (uniform), or a head",
    MASK_MODES,
    DEFAULTS.masks,
  ),
  wAttn: withDefault(
    "--w-attn <w>",
    "weight of the attention masks' L1 term; 0 freezes them",
    nonNegative,
    DEFAULTS.wAttn,
  ),
  wMlp: withDefault("--w-mlp <w>", "weight of the MLP masks' L1 term; 0 freezes them", nonNegative, DEFAULTS.wMlp),
  wPatch: withDefault(
    "--w-patch <w>",
    "weight of the patch masks' L1 term; 0 freezes them",
    nonNegative,
    DEFAULTS.wPatch,
  ),
  lrMask: withDefault("--lr-mask <rate>", "AdamW's learning rate of the masks", positive, DEFAULTS.lrMask),
  lrMaskPatch: withDefault(
    "--lr-mask-patch <rate>",
    "AdamW's learning rate of the patch masks, which start where tanh is flat",
    positive,
    DEFAULTS.lrMaskPatch,
  ),
  patchForm: choice(
    "--patch-form <form>",
    "how patch masks act: on the norms' outputs as tanh ζ (gate, as in the paper), or on attention scores",
    PATCH_FORMS,
    DEFAULTS.patchForm,
  ),
  tokens: choice(
    "--tokens <rule>",
    "with --patch-form score: how keep-lists are nested, see slimvit compress",
    TOKEN_RULES,
    "union",
  ),
  zetaDecay: flag("--zeta-decay", "apply weight decay to masks too, as in the paper"),
  masksOnly: flag("--masks-only", "train only masks and norms"),
};
