import { COMPRESS } from "../options/compress.ts";
import { simpleCommand } from "./command.ts";

const SEARCHED: [string, string] = ["<search>", "output folder of slimvit search"];

export const compressCommand = () =>
  simpleCommand("compress", "searched masks → physically slim model", SEARCHED, COMPRESS, async (source, options) => {
    const { compress } = await import("../masks/compress.ts");
    return compress(source, options);
  });
