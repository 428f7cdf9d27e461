import { COMPRESS } from "../options/compress.ts";
import { simpleCommand } from "./command.ts";

const SEARCHED: [string, string] = ["<search>", "output folder of slimvit search"];

export const compressCommand = () =>
  simpleCommand(
    "compress",
    "cut what the masks of a search rank lowest",
    SEARCHED,
    COMPRESS,
    async (source, options) => {
      const { compress } = await import("../masks/compress.ts");
      return compress(source, options);
    },
  );
