import { SPLITS } from "../data/splits.ts";
import { DATA_HELP, DTYPES, FORCE, SEED } from "../options/shared.ts";
import { choice, flag, optional } from "../options/spec.ts";
import { count, list, path, paths, positive, share, text } from "../options/values.ts";
import { BACKENDS } from "../training/backend.ts";
import { simpleCommand } from "./command.ts";

/** What `slim` takes beside a recipe file; all of it may be in the recipe as well. */
const OPTIONS = {
  data: optional("--data <source>", DATA_HELP, paths),
  out: optional("-o, --out <folder>", "output folder", path),
  macs: optional("--macs <share>", "share of the dense MACs, split over heads, MLPs and tokens by importance", share),
  params: optional("--params <share>", "instead: share of the dense parameters", share),
  split: choice("--split <split>", "which part of the data trains", SPLITS),
  teacher: optional<string | false>(
    "--teacher <model>",
    "distilled in search and retrain; default the model that the search starts from",
    path,
  ),
  epochs: optional("--epochs <n>", "of each training stage", positive),
  batch: optional("--batch <n>", "pictures a step", count),
  backend: choice("--backend <name>", "TensorFlow.js backend", BACKENDS),
  precision: choice("--precision <p>", "rounding of matrix products", ["f32", "bf16"]),
  dtype: optional("--dtype <list>", "weights to ship; default f32,int8", list(DTYPES)),
  onnx: flag("--onnx", "write a standalone model.onnx too"),
  finetune: flag("--finetune", "new head for the data's classes first; default where they are not the model's"),
  set: optional(
    "--set <stage.option=value>",
    "any stage's option, e.g. search.lr-mask=1e-3; may be given again",
    (value, before: string[] = []) => [...before, text(value)],
  ),
  stages: optional("--stages <folder>", "where stages are kept; default the output folder's name with .stages", path),
  force: FORCE,
  seed: SEED,
};

const SOURCE: [string, string] = ["<source>", "model folder, or a recipe: a .yaml file"];

export const slimCommand = () =>
  simpleCommand(
    "slim",
    "finetune, search, compress, retrain, export and eval in one resumable run",
    SOURCE,
    OPTIONS,
    async (source, options) => {
      const { slim } = await import("../recipes/slim.ts");
      return slim(source, options);
    },
  )
    .option("--no-teacher", "learn from the labels alone")
    .option("--no-finetune", "keep the model's classes");
