import { SlimViTError } from "../../src/errors.ts";
import { DTYPES, SEED } from "../options/shared.ts";
import { choice, flag, type OptionsOf, optional, withDefault } from "../options/spec.ts";
import { count, path, text, threads } from "../options/values.ts";
import { print } from "../shared/terminal.ts";
import { finish, newCommand } from "./command.ts";

const OPTIONS = {
  out: optional("-o, --out <file>", "output file, such as device.json", path),
  check: flag("--check", "print predictions beside measurements; exit with 1 if one is off by more than 10 %"),
  shape: optional(
    "--shape <model>",
    "model whose dense shape is measured; default the first model, else DeiT-Ti at 224 px",
    text,
  ),
  engine: choice("--engine <name>", "engine to measure; it has to time single blocks", ["simd", "reference"], "simd"),
  dtype: choice("--dtype <dtype>", "dtype of the weights", DTYPES, "f32"),
  threads: withDefault("--threads <n>", "threads of the engine", threads, 1),
  rounds: withDefault("--rounds <n>", "timed runs of each network", count, 30),
  seed: SEED,
};

const SOURCES: [string, string] = ["[models...]", "model folders whose latency is predicted and measured"];

export const profileCommand = () =>
  newCommand("profile", "measure cost tables of this device in a headless Chromium", [SOURCES], OPTIONS).action(
    async (sources: string[], options: OptionsOf<typeof OPTIONS>) => {
      if (!options.out && !options.check)
        throw new SlimViTError("bad-option", "profile: give -o device.json, or --check and models, or both.");
      if (options.check && !sources.length)
        throw new SlimViTError("bad-option", "profile: --check needs models to predict and measure.");
      const { profileDevice, checkTable, CHECK_TOLERANCE } = await import("../bench/profile.ts");
      const report = await profileDevice(sources, options);
      if (!options.json && sources.length) print(checkTable(report.check));
      if (options.check && !report.check.every(({ error }) => Math.abs(error) <= CHECK_TOLERANCE)) process.exitCode = 1;
      finish(options, report);
    },
  );
