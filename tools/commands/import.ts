import { IMPORT } from "../options/import.ts";
import { simpleCommand } from "./command.ts";

const SOURCE: [string, string] = ["<source>", ".safetensors file, or folder with config.json"];

export const importCommand = () =>
  simpleCommand(
    "import",
    "turn a checkpoint of timm or Hugging Face into a model folder",
    SOURCE,
    IMPORT,
    async (source, options) => {
      const { importModel } = await import("../checkpoints/import.ts");
      return importModel(source, options);
    },
  );
