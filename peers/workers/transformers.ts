/** transformers.js, image-classification pipeline on the CPU. */
import {
  AutoProcessor,
  env,
  type ImageClassificationPipeline,
  pipeline,
  RawImage,
  Tensor,
} from "@huggingface/transformers";
import { servePeer } from "./peer.ts";

let classifier: ImageClassificationPipeline;

servePeer({
  async open({ base, model, threads }) {
    const [folder, dtype] = model.split("#");
    env.allowRemoteModels = false;
    env.allowLocalModels = true;
    env.localModelPath = base;
    env.useBrowserCache = false;
    env.backends.onnx.wasm!.numThreads = threads;
    env.backends.onnx.wasm!.wasmPaths = `${base}transformers-ort/`;
    classifier = (await pipeline("image-classification", folder, {
      device: "wasm",
      dtype: dtype as "fp32" | "q8",
    })) as ImageClassificationPipeline;
    classifier.processor ??= await AutoProcessor.from_pretrained(folder); // the pipeline asks the hub whether there is one
  },
  async run(pixels) {
    const side = Math.sqrt(pixels.length / 3);
    const start = performance.now();
    const { logits } = await classifier.model({ pixel_values: new Tensor("float32", pixels, [1, 3, side, side]) });
    return { logits: Float32Array.from(logits.data), ms: performance.now() - start };
  },
  async classify(picture) {
    const start = performance.now();
    const [best] = (await classifier(await RawImage.fromBlob(picture), { top_k: 1 })) as { label: string }[];
    return { label: best.label, ms: performance.now() - start };
  },
});
