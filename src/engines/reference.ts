import type { Model } from "../format/model.ts";
import { forward } from "../reference/forward.ts";
import type { Engine } from "./engine.ts";

/** The plain loops as an engine: seconds an image, for checking the others and for machines that run nothing else. */
export async function openReference(model: Model): Promise<Engine> {
  return {
    name: "reference",
    threads: 1,
    run: async (pixels, options) => forward(model, pixels, options),
    dispose() {},
  };
}
