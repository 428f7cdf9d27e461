/** The stages that a recipe has a section for, with the options of each. */
import { COMPRESS } from "./compress.ts";
import { EVAL } from "./eval.ts";
import { EXPORT } from "./export.ts";
import { IMPORT } from "./import.ts";
import { FINETUNE, RETRAIN } from "./retrain.ts";
import { SEARCH } from "./search.ts";
import type { OptionsOf } from "./spec.ts";

export const STAGE_OPTIONS = {
  import: IMPORT,
  finetune: FINETUNE,
  search: SEARCH,
  compress: COMPRESS,
  retrain: RETRAIN,
  export: EXPORT,
  eval: EVAL,
};

export type StageName = keyof typeof STAGE_OPTIONS;
export type StageOptions<S extends StageName> = OptionsOf<(typeof STAGE_OPTIONS)[S]>;

export const STAGES = Object.keys(STAGE_OPTIONS) as StageName[];
