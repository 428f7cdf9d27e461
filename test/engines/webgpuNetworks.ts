/** What the tests of our WebGPU engine share: small networks, and the comparison with the reference. */
import { expect } from "vitest";
import type { RunOutput } from "../../src/engines/engine.ts";
import {
  type Architecture,
  type BlockShape,
  type Model,
  plainArchitecture,
  type WeightsDtype,
} from "../../src/format/model.ts";
import { encodeTensors } from "../../src/format/write.ts";
import { forward } from "../../src/reference/forward.ts";
import { expectClose, randomPixels } from "../helpers.ts";
import type { GpuProcess } from "./gpuProcess.ts";

export const range = (count: number): number[] => [...Array(count).keys()];

/**
 * Another seed in each run: few cases a run, many over time. `SEED` in the environment repeats a run.
 *
 * @param what is drawn, for the line that names the seed
 */
export function drawnSeed(what: string): number {
  const seed = Number(process.env.SEED ?? Date.now() % 1e9);
  console.log(`${what}: SEED=${seed}`);
  return seed;
}

export const encode = (model: Model, dtype: WeightsDtype): Model => ({
  ...model,
  dtype,
  tensors: encodeTensors(model.tensors, dtype),
});

/** 4×3 patches, blocks as given */
export function architecture(...blocks: Partial<BlockShape>[]): Architecture {
  return plainArchitecture({
    imageSize: [16, 12],
    patchSize: 4,
    embedDim: 20,
    headDim: 8,
    layerNormEps: 1e-6,
    prefixTokens: 1,
    blocks: blocks.map((block) => ({ headDims: [8, 8], mlpHidden: 33, keepIdx: range(13), ...block })),
  });
}

export function expectSame(actual: RunOutput, expected: RunOutput, tolerance: number): void {
  expectClose(actual.logits, expected.logits, tolerance, "logits");
  expectClose(actual.features, expected.features, tolerance, "features");
  expect(actual.attention?.length).toBe(expected.attention?.length);
  expected.attention?.forEach((map, i) => {
    expectClose(actual.attention![i], map, tolerance, `attention of block ${i}`);
  });
}

/**
 * Twice, so that nothing is left over from the first. The pairs that merge are the reference's: where rounding decides, an
 * engine may choose others.
 */
export async function expectReference(gpu: GpuProcess, model: Model, seed: number, tolerance = 1e-4): Promise<void> {
  const pixels = randomPixels(model.manifest, seed);
  const expected = forward(model, pixels, { explain: true });
  const call = { pixels: [pixels], options: { explain: true, forcedPairs: expected.pairs } };
  const { outputs } = await gpu.ask("run", { model, calls: [call, call] });
  expectSame(outputs[0][0], expected, tolerance);
  expectSame(outputs[1][0], outputs[0][0], 0);
  expect([outputs[0][0].pairs, outputs[0][0].groups]).toEqual([expected.pairs, expected.groups]);
}
