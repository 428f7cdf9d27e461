import { TEACH } from "../options/teach.ts";
import { print } from "../shared/terminal.ts";
import { MODEL, simpleCommand } from "./command.ts";

export const teachCommand = () =>
  simpleCommand(
    "teach",
    "a head for the data's classes in seconds, nothing trained",
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
