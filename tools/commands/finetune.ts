import { FINETUNE } from "../options/retrain.ts";
import { MODEL, simpleCommand } from "./command.ts";

export const finetuneCommand = () =>
  simpleCommand(
    "finetune",
    "train the model with a new head for the data's classes",
    MODEL,
    FINETUNE,
    async (source, options) => {
      const { finetune } = await import("../training/finetune.ts");
      const { history: _, ...report } = await finetune(source, options);
      return report;
    },
  );
