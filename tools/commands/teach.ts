import { TEACH } from "../options/teach.ts";
import { print } from "../shared/terminal.ts";
import { MODEL, simpleCommand } from "./command.ts";

export const teachCommand = () =>
  simpleCommand(
    "teach",
    "fit a head for the data's classes within seconds, without training",
    MODEL,
    TEACH,
    async (source, options) => {
      const { teachModel } = await import("../teach/teachModel.ts");
      const report = await teachModel(source, options);
      const share = (value: number) => `${(100 * value).toFixed(2)} %`;
      const { accuracy, n } = report.taught;
      if (!options.json) {
        print(`cross-validated top-1 ${share(accuracy)}  n ${n}`);
        for (const { dtype, top1, n } of report.val ?? []) print(`val top-1 ${share(top1)}  n ${n}  ${dtype}`);
      }
      return report;
    },
  );
