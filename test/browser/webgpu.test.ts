import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, test } from "vitest";
import { forward } from "../../src/reference/forward.ts";
import { readManifestFile, readModelFolder, variantSources, writeModelFolder } from "../../tools/models/folders.ts";
import { FAMILY } from "../family.ts";
import { cut, expectClose, randomModel, randomPixels, readGolden } from "../helpers.ts";
import { GPU_URLS, openGpuStage } from "./gpu.ts";
import type { Stage } from "./page.ts";

const golden = readGolden();
/** Some of them: SwiftShader takes seconds a network. Ragged heads, lost heads and tokens are among these. */
const cases = golden.cases.filter(({ name }) => /^(channel b4|head b6|uniform b3) intersect$/.test(name));

/** Products of 2,000 columns and more take other shaders. */
const wide = randomModel(
  {
    imageSize: [8, 8],
    patchSize: 4,
    embedDim: 64,
    headDim: 16,
    layerNormEps: 1e-6,
    prefixTokens: 1,
    blocks: Array.from({ length: 2 }, () => ({ headDims: [16, 16], mlpHidden: 2048, keepIdx: [0, 1, 2, 3, 4] })),
  },
  1,
);

/** Between them they have most of the family: merges with rotary positions, attention pooling, a class token that is none. */
const family = ["DINOv3, merging", "SigLIP"].map((name) => ({ name, model: randomModel(FAMILY[name], 3) }));

/** All that is shipped, on one picture, and what the reference makes of it, which takes seconds. */
const shipped = (JSON.parse(readFileSync("models/index.json", "utf8")) as { folder: string }[]).map(({ folder }) => {
  let judged: { pixels: Float32Array; logits: Float32Array } | undefined;
  const judge = () => {
    const path = variantSources(join("models", folder)).at(-1)!; // the smallest, which a page loads first
    const dtypes = readManifestFile(path).weights.map(({ dtype }) => dtype);
    const model = readModelFolder(path, dtypes.includes("f16") ? "f16" : dtypes[0]); // as "auto" on a GPU takes them
    const pixels = randomPixels(model.manifest, 1);
    return { pixels, logits: forward(model, pixels).logits };
  };
  return { name: folder, judge: () => (judged ??= judge()) };
});

const QUICKEST = ["deit-tiny-elastic", "deit-tiny-caltech101-small"];

/** Two runs of the dense network take SwiftShader 37 s of the processor, a busy machine minutes. */
const SLOW = { timeout: 1_800_000 };

let stage: Stage;
beforeAll(async () => {
  stage = await openGpuStage();
  for (const { name, cuts } of cases) {
    const { manifest, tensors } = cut(golden.model, cuts);
    writeModelFolder(join(stage.models, name), manifest, tensors, ["f32"]);
  }
  for (const { name, model } of family)
    writeModelFolder(join(stage.models, name), model.manifest, model.tensors, ["f32"]);
  writeModelFolder(join(stage.models, "wide"), wide.manifest, wide.tensors, ["f32"]);
});
afterAll(() => stage?.close());

/** The engine on the page itself: outputs for each of the pixels. */
function runEngine(engine: "webgpu" | "onnx-webgpu" | "tfjs-webgpu", folder: string, images: Float32Array[]) {
  return stage.page.evaluate(
    async ({ engine: name, folder, images, engineUrls }) => {
      const { model } = await loadModel(folder);
      const { engine } = await openEngine(name, model, { engineUrls });
      const outputs: { logits: number[]; features: number[] }[] = [];
      for (const pixels of images) {
        const { logits, features } = await engine.run(Float32Array.from(pixels));
        outputs.push({ logits: [...logits], features: [...features] });
      }
      engine.dispose();
      return outputs;
    },
    { engine, folder, images: images.map((pixels) => [...pixels]), engineUrls: GPU_URLS },
  );
}

describe.each(["webgpu", "tfjs-webgpu", "onnx-webgpu"] as const)("%s, on SwiftShader", (engine) => {
  const tolerance = engine === "webgpu" ? 1e-4 : 1e-3;
  test.each(cases)("gives PyTorch's logits for the golden network, cut by $name", async ({ name, cuts, logits }) => {
    const outputs = await runEngine(engine, `/models/${name}/`, golden.images);
    const model = cut(golden.model, cuts);
    outputs.forEach((output, i) => {
      const expected = forward(model, golden.images[i]);
      expectClose(output.logits, logits[i], tolerance, "PyTorch's logits");
      expectClose(output.logits, expected.logits, tolerance, "the reference's logits");
      expectClose(output.features, expected.features, tolerance, "the reference's features");
    });
  });

  test("gives the reference's logits where a wide MLP meets few tokens", async () => {
    const outputs = await runEngine(engine, "/models/wide/", [randomPixels(wide.manifest, 1)]);
    expectClose(outputs[0].logits, forward(wide, randomPixels(wide.manifest, 1)).logits, tolerance);
  });

  // Each library tests its own kernels. Two shipped models are enough to show that ours reach it unchanged.
  const own = engine === "webgpu" ? shipped : shipped.filter(({ name }) => QUICKEST.includes(name));
  test.each(own)("gives the reference's logits for the shipped $name", SLOW, async ({ name, judge }) => {
    const { pixels, logits: expected } = judge();
    const [{ logits }] = await runEngine(engine, `/shipped/${name}/`, [pixels]);
    expectClose(logits, expected, 1e-3);
  });
});

test.each(family)("webgpu gives the reference's output for a small $name", async ({ name, model }) => {
  const pixels = randomPixels(model.manifest, 2);
  const expected = forward(model, pixels);
  const [output] = await runEngine("webgpu", `/models/${name}/`, [pixels]);
  expectClose(output.logits, expected.logits, 1e-4, "logits");
  expectClose(output.features, expected.features, 1e-4, "features");
});
