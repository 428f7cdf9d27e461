/** The first run, which warms an engine up: on the known input of slimvit.json, where it also checks what is computed here. */
import { SlimViTError } from "../errors.ts";
import type { Model, WeightsDtype } from "../format/model.ts";
import { selfTestOf } from "../format/variants.ts";
import { selfTestPixels } from "../format/write.ts";
import type { Engine } from "./engine.ts";

/**
 * How far an engine's logits for the known input may be from the manifest's: root mean square, of the logits' own. A
 * wrong kernel is off by about 1; GPUs that compute in f16 are 0.01 off, int8 engines quantise activations too, which the
 * manifest's logits do not.
 */
const TOLERANCE: Record<WeightsDtype, number> = { f32: 0.01, f16: 0.05, int8: 0.2 };

/** @throws SlimViTError `unsupported` for an engine that computes wrong results here */
export async function selfTest(engine: Engine, { manifest, dtype }: Model): Promise<void> {
  const known = selfTestOf(manifest, dtype);
  if (engine.name === "reference") return;
  const output = await engine.run(selfTestPixels(manifest, known?.seed ?? 1));
  if (!known) return;
  const [expected, actual] = known.logits ? [known.logits, output.logits] : [known.features ?? [], output.features];
  const rms = (values: number[]) => Math.sqrt(values.reduce((sum, v) => sum + v * v, 0) / values.length);
  const off = rms(expected.map((v, i) => v - actual[i])) / Math.max(rms(expected), 1e-6);
  if (off <= TOLERANCE[dtype]) return; // NaN is not
  throw new SlimViTError(
    "unsupported",
    `Engine "${engine.name}" computes wrong results on this device: ${(100 * off).toFixed(1)} % off on ${manifest.name}'s known input.`,
  );
}
