import { RETRAIN } from "../options/retrain.ts";
import { MODEL, simpleCommand } from "./command.ts";

export const retrainCommand = () =>
  simpleCommand("retrain", "train a slim model", MODEL, RETRAIN, async (source, options) => {
    const { retrain } = await import("../training/retrain.ts");
    const { history: _, ...report } = await retrain(source, options);
    return report;
  });
