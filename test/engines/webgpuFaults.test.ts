/** Our WebGPU engine, in Node on SwiftShader: what it frees, and how its calls fail. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { adapterName, isSoftwareAdapter } from "../../src/engines/adapter.ts";
import { expectClose, randomModel, randomPixels } from "../helpers.ts";
import { GpuProcess } from "./gpuProcess.ts";
import { architecture } from "./webgpuNetworks.ts";

let gpu: GpuProcess;
beforeAll(async () => {
  gpu = await GpuProcess.start();
});
afterAll(() => gpu?.end());

test.each([
  ["on a device that goes on", true, 200],
  ["which ends its device", false, 3],
] as const)("holds no buffer after dispose %s", async (_, shared, count) => {
  const model = randomModel(architecture({}), 1);
  const left = await gpu.ask("rounds", { model, pixels: randomPixels(model.manifest, 1), count, shared });
  expect(left).toEqual(Array(count).fill(0));
});

test("every call that fails says why: aborts, wrong sizes, dispose, a lost device", async () => {
  const model = randomModel(architecture({}), 1);
  expect(await gpu.ask("faults", { model, pixels: randomPixels(model.manifest, 1) })).toEqual({
    before: "aborted",
    size: "bad-input",
    several: "unsupported",
    between: "aborted",
    after: "none",
    flying: "disposed",
    waiting: "disposed",
    disposed: "disposed",
    lost: "device-lost",
    lostBefore: "device-lost",
  });
});

test("a batch that would not fit one buffer is shared out, and its pictures have answers of their own", async () => {
  const block = { headDims: [8], mlpHidden: 1100, keepIdx: [...Array(1025).keys()] }; // 32 × 1025 × 1100 floats are 144 MB
  const model = randomModel({ ...architecture(block), imageSize: [64, 64], patchSize: 2 }, 3);
  const pictures = Array.from({ length: 32 }, (_, k) => randomPixels(model.manifest, k));
  const calls = [{ pixels: pictures }, { pixels: [pictures[0]] }, { pixels: [pictures[31]] }];
  const { outputs } = await gpu.ask("run", { model, calls });
  expect(outputs[0]).toHaveLength(32);
  expectClose(outputs[0][0].logits, outputs[1][0].logits, 1e-5);
  expectClose(outputs[0][31].logits, outputs[2][0].logits, 1e-5);
});

test("tells a CPU that plays the GPU from a GPU", () => {
  const isSoftware = (info: Partial<GPUAdapterInfo>) => isSoftwareAdapter(adapterName(info));
  expect(isSoftware({ vendor: "google", architecture: "swiftshader" })).toBe(true);
  expect(isSoftware({ vendor: "nvidia", architecture: "ampere", isFallbackAdapter: true })).toBe(true);
  expect(isSoftware({ vendor: "nvidia", architecture: "ampere", isFallbackAdapter: false })).toBe(false);
});
