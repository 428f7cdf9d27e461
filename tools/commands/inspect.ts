import { SlimViTError } from "../../src/errors.ts";
import { SEED } from "../options/shared.ts";
import { type OptionsOf, optional } from "../options/spec.ts";
import { path } from "../options/values.ts";
import { print } from "../shared/terminal.ts";
import { finish, MODELS, newCommand } from "./command.ts";

const OPTIONS = {
  report: optional(
    "--report <file>",
    "write a page with charts, also of masks and losses where the folder has them",
    path,
  ),
  seed: SEED,
};

type Options = OptionsOf<typeof OPTIONS> & { pictures?: string[] };

export const inspectCommand = () =>
  newCommand("inspect", "print parameters, MACs, widths and tokens", [MODELS], OPTIONS)
    .option("--pictures <images...>", "add attention maps of these pictures to the report, model under model")
    .action(async (sources: string[], options: Options) => {
      const { inspect, inspectTable } = await import("../models/inspect.ts");
      if (options.pictures && !options.report)
        throw new SlimViTError(
          "bad-option",
          "inspect: --pictures needs a report to draw into. Give --report FILE.html.",
        );
      const inspected = sources.map(inspect);
      if (options.report) {
        const { writeReport } = await import("../recipes/modelReport.ts"); // the charts are slow to load
        await writeReport(sources, options.report, options.pictures);
      }
      const [first] = inspected;
      if (!options.json) print(sources.length === 1 ? first.text : inspectTable(sources));
      finish(options, sources.length === 1 ? first.inspection : inspected.map(({ inspection }) => inspection));
    });
