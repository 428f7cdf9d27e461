import { FORCE, NAME, OUT, SEED } from "../options/shared.ts";
import { optional } from "../options/spec.ts";
import { pairList, positive, share } from "../options/values.ts";
import { MODEL, simpleCommand } from "./command.ts";

const OPTIONS = {
  out: OUT,
  ratio: optional("--ratio <share>", "share of the model's MACs to keep; the command chooses the blocks", share),
  merge: optional(
    "--merge <list>",
    "BLOCK:PAIRS, e.g. 4:12,5:12: pairs of patches that merge in each block, counted from 0",
    pairList,
  ),
  latencyMs: optional(
    "--latency-ms <ms>",
    "as few merges as reach this latency here, measured in Node on one thread",
    positive,
  ),
  name: NAME,
  force: FORCE,
  seed: SEED,
};

export const mergeCommand = () =>
  simpleCommand("merge", "merge similar tokens, without data or training", MODEL, OPTIONS, async (source, options) => {
    const { mergeModel } = await import("../masks/merge.ts");
    return mergeModel(source, options);
  });
