/** Bundled for the browser by gpu.ts: an engine on the page itself, fed with pixels, which the package does not offer. */
import { openEngine } from "../../src/engines/auto.ts";
import type { WeightsDtype } from "../../src/format/model.ts";
import { loadModel } from "../../src/loading/loadModel.ts";
import { SlabReader } from "../../src/loading/slabReader.ts";

Object.assign(globalThis, {
  openEngine,
  loadModel: (folder: string, dtype: WeightsDtype | "auto" = "auto") =>
    loadModel(
      { source: { url: new URL(folder, location.href).href }, engine: "reference", dtype, cache: false },
      { openVariants: async (...args) => new SlabReader(...args) },
    ),
});
