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
  ...optionalData("pictures that rank units, choose variants, train them and measure their accuracy", "val"),
  budgets: optional(
    "--budgets <list>",
    "shares of the model's MACs, one variant for each, e.g. 1,0.8,0.6,0.4; default the variants of MODEL",
    shares,
  ),
  sizes: optional("--sizes <list>", "picture sizes that variants may have, in pixels, separated by commas", counts),
  epochs: optional(
    "--epochs <n>",
    "train all variants together for this many passes over the train split; may be fractional; default no training",
    positive,
  ),
  lrOwn: optional(
    "--lr-own <rate>",
    "AdamW's learning rate of the norms and biases that each variant has for itself; default ten times --lr",
    positive,
  ),
  dtype: withDefault("--dtype <list>", `of ${DTYPES.join(", ")}, separated by commas`, list(DTYPES), ["int8"]),
  weightStep: WEIGHT_STEP,
  name: NAME,
};

/** @throws SlimViTError `bad-option` where there is nothing to train on */
export function readElasticOptions(options: OptionsOf<typeof ELASTIC>): ElasticOptions {
  const { out, budgets, sizes, epochs, dtype, weightStep, data, split, unlabelled, name, force, ...recipe } = options;
  const common = { out, budgets, sizes, dtype, weightStep, data, split, unlabelled, name, force };
  if (epochs === undefined) return common;
  if (!data?.length) throw new SlimViTError("bad-option", "elastic: --epochs needs --data to train on.");
  const { json: __, ...given } = recipe;
  return { ...common, training: { ...given, epochs, data, split: "train", unlabelled, out, force } };
}
