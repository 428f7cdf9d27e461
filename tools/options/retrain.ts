import { RECIPE_DEFAULTS } from "../training/recipe.ts";
import { IMAGE_SIZE, WEIGHT_STEP } from "./shared.ts";
import { flag, optional } from "./spec.ts";
import { trainOptions } from "./training.ts";
import { positive } from "./values.ts";

const KEEP_BEST = flag(
  "--keep-best",
  "end with the weights that were most accurate on the val pictures, not with the last ones",
);

export const RETRAIN = {
  ...trainOptions(RECIPE_DEFAULTS),
  imageSize: IMAGE_SIZE,
  keepBest: KEEP_BEST,
  ghost: flag(
    "--ghost",
    "start with a key in place of the removed tokens, gone by half time: no jump after the search",
  ),
  weightStep: WEIGHT_STEP,
};

export const FINETUNE = {
  ...trainOptions({ ...RECIPE_DEFAULTS, alpha: 0.5 }),
  lrHead: optional("--lr-head <rate>", "AdamW's rate for the new head; default ten times --lr", positive),
  imageSize: IMAGE_SIZE,
  keepBest: KEEP_BEST,
};
