import { ENGINE_OPTIONS, SEED } from "../options/shared.ts";
import { type OptionsOf, withDefault } from "../options/spec.ts";
import { count } from "../options/values.ts";
import { print, say } from "../shared/terminal.ts";
import { finish, MODEL, newCommand } from "./command.ts";

const OPTIONS = {
  ...ENGINE_OPTIONS,
  topK: withDefault("--top-k <n>", "classes to print", count, 5),
  seed: SEED,
};

export const runCommand = () =>
  newCommand(
    "run",
    "classify pictures",
    [MODEL, ["<images...>", "picture files or folders of pictures"]],
    OPTIONS,
  ).action(async (source: string, files: string[], options: OptionsOf<typeof OPTIONS>) => {
    const { runFiles } = await import("../evaluation/run.ts");
    const reports = await runFiles(source, files, options);
    if (!options.json) {
      for (const report of reports) {
        if ("error" in report) continue; // reported already
        print(`${report.file}  ${report.latencyMs.total.toFixed(0)} ms`);
        if (report.features) print(`  ${report.features.length} features, an embedding model; --json prints them`);
        for (const { label, score } of report.classes) print(`  ${(100 * score).toFixed(1).padStart(5)} %  ${label}`);
      }
    }
    const failed = reports.filter((report) => "error" in report).length;
    if (failed) {
      say(`run: ${failed} of ${reports.length} files could not be classified`);
      process.exitCode = 1;
    }
    finish(options, reports);
  });
