/** TensorFlow.js on its WASM backend, running the forward pass that our training runs. */
import { setThreadsCount, setWasmPaths } from "@tensorflow/tfjs-backend-wasm";
import * as tf from "@tensorflow/tfjs-core";
import type { Manifest } from "../../src/format/model.ts";
import { float32, readManifest, readModel } from "../../src/format/read.ts";
import { forward, type Weights } from "../../src/tfjs/forward.ts";
import { download, servePeer } from "./peer.ts";

let manifest: Manifest;
let weights: Weights;

servePeer({
  async open({ base, model, threads }) {
    setWasmPaths(`${base}tfjs/`);
    setThreadsCount(threads);
    await tf.setBackend("wasm");
    manifest = readManifest(new TextDecoder().decode(await download(`${base}${model}/slimvit.json`)), "slimvit.json");
    const bytes = await download(`${base}${model}/model.f32.safetensors`);
    const { tensors } = readModel(manifest, "f32", bytes, "model.f32.safetensors");
    weights = new Map([...tensors].map(([key, { shape }]) => [key, tf.tensor(float32(tensors, key), shape)]));
  },
  async run(pixels) {
    const start = performance.now();
    const result = tf.tidy(() => {
      const input = tf.tensor(pixels, [1, 3, ...manifest.imageSize]);
      return forward(tf, manifest, weights, input).logits;
    });
    const logits = (await result.data()) as Float32Array;
    result.dispose();
    return { logits, ms: performance.now() - start };
  },
});
