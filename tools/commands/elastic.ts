import { DTYPES, FORCE, NAME, OUT, optionalData, SEED, WEIGHT_STEP } from "../options/shared.ts";
import { optional, required, withDefault } from "../options/spec.ts";
import { counts, list, shares } from "../options/values.ts";
import { MODEL, simpleCommand } from "./command.ts";

const OPTIONS = {
  ...optionalData("pictures to order units by, to choose variants on, and to measure their accuracy", "val"),
  out: OUT,
  budgets: required(
    "--budgets <list>",
    "shares of the model's MACs, a variant for each, e.g. 0.8,0.6,0.4,0.25",
    shares,
  ),
  sizes: optional("--sizes <list>", "sides of the pictures that variants may take, separated by commas", counts),
  dtype: withDefault("--dtype <list>", `of ${DTYPES.join(", ")}, separated by commas`, list(DTYPES), ["int8"]),
  weightStep: WEIGHT_STEP,
  name: NAME,
  force: FORCE,
  seed: SEED,
};

export const elasticCommand = () =>
  simpleCommand(
    "elastic",
    "several variants on one set of weights, of which a page takes what its device can afford",
    MODEL,
    OPTIONS,
    async (source, options) => {
      const { elastic } = await import("../elastic/elastic.ts");
      return elastic(source, options);
    },
  );
