import { SlimViTError } from "../../src/errors.ts";
import { DTYPES, SEED } from "../options/shared.ts";
import { choice, flag, type OptionsOf, optional, withDefault } from "../options/spec.ts";
import { count, path, text } from "../options/values.ts";
import { print } from "../shared/terminal.ts";
import { finish, newCommand } from "./command.ts";

const OPTIONS = {
  out: optional("-o, --out <file>", "device.json", path),
  check: flag("--check", "print what is predicted of the models beside what is measured; exit 1 past 10 % of it"),
  shape: optional(
    "--shape <model>",
    "whose dense shape is measured; default the first model's, else DeiT-Ti at 224 px",
    text,
  ),
  engine: choice("--engine <name>", "that tells blocks apart", ["simd", "reference"], "simd"),
  dtype: choice("--dtype <dtype>", "of the weights", DTYPES, "f32"),
  threads: withDefault("--threads <n>", "of the engine", count, 1),
  rounds: withDefault("--rounds <n>", "timed runs of each", count, 30),
  seed: SEED,
};

const SOURCES: [string, string] = ["[models...]", "model folders to hold the tables' prediction against"];

export const profileCommand = () =>
  newCommand("profile", "cost tables of this device, measured in a real headless browser", [SOURCES], OPTIONS).action(
    async (sources: string[], options: OptionsOf<typeof OPTIONS>) => {
      if (!options.out && !options.check)
        throw new SlimViTError("bad-option", "profile: give -o device.json, or --check and models, or both.");
      if (options.check && !sources.length)
        throw new SlimViTError("bad-option", "profile: --check needs models to hold the prediction against.");
      const { profileDevice, checkTable, CHECK_TOLERANCE } = await import("../bench/profile.ts");
      const report = await profileDevice(sources, options);
      if (!options.json && sources.length) print(checkTable(report.check));
      if (options.check && !report.check.every(({ error }) => Math.abs(error) <= CHECK_TOLERANCE)) process.exitCode = 1;
      finish(options, report);
    },
  );
