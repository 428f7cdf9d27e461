import { FORCE, SEED } from "../options/shared.ts";
import { flag, type OptionsOf, optional, required } from "../options/spec.ts";
import { path, text } from "../options/values.ts";
import { finish, newCommand } from "./command.ts";

const OPTIONS = {
  out: required("-o, --out <folder>", "set.json and the members' folders", path),
  name: optional("--name <name>", "what the set is called; default the output folder's name", text),
  data: optional(
    "--data <name>",
    "accuracy on this data, as slimvit eval --record names it; default what all have",
    text,
  ),
  split: optional("--split <split>", "… and on this split of it", text),
  inPlace: flag("--in-place", "write set.json alone: the models lie in the output folder already"),
  force: FORCE,
  seed: SEED,
};

const SOURCES: [string, string] = ["<models...>", "model folders with a recorded accuracy"];

export const setCommand = () =>
  newCommand(
    "set",
    "models with the same labels → a set, of which a page takes what its device can afford",
    [SOURCES],
    OPTIONS,
  ).action(async (sources: string[], options: OptionsOf<typeof OPTIONS>) => {
    const { makeSet } = await import("../models/set.ts");
    finish(options, makeSet(sources, options));
  });
