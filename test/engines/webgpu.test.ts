/** Our WebGPU engine, in Node on SwiftShader: whole networks against the reference and against PyTorch. */
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Architecture } from "../../src/format/model.ts";
import { forward } from "../../src/reference/forward.ts";
import { cut, expectClose, randomModel, randomPixels, readGolden, slimArchitecture } from "../helpers.ts";
import { GpuProcess } from "./gpuProcess.ts";
import { KEEP_SOME, slimCases } from "./networks.ts";
import { quantisedForward } from "./simulation.ts";
import { architecture, drawnSeed, encode, expectReference, expectSame, range } from "./webgpuNetworks.ts";

let gpu: GpuProcess;
beforeAll(async () => {
  gpu = await GpuProcess.start();
});
afterAll(() => gpu?.end());

const golden = readGolden();

const distance = (a: Float32Array, b: Float32Array) => Math.hypot(...a.map((v, i) => v - b[i]));

describe("whole networks", () => {
  const some = golden.cases.filter(({ name }) => /^(channel b[14]|head b6|uniform b3) intersect$/.test(name));
  test.each(some)("gives PyTorch's logits for the golden network, cut by $name", async ({ cuts, logits }) => {
    const model = cut(golden.model, cuts);
    const { outputs } = await gpu.ask("run", { model, calls: golden.images.map((image) => ({ pixels: [image] })) });
    outputs.forEach(([output], i) => void expectClose(output.logits, logits[i], 1e-4));
  });

  test.each(slimCases)("%s", async (_, arch) => void (await expectReference(gpu, randomModel(arch, 7, 13), 1)));

  test.each(["f16", "int8"] as const)("%s weights", async (dtype) => {
    for (const [name, arch] of slimCases) {
      if (!/ragged|nothing but|distilled/.test(name)) continue;
      await expectReference(gpu, encode(randomModel(arch, 7, 13), dtype), 1);
    }
  });

  test("on what says that it is a GPU, int8 inputs are nearer to the reference than the simd engine's", async () => {
    const off = { webgpu: 0, simd: 0 };
    const arch = architecture({ headDims: [8, 5] }, { keepIdx: KEEP_SOME });
    const model = encode(randomModel({ ...arch, embedDim: 40 }, 7, 13), "int8");
    const pictures = range(8).map((seed) => randomPixels(model.manifest, seed));
    const calls = pictures.map((picture) => ({ pixels: [picture] }));
    const { outputs } = await gpu.ask("run", { model, calls, asGpu: true, built: true });
    pictures.forEach((picture, i) => {
      const expected = forward(model, picture).logits;
      off.webgpu += distance(outputs[i][0].logits, expected);
      off.simd += distance(quantisedForward(model, picture).logits, expected);
    });
    expect(off.webgpu, "inputs are rounded").toBeGreaterThan(1e-3);
    expect(off.webgpu).toBeLessThan(off.simd);
    console.log(`off by ${off.webgpu.toFixed(3)}, the simd engine's simulation by ${off.simd.toFixed(3)}`);
  });

  test("random slim networks", async () => {
    await fc.assert(
      fc.asyncProperty(slimArchitecture(), fc.integer({ min: 0, max: 1e6 }), async (arch, seed) => {
        // Norms of a few channels can magnify a rounding a thousandfold.
        await expectReference(gpu, randomModel({ ...arch, embedDim: arch.embedDim + 8 }, seed), seed);
      }),
      { numRuns: 5, seed: drawnSeed("slim networks") },
    );
  });

  test("a thousand tokens, ragged heads", async () => {
    const keepIdx = range(1025);
    const arch: Architecture = {
      ...architecture(),
      imageSize: [128, 128],
      embedDim: 24,
      blocks: [
        { headDims: [8, 5], mlpHidden: 30, keepIdx, merge: 0 },
        { headDims: [7], mlpHidden: 20, keepIdx: keepIdx.filter((t) => t % 2 === 0), merge: 0 },
      ],
    };
    await expectReference(gpu, randomModel(arch, 3), 3);
  });

  test("heads wider than a round of lanes", async () => {
    const block = { headDims: [100, 17], mlpHidden: 8 };
    await expectReference(gpu, randomModel({ ...architecture(block, block), headDim: 100 }, 5), 5);
  });

  test("a picture's answer does not depend on its batch", async () => {
    const model = randomModel(architecture({}, { keepIdx: KEEP_SOME }, { headDims: [5], keepIdx: KEEP_SOME }), 2);
    const pictures = range(37).map((seed) => randomPixels(model.manifest, seed));
    const { outputs } = await gpu.ask("run", {
      model,
      calls: [
        { pixels: pictures },
        { pixels: pictures.toReversed() },
        { pixels: pictures.slice(30, 33) },
        { pixels: [] },
      ],
    });
    const [all, reversed, few, none] = outputs;
    expect(none).toEqual([]);
    all.forEach((output, i) => {
      expectSame(output, forward(model, pictures[i]), 1e-4);
      expectSame(reversed[36 - i], output, 0);
    });
    few.forEach((output, i) => void expectSame(output, all[30 + i], 0));
  });

  test("a picture that is not a number spoils no other", async () => {
    const model = randomModel(architecture({ headDims: [5], mlpHidden: 7 }, { headDims: [3] }), 2);
    const good = randomPixels(model.manifest, 1);
    const bad = good.map(() => Number.NaN);
    const { outputs } = await gpu.ask("run", {
      model,
      calls: [{ pixels: [bad] }, { pixels: [good] }, { pixels: [bad, good] }],
    });
    expectSame(outputs[1][0], forward(model, good), 1e-4);
    expectSame(outputs[2][1], forward(model, good), 1e-4);
  });

  test("runs at most five dispatches a block", async () => {
    const model = randomModel(architecture({}, { headDims: [] }, {}), 1);
    const { dispatches } = await gpu.ask("run", { model, calls: [] });
    expect(dispatches).toBe(1 + 5 + 3 + 5 + 2);
  });

  test.each([false, true])("times each block (by submissions: %s)", async (withoutTimestamps) => {
    const model = randomModel(architecture({}, { headDims: [] }, {}), 1);
    const pixels = [randomPixels(model.manifest, 1)];
    const calls = [{ pixels, options: { profile: true, explain: true } }];
    const { outputs, hasTimestamps } = await gpu.ask("run", { model, calls, withoutTimestamps });
    expect(hasTimestamps).toBe(!withoutTimestamps); // SwiftShader has a clock
    const [[{ blockMs, ...output }]] = outputs;
    expect(blockMs?.length).toBe(3);
    for (const ms of blockMs!) expect(ms).toBeGreaterThan(0);
    expectSame(output, forward(model, pixels[0], { explain: true }), 1e-4);
  });
});
