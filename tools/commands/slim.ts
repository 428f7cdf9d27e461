import { SlimViTError } from "../../src/errors.ts";
import { DATA_HELP, FORCE, SEED } from "../options/shared.ts";
import { flag, type OptionsOf, optional, withDefault } from "../options/spec.ts";
import { bytes, nonNegative, path, paths, positive, share, text } from "../options/values.ts";
import { trainChoice } from "../slim/clock.ts";
import { simpleCommand } from "./command.ts";

const OPTIONS = {
  data: optional("--data <source>", DATA_HELP, paths),
  out: optional("-o, --out <folder>", "output folder", path),
  loseAtMost: optional(
    "--lose-at-most <points>",
    "find the smallest model that loses at most this many points of top-1 on val",
    nonNegative,
  ),
  latencyMs: optional(
    "--latency-ms <ms>",
    "instead: find the most accurate model with at most this latency here, in Node with one thread",
    positive,
  ),
  macs: optional("--macs <share>", "instead: find the most accurate model with at most this share of the MACs", share),
  bytes: optional(
    "--bytes <size>",
    "instead: find the most accurate model with a file of at most this size, such as 3MB",
    bytes,
  ),
  unlabelled: flag("--unlabelled", "ignore labels: measure how often the best class is the dense model's"),
  train: withDefault(
    "--train <time>",
    "auto, no, or the longest training time, such as 2h or 30m",
    trainChoice,
    "auto",
  ),
  elastic: flag(
    "--elastic",
    "make one folder of the model and its smaller and larger neighbours as variants; widths stay",
  ),
  set: optional(
    "--set <stage.option=value>",
    "with a recipe: set an option of a stage, e.g. search.lr-mask=1e-3; may be given more than once",
    (value, before: string[] = []) => [...before, text(value)],
  ),
  stages: optional(
    "--stages <folder>",
    "folder for measurements and trained models; default the output folder's name with .stages",
    path,
  ),
  force: FORCE,
  seed: SEED,
};

type Options = OptionsOf<typeof OPTIONS>;

const SOURCE: [string, string] = ["<source>", "model folder, or a .yaml recipe of fixed stages"];

export const slimCommand = () =>
  simpleCommand("slim", "find the right small model for your pictures", SOURCE, OPTIONS, async (source, options) =>
    /\.ya?ml$/i.test(source) ? runFixed(source, options) : findSmall(source, options),
  );

async function findSmall(source: string, { set, ...options }: Options) {
  const { data, out } = options;
  if (set)
    throw new SlimViTError(
      "bad-option",
      "slim: --set works with a recipe file only. For a model folder, slim decides by itself.",
    );
  if (!data?.length) throw new SlimViTError("bad-option", "slim: give --data, your pictures.");
  if (out === undefined) throw new SlimViTError("bad-option", "slim: give -o, the output folder.");
  const { slimModel } = await import("../slim/slim.ts");
  return slimModel(source, { ...options, data, out });
}

async function runFixed(source: string, options: Options) {
  const { loseAtMost, latencyMs, bytes, unlabelled, train, elastic, ...flags } = options;
  const decided = {
    "--lose-at-most": loseAtMost,
    "--latency-ms": latencyMs,
    "--bytes": bytes,
    "--unlabelled": unlabelled,
    "--elastic": elastic,
  };
  const given =
    Object.entries(decided).find(([, value]) => value !== undefined)?.[0] ?? (train === "auto" ? undefined : "--train");
  if (given)
    throw new SlimViTError(
      "bad-option",
      `slim: ${given} works with a model folder only. A recipe sets the options of its stages.`,
    );
  const { runFile } = await import("../recipes/runRecipe.ts");
  return runFile(source, flags);
}
