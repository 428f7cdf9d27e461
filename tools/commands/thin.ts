import { PATCH_ORDERS } from "../masks/patchOrders.ts";
import { FORCE, IMAGE_SIZE, NAME, OUT, SEED } from "../options/shared.ts";
import { choice, flag, optional } from "../options/spec.ts";
import { keepList, path } from "../options/values.ts";
import { MODEL, simpleCommand } from "./command.ts";

const OPTIONS = {
  out: OUT,
  keep: optional(
    "--keep <list>",
    "BLOCK:PATCHES, e.g. 7:128,10:64: most patches from each block on, counted from 0; default as many as the model has",
    keepList,
  ),
  order: choice("--order <order>", "keep evenly spread or central patches", PATCH_ORDERS, "spread"),
  restore: flag("--restore", "start with every patch again, also those that the model has dropped"),
  lists: optional("--lists <model>", "instead: use the keep-lists of this model", path, {
    conflicts: ["keep", "order", "restore"],
  }),
  imageSize: IMAGE_SIZE,
  name: NAME,
  force: FORCE,
  seed: SEED,
};

export const thinCommand = () =>
  simpleCommand("thin", "drop tokens, without data or search", MODEL, OPTIONS, async (source, options) => {
    const { thin } = await import("../masks/thin.ts");
    return thin(source, options);
  });
