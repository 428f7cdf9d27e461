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
    "the smallest model that loses so many points of top-1 on val",
    nonNegative,
  ),
  latencyMs: optional(
    "--latency-ms <ms>",
    "instead: the most accurate one that takes so long here, one thread in Node",
    positive,
  ),
  macs: optional("--macs <share>", "instead: the most accurate one with this share of the MACs", share),
  bytes: optional("--bytes <size>", "instead: the most accurate one of this size, such as 3MB", bytes),
  unlabelled: flag("--unlabelled", "labels are not looked at: points are of agreement with the model's best class"),
  train: withDefault("--train <time>", "auto, no, or how long at most, such as 2h or 30m", trainChoice, "auto"),
  elastic: flag(
    "--elastic",
    "one folder with that model and those beside it as variants of one set of weights; widths stay",
  ),
  set: optional(
    "--set <stage.option=value>",
    "of a recipe: any stage's option, e.g. search.lr-mask=1e-3; may be given again",
    (value, before: string[] = []) => [...before, text(value)],
  ),
  stages: optional(
    "--stages <folder>",
    "what was measured and trained; default the output folder's name with .stages",
    path,
  ),
  force: FORCE,
  seed: SEED,
};

type Options = OptionsOf<typeof OPTIONS>;

const SOURCE: [string, string] = ["<source>", "model folder, or a recipe of fixed stages: a .yaml file"];

export const slimCommand = () =>
  simpleCommand(
    "slim",
    "finds the right small model for your pictures by itself",
    SOURCE,
    OPTIONS,
    async (source, options) => (/\.ya?ml$/i.test(source) ? runFixed(source, options) : findSmall(source, options)),
  );

async function findSmall(source: string, { set, ...options }: Options) {
  const { data, out } = options;
  if (set)
    throw new SlimViTError(
      "bad-option",
      "slim: --set is for the stages of a recipe file; slim itself decides on a model folder.",
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
      `slim: ${given} is for a model folder; a recipe says by its stages what is done.`,
    );
  const { runFile } = await import("../recipes/runRecipe.ts");
  return runFile(source, flags);
}
