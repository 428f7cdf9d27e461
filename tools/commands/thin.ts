import { PATCH_ORDERS } from "../masks/patchOrders.ts";
import { FORCE, IMAGE_SIZE, NAME, OUT, SEED } from "../options/shared.ts";
import { choice, flag, optional } from "../options/spec.ts";
import { keepList, path } from "../options/values.ts";
import { MODEL, simpleCommand } from "./command.ts";

const OPTIONS = {
  out: OUT,
  keep: optional(
    "--keep <list>",
    "BLOCK:PATCHES, e.g. 7:128,10:64: at most so many patches from that block (from 0) on; default as many as the model has",
    keepList,
  ),
  order: choice("--order <order>", "which patches are the first ones", PATCH_ORDERS, "spread"),
  restore: flag("--restore", "begin with every patch again, whatever the model has dropped"),
  lists: optional("--lists <model>", "take the keep-lists of this model instead", path, {
    conflicts: ["keep", "order", "restore"],
  }),
  imageSize: IMAGE_SIZE,
  name: NAME,
  force: FORCE,
  seed: SEED,
};

export const thinCommand = () =>
  simpleCommand(
    "thin",
    "fewer tokens, evenly spread over the picture, without data or search",
    MODEL,
    OPTIONS,
    async (source, options) => {
      const { thin } = await import("../masks/thin.ts");
      return thin(source, options);
    },
  );
