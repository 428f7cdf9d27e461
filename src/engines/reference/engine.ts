import type { Model } from "../../format/model.ts";
import { forwardSteps } from "../../reference/forward.ts";
import type { Engine } from "../engine.ts";
import { nextMacrotask } from "../nextMacrotask.ts";

/** The plain loops as an engine: seconds an image, for checking the others and for machines that run nothing else. */
export async function openReference(model: Model): Promise<Engine> {
  return {
    name: "reference",
    threads: 1,
    async run(pixels, options) {
      const steps = forwardSteps(model, pixels, options);
      for (;;) {
        const { done, value } = steps.next();
        if (done) return value;
        await nextMacrotask(); // a block takes long, and an abort comes as a message
      }
    },
    dispose() {},
  };
}
