import { data, ENGINE_OPTIONS, SEED } from "./shared.ts";
import { flag, optional } from "./spec.ts";
import { count, path } from "./values.ts";

export const EVAL = {
  ...ENGINE_OPTIONS,
  ...data("all"),
  limit: optional("--limit <n>", "measure on n pictures spread over the data", count),
  against: optional("--against <model>", "compare with another model on the same pictures", path),
  record: flag("--record", "write the figures into the model's manifest and card"),
  seed: SEED,
};
