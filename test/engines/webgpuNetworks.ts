/** What the tests of our WebGPU engine share: drawn seeds, and the comparison with the reference. */
import { expect } from "vitest";
import type { Model } from "../../src/format/model.ts";
import { forward } from "../../src/reference/forward.ts";
import { randomPixels } from "../helpers.ts";
import type { GpuProcess } from "./gpuProcess.ts";
import { expectSame } from "./networks.ts";

export { architecture, encode, expectSame, range } from "./networks.ts";

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
