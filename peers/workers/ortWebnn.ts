/** onnxruntime-web, WebNN provider. */
import * as ort from "onnxruntime-web/all";
import { download, servePeer } from "./peer.ts";

let session: ort.InferenceSession;

servePeer({
  async open({ base, model, threads }) {
    ort.env.wasm.numThreads = threads;
    ort.env.wasm.wasmPaths = `${base}ort/`;
    ort.env.logLevel = "error";
    session = await ort.InferenceSession.create(await download(base + model), {
      executionProviders: [{ name: "webnn", deviceType: "cpu" }],
      freeDimensionOverrides: { batch: 1 },
    });
  },
  async run(pixels) {
    const side = Math.sqrt(pixels.length / 3);
    const start = performance.now();
    const { logits } = await session.run({ pixel_values: new ort.Tensor("float32", pixels, [1, 3, side, side]) });
    return { logits: logits.data as Float32Array, ms: performance.now() - start };
  },
});
