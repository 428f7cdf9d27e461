import { SEED } from "../options/shared.ts";
import { choice, optional, withDefault } from "../options/spec.ts";
import { count, natural, path, text } from "../options/values.ts";
import { print } from "../shared/terminal.ts";
import { simpleCommand } from "./command.ts";

const OPTIONS = {
  out: optional("-o, --out <folder>", "folder for results, models and stages; default the file's out", path),
  jobs: withDefault("--jobs <n>", "processes at once, on this machine", count, 1),
  on: choice("--on <where>", "where the points run", ["local", "slurm"], "local"),
  sbatch: optional("--sbatch <options>", 'further options of sbatch, e.g. "--partition=gpu --time=4:00:00"', text),
  task: optional("--task <n>", "run only this point, such as $SLURM_ARRAY_TASK_ID or $JOB_COMPLETION_INDEX", natural),
  seed: SEED,
};

const FILE: [string, string] = ["<file>", "recipe with a section sweep: { budgets, weights, seeds }"];

export const sweepCommand = () =>
  simpleCommand(
    "sweep",
    "run a recipe for many budgets, loss weights and seeds; resumable",
    FILE,
    OPTIONS,
    async (file, options) => {
      const [{ sweep }, { sweepTable }] = await Promise.all([
        import("../recipes/sweep.ts"),
        import("../report/sweepReport.ts"),
      ]);
      const report = await sweep(file, options);
      if (!options.json && "points" in report) print(sweepTable(report.points));
      return report;
    },
  );
