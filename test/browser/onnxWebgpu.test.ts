/** The ONNX graph of the whole family on onnxruntime-web's WebGPU kernels, held against the reference. */
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { RunOutput } from "../../src/engines/engine.ts";
import { forward } from "../../src/reference/forward.ts";
import { writeModelFolder } from "../../tools/models/folders.ts";
import { FAMILY } from "../family.ts";
import { expectClose, randomModel, randomPixels } from "../helpers.ts";
import { GPU_URLS, openGpuStage } from "./gpu.ts";
import type { Stage } from "./page.ts";

let stage: Stage;
beforeAll(async () => {
  stage = await openGpuStage();
});
afterAll(() => stage?.close());

/** SwiftShader compiles the shaders of each network anew. */
test.each(Object.entries(FAMILY))(
  "%s: the reference's logits, features and attention, and what merges",
  async (name, arch) => {
    const model = randomModel(arch, 3);
    const folder = name.replaceAll(/\W+/g, "-");
    writeModelFolder(join(stage.models, folder), { ...model.manifest, name: folder }, model.tensors, ["f32"]);
    const images = [1, 2].map((seed) => randomPixels(arch, seed));
    const outputs = await runEngine(`/models/${folder}/`, images);
    for (const [k, pixels] of images.entries()) {
      const { logits, features, attention, pairs, groups } = outputs[k];
      const expected = forward(model, pixels, { explain: true });
      expectClose(features, expected.features, 2e-4, "features");
      expectClose(logits, expected.logits, 2e-4, "logits");
      for (const [i, map] of expected.attention!.entries()) expectClose(attention![i], map, 2e-4, `attention ${i}`);
      expect(pairs).toEqual(expected.pairs);
      expected.groups?.forEach((group, i) => void expectClose(groups![i], group, 0, `groups ${i}`));
    }
  },
  600_000,
);

/** The engine on the page itself: outputs for each of the pictures. */
async function runEngine(folder: string, images: Float32Array[]): Promise<RunOutput[]> {
  const outputs = await stage.page.evaluate(
    async ({ folder, images, engineUrls }) => {
      const { model } = await loadModel(folder);
      const { engine } = await openEngine("onnx-webgpu", model, { engineUrls });
      const outputs: RunOutput[] = [];
      for (const pixels of images) outputs.push(await engine.run(Float32Array.from(pixels), { explain: true }));
      engine.dispose();
      return JSON.stringify(outputs, (_, value) => (ArrayBuffer.isView(value) ? [...(value as Float32Array)] : value));
    },
    { folder, images: images.map((pixels) => [...pixels]), engineUrls: GPU_URLS },
  );
  return JSON.parse(outputs);
}
