import { SlimViTError } from "../../src/errors.ts";
import type { ElasticOptions } from "../elastic/elastic.ts";
import { RECIPE_DEFAULTS } from "../training/recipe.ts";
import { DTYPES, NAME, optionalData, WEIGHT_STEP } from "./shared.ts";
import { type OptionsOf, optional, withDefault } from "./spec.ts";
import { trainOptions } from "./training.ts";
import { counts, list, positive, shares } from "./values.ts";

const { epochs: _, ...TRAINING } = trainOptions(RECIPE_DEFAULTS);

export const ELASTIC = {
  ...TRAINING,
  ...optionalData("pictures to order units by, to choose variants on, to train on, and to measure accuracy on", "val"),
  budgets: optional(
    "--budgets <list>",
    "shares of the model's MACs, a variant for each, e.g. 1,0.8,0.6,0.4; without them those that MODEL has are trained",
    shares,
  ),
  sizes: optional("--sizes <list>", "sides of the pictures that variants may take, separated by commas", counts),
  epochs: optional(
    "--epochs <n>",
    "train all variants together: passes over the train split, may be fractional; without it nothing is trained",
    positive,
  ),
  lrOwn: optional(
    "--lr-own <rate>",
    "AdamW's rate for what each variant has of its own, norms and biases; default ten times --lr",
    positive,
  ),
  dtype: withDefault("--dtype <list>", `of ${DTYPES.join(", ")}, separated by commas`, list(DTYPES), ["int8"]),
  weightStep: WEIGHT_STEP,
  name: NAME,
};

/** @throws SlimViTError `bad-option` where there is nothing to train on, or nothing to do */
export function readElasticOptions(options: OptionsOf<typeof ELASTIC>): ElasticOptions {
  const { out, budgets, sizes, epochs, dtype, weightStep, data, split, unlabelled, name, force, ...recipe } = options;
  const common = { out, budgets, sizes, dtype, weightStep, data, split, unlabelled, name, force };
  if (epochs === undefined) {
    if (!budgets)
      throw new SlimViTError(
        "bad-option",
        "elastic: give --budgets to choose variants, --epochs to train those that are there, or both.",
      );
    return common;
  }
  if (!data?.length) throw new SlimViTError("bad-option", "elastic: --epochs needs --data to train on.");
  const { json: __, ...given } = recipe;
  return { ...common, training: { ...given, epochs, data, split: "train", unlabelled, out, force } };
}
