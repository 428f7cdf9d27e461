/** Our WebGPU engine, in Node on SwiftShader: networks of the whole family, merges and all. */
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Architecture, plainArchitecture } from "../../src/format/model.ts";
import { forward } from "../../src/reference/forward.ts";
import { FAMILY, familyArchitecture } from "../family.ts";
import { randomModel, randomPixels } from "../helpers.ts";
import { GpuProcess } from "./gpuProcess.ts";
import { architecture, drawnSeed, encode, expectReference, expectSame, range } from "./webgpuNetworks.ts";

let gpu: GpuProcess;
beforeAll(async () => {
  gpu = await GpuProcess.start();
});
afterAll(() => gpu?.end());

test.each(Object.entries(FAMILY))("gives the reference's output for %s", async (_, arch) => {
  await expectReference(gpu, randomModel(arch, 5), 5);
});

test.each(["f16", "int8"] as const)("%s weights of networks that merge and pool by attention", async (dtype) => {
  for (const name of ["SigLIP", "DINOv3, merging"])
    await expectReference(gpu, encode(randomModel(FAMILY[name], 6), dtype), 6);
});

test("gives the reference's output for random networks of the family", async () => {
  await fc.assert(
    fc.asyncProperty(familyArchitecture(), fc.integer({ min: 0, max: 1e6 }), async (arch, seed) => {
      // Norms of a few channels can magnify a rounding a thousandfold.
      const heads = arch.poolHeads ?? 1;
      await expectReference(gpu, randomModel({ ...arch, embedDim: arch.embedDim + 8 * heads }, seed), seed, 3e-4);
    }),
    { numRuns: 6, seed: drawnSeed("the whole family") },
  );
});

/** An embedding of so few channels that invocations of a workgroup have to share the pooled rows out right. */
test.each([
  ["class", true],
  ["class+mean", false],
] as const)("pools %s (distilled: %s) without a norm of tokens", async (pooling, distilled) => {
  const prefixTokens = distilled ? 2 : 1;
  const block = { keepIdx: range(12 + prefixTokens) };
  for (const finalNorm of ["none", "pooled"] as const) {
    if (distilled && finalNorm === "pooled") continue; // no distilled network has one
    const arch = { ...architecture(block, block), embedDim: 9, prefixTokens, distilled, pooling, finalNorm };
    await expectReference(gpu, randomModel(arch, 7), 7);
  }
});

/** 7×7 patches, of which 20 merge in two of three blocks. */
const MERGING: Architecture = plainArchitecture({
  ...{ imageSize: [28, 28], patchSize: 4, embedDim: 48, headDim: 16, layerNormEps: 1e-6, prefixTokens: 1 },
  blocks: [12, 8, 0].map((merge) => ({ headDims: [16, 12, 16], mlpHidden: 96, merge, keepIdx: range(50) })),
});

test.each([
  ["f32", 0.995],
  ["f16", 0.995],
  ["int8", 0.995],
] as const)("%s: finds at least %d of the reference's pairs by itself", async (dtype, share) => {
  const model = encode(randomModel(MERGING, 1), dtype);
  const pictures = range(30).map((seed) => randomPixels(MERGING, seed + 1));
  const { outputs } = await gpu.ask("run", {
    model,
    calls: pictures.map((pixels) => ({ pixels: [pixels], options: { explain: true } })),
  });
  let [equal, all] = [0, 0];
  outputs.forEach(([{ pairs }], i) => {
    const expected = forward(model, pictures[i], { explain: true });
    // In the first block alone: after it the tokens of two different choices are not the same any more.
    const found = new Map(pairs![0]);
    equal += expected.pairs![0].filter(([a, b]) => found.get(a) === b).length;
    all += expected.pairs![0].length;
  });
  console.log(`${dtype}: ${equal} of ${all} pairs of the first block are the reference's`);
  expect(equal / all).toBeGreaterThanOrEqual(share);
});

test("of tokens that are all alike the first ones merge", async () => {
  const model = randomModel(MERGING, 3);
  model.tensors.get("pos_embed")!.data.fill(0);
  const blank = new Float32Array(3 * 28 * 28);
  const { outputs } = await gpu.ask("run", { model, calls: [{ pixels: [blank], options: { explain: true } }] });
  expect(outputs[0][0].pairs![0]).toEqual(range(12).map((k) => [2 + 2 * k, 1]));
});

test("chooses for itself again after a run with forced pairs, and in batches", async () => {
  const model = randomModel(MERGING, 4);
  const pictures = range(3).map((seed) => randomPixels(MERGING, seed));
  const expected = pictures.map((pixels) => forward(model, pixels));
  const forcedPairs = MERGING.blocks.map(({ merge }) => range(merge).map((k): [number, number] => [2 + 2 * k, 1]));
  const { outputs } = await gpu.ask("run", {
    model,
    calls: [
      { pixels: [pictures[0]], options: { explain: true, forcedPairs } },
      { pixels: [pictures[0]] },
      { pixels: pictures },
    ],
  });
  expect(outputs[0][0].pairs).toEqual(forcedPairs);
  expectSame(outputs[0][0], forward(model, pictures[0], { explain: true, forcedPairs }), 1e-4);
  expectSame(outputs[1][0], expected[0], 1e-4);
  outputs[2].forEach((output, i) => void expectSame(output, expected[i], 1e-4));
});

test("refuses pairs that cannot merge", async () => {
  const model = randomModel(MERGING, 4);
  const call = { pixels: [randomPixels(MERGING, 1)], options: { forcedPairs: [[[2, 0] as [number, number]], [], []] } };
  const message = expect.stringContaining("forcedPairs[0]");
  await expect(gpu.ask("run", { model, calls: [call] })).rejects.toMatchObject({ code: "bad-option", message });
});

test("merges a thousand tokens", async () => {
  const keepIdx = range(1025);
  const block = { headDims: [8, 5], mlpHidden: 30, keepIdx };
  const arch = plainArchitecture({
    ...{ imageSize: [128, 128], patchSize: 4, embedDim: 24, headDim: 8, layerNormEps: 1e-6, prefixTokens: 1 },
    blocks: [
      { ...block, merge: 300 },
      { ...block, merge: 0 },
    ],
  });
  await expectReference(gpu, randomModel(arch, 3), 3);
});
