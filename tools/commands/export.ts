import { EXPORT } from "../options/export.ts";
import { MODEL, simpleCommand } from "./command.ts";

export const exportCommand = () =>
  simpleCommand("export", "write the weights for shipping, and ONNX files", MODEL, EXPORT, async (source, options) => {
    const { exportModel } = await import("../recipes/export.ts");
    return exportModel(source, options);
  });
