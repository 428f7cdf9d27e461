/**
 * The first run, which also warms an engine up. It uses the known input of slimvit.json, so it checks what the engine
 * computes on this device.
 */
import { SlimViTError } from "../errors.ts";
import type { Model, WeightsDtype } from "../format/model.ts";
import { selfTestOf } from "../format/variants.ts";
import { selfTestPixels } from "../format/write.ts";
import type { Engine } from "./engine.ts";

/**
 * Largest root-mean-square difference between an engine's output for the known input and the manifest's, as a fraction of
 * the output's own root mean square. A wrong kernel is off by about 1. GPUs that compute in f16 are off by 0.01. int8
 * engines quantise activations too, which the manifest's numbers do not.
 */
const TOLERANCE: Record<WeightsDtype, number> = { f32: 0.01, f16: 0.05, int8: 0.2 };

class WrongResultsError extends SlimViTError {
  readonly isWrongResults = true;
}

/** Whether an error is the self-test's: other weights of the same model may still pass. */
export function isWrongResults(error: unknown): boolean {
  return (error as Partial<WrongResultsError>)?.isWrongResults === true;
}

/**
 * Tests an engine. The reference engine is not tested: it is slow, and all others are judged by it.
 *
 * @throws SlimViTError `unsupported` for an engine that computes wrong results here
 */
export async function selfTest(engine: Engine, { manifest, dtype }: Model): Promise<void> {
  if (engine.name === "reference") return;
  const known = selfTestOf(manifest, dtype);
  const output = await engine.run(selfTestPixels(manifest, known?.seed ?? 1));
  if (!known) return;
  const [expected, actual] = known.logits ? [known.logits, output.logits] : [known.features ?? [], output.features];
  const rms = (values: number[]) => Math.sqrt(values.reduce((sum, v) => sum + v * v, 0) / values.length);
  const off = rms(expected.map((v, i) => v - actual[i])) / Math.max(rms(expected), 1e-6);
  if (off <= TOLERANCE[dtype]) return; // false for NaN
  throw new WrongResultsError(
    "unsupported",
    `Engine "${engine.name}" computes wrong results on this device: ${(100 * off).toFixed(1)} % off on ${manifest.name}'s ` +
      `known input in ${dtype}; expected at most ${100 * TOLERANCE[dtype]} %.`,
  );
}
