import { ENGINE_OPTIONS, SEED } from "../options/shared.ts";
import { type OptionsOf, withDefault } from "../options/spec.ts";
import { count } from "../options/values.ts";
import { print } from "../shared/terminal.ts";
import { finish, MODEL, newCommand } from "./command.ts";

const OPTIONS = {
  ...ENGINE_OPTIONS,
  topK: withDefault("--top-k <n>", "classes to print", count, 5),
  seed: SEED,
};

export const runCommand = () =>
  newCommand("run", "classify pictures", [MODEL, ["<images...>", "picture files"]], OPTIONS).action(
    async (source: string, files: string[], options: OptionsOf<typeof OPTIONS>) => {
      const { runFiles } = await import("../evaluation/evaluate.ts");
      const reports = await runFiles(source, files, options);
      if (!options.json) {
        for (const { file, classes, latencyMs } of reports) {
          print(`${file}  ${latencyMs.total.toFixed(0)} ms`);
          for (const { label, score } of classes) print(`  ${(100 * score).toFixed(1).padStart(5)} %  ${label}`);
        }
      }
      finish(options, reports);
    },
  );
