/** The engine on TensorFlow.js's WebGPU backend, on SwiftShader, with a small network of each family. */
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { MergePairs } from "../../src/reference/forward.ts";
import { forward } from "../../src/reference/forward.ts";
import { writeModelFolder } from "../../tools/models/folders.ts";
import { FAMILY } from "../family.ts";
import { expectClose, randomModel, randomPixels } from "../helpers.ts";
import { GPU_URLS, openGpuStage } from "./gpu.ts";
import type { Stage } from "./page.ts";

/** SwiftShader takes seconds to compile a network's shaders. */
const NAMES = [
  "CLIP, zero-shot",
  "SigLIP",
  "DINOv2 with registers",
  "DINOv3, merging",
  "EVA-02",
  "BEiT",
  "DINOv2 giant",
];
const networks = [...NAMES, "norms of queries and keys"].map((name, k) => ({
  name,
  folder: `family-${k}`,
  model: randomModel(FAMILY[name], k),
}));

let stage: Stage;
beforeAll(async () => {
  stage = await openGpuStage();
  for (const { folder, model } of networks)
    writeModelFolder(join(stage.models, folder), model.manifest, model.tensors, ["f32"]);
});
afterAll(() => stage?.close());

/** Twice, the second time after the first's tensors are gone. */
function run(folder: string, pixels: Float32Array, forcedPairs?: MergePairs[]) {
  return stage.page.evaluate(
    async ({ folder, pixels, forcedPairs, engineUrls }) => {
      const { model } = await loadModel(folder);
      const { engine } = await openEngine("tfjs-webgpu", model, { engineUrls });
      const values = Float32Array.from(pixels);
      await engine.run(values);
      const output = await engine.run(values, { explain: true, profile: true, forcedPairs });
      engine.dispose();
      return {
        features: [...output.features],
        logits: [...output.logits],
        attention: output.attention!.map((map) => [...map]),
        blockMs: output.blockMs!.length,
        groups: output.groups?.map((group) => [...group]),
        pairs: output.pairs,
      };
    },
    { folder: `/models/${folder}/`, pixels: [...pixels], forcedPairs, engineUrls: GPU_URLS },
  );
}

describe.each(networks)("$name", ({ folder, model }) => {
  test("gives the reference's outputs, attention, groups and pairs", { timeout: 600_000 }, async () => {
    const pixels = randomPixels(model.manifest, 9);
    const expected = forward(model, pixels, { explain: true });
    for (const forcedPairs of expected.pairs ? [expected.pairs, undefined] : [undefined]) {
      const actual = await run(folder, pixels, forcedPairs);
      expect(actual.pairs).toEqual(expected.pairs); // of these networks no pair is decided by rounding
      expect(actual.groups).toEqual(expected.groups?.map((group) => [...group]));
      expectClose(actual.features, expected.features, 2e-4, "features");
      expectClose(actual.logits, expected.logits, 2e-4, "logits");
      expected.attention!.forEach((map, i) => void expectClose(actual.attention[i], map, 1e-4, `attention ${i}`));
      expect(actual.blockMs).toBe(model.manifest.blocks.length);
    }
  });
});
