import { FORCE, NAME, OUT, SEED } from "../options/shared.ts";
import { optional } from "../options/spec.ts";
import { pairList, positive, share } from "../options/values.ts";
import { MODEL, simpleCommand } from "./command.ts";

const OPTIONS = {
  out: OUT,
  ratio: optional("--ratio <share>", "share of the model's MACs to keep; which blocks merge is chosen", share),
  merge: optional(
    "--merge <list>",
    "BLOCK:PAIRS, e.g. 4:12,5:12: so many pairs of patches merge in that block",
    pairList,
  ),
  latencyMs: optional(
    "--latency-ms <ms>",
    "as few merges as it takes for this time here, measured in Node on one thread",
    positive,
  ),
  name: NAME,
  force: FORCE,
  seed: SEED,
};

export const mergeCommand = () =>
  simpleCommand(
    "merge",
    "tokens that merge by what is in the picture, without data",
    MODEL,
    OPTIONS,
    async (source, options) => {
      const { mergeModel } = await import("../masks/merge.ts");
      return mergeModel(source, options);
    },
  );
