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
    "after a search with --patch-form gate: start with a key that stands for the removed tokens and fades out by the middle of the training",
  ),
  weightStep: WEIGHT_STEP,
};

export const FINETUNE = {
  ...trainOptions({ ...RECIPE_DEFAULTS, alpha: 0.5 }),
  lrHead: optional("--lr-head <rate>", "AdamW's learning rate of the new head; default ten times --lr", positive),
  imageSize: IMAGE_SIZE,
  keepBest: KEEP_BEST,
};
