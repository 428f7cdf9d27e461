/** Options that several commands have, each described once. */
import type { EngineName } from "../../src/engines/engine.ts";
import type { WeightsDtype } from "../../src/format/model.ts";
import { SPLITS, type Split } from "../data/splits.ts";
import { choice, flag, optional, required } from "./spec.ts";
import { natural, path, paths, positive, size, text, threads } from "./values.ts";

export const ENGINES: (EngineName | "auto")[] = ["auto", "simd", "onnx-wasm", "reference"];
export const DTYPES: WeightsDtype[] = ["f32", "f16", "int8"];

export const OUT = required("-o, --out <folder>", "output folder", path);
export const NAME = optional("--name <name>", "name of the model", text);
export const FORCE = flag("--force", "replace the output folder; only what SlimViT wrote is replaced");
export const SEED = optional("--seed <n>", "seed of all random numbers", natural);

export const IMAGE_SIZE = optional(
  "--image-size <size>",
  "SIDE or HEIGHTxWIDTH in pixels; position embeddings, keep-lists and merges are resampled",
  size,
);

export const WEIGHT_STEP = optional(
  "--weight-step <s>",
  "round int8 weights to multiples of s root mean squares of a row; a larger s makes a smaller file",
  positive,
);

export const DATA_HELP =
  "folder, zip or tar with one subfolder for each class, or a table (.csv, .tsv: path,label); may be given more than once";

/** The data that a command cannot do without. */
export const data = (split: Split) => ({
  data: required("--data <source>", DATA_HELP, paths),
  split: choice("--split <split>", "which part of the data", SPLITS, split),
});

/** @param use what the data is for, where the command does without it too */
export const optionalData = (use: string, split: Split) => ({
  data: optional("--data <source>", `${use}: ${DATA_HELP}`, paths),
  split: choice("--split <split>", "which part of the data", SPLITS, split),
});

export const ENGINE_OPTIONS = {
  engine: choice("--engine <name>", "the runtime's engine", ENGINES, "auto"),
  dtype: choice("--dtype <dtype>", "weights to use; default the most exact", DTYPES),
  threads: optional("--threads <n>", "threads of the engine; default the number of cores, at most 4", threads),
};
