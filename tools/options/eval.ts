import { SPLITS } from "../data/splits.ts";
import { DATA_HELP, ENGINE_OPTIONS, ENGINES, SEED } from "./shared.ts";
import { choice, flag, optional, required } from "./spec.ts";
import { count, path, paths } from "./values.ts";

export const EVAL = {
  ...ENGINE_OPTIONS,
  engine: choice(
    "--engine <name>",
    "the runtime's engine; webnn runs in a Chromium with WebNN",
    [...ENGINES, "webnn"],
    "auto",
  ),
  data: required("--data <source>", DATA_HELP, paths),
  split: choice("--split <split>", "which part of the data; default test", SPLITS),
  limit: optional("--limit <n>", "measure on n pictures spread over the data", count),
  against: optional("--against <model>", "compare with another model on the same pictures", path),
  record: flag("--record", "write the figures into the model's manifest and card"),
  seed: SEED,
};
