import { expect, test } from "vitest";
import type { Engine } from "../../src/engines/engine.ts";
import { isWrongResults, selfTest } from "../../src/engines/selfTest.ts";
import type { Model, WeightsDtype } from "../../src/format/model.ts";
import { singleVariant } from "../../src/format/variants.ts";
import { readGolden } from "../helpers.ts";

const { model } = readGolden();

/** Counts its runs; always answers the same. */
function fakeEngine(name: Engine["name"], logit = 0) {
  const engine = {
    name,
    threads: 1,
    runs: 0,
    run: async () => {
      engine.runs++;
      return { logits: new Float32Array(10).fill(logit), features: new Float32Array(48) };
    },
    dispose() {},
  };
  return engine;
}

/** The golden model, whose manifest says that every logit of the known input is this. */
function withLogits(logit: number, dtype: WeightsDtype = "f32"): Model {
  const selfTest = { [dtype]: { seed: 3, logits: Array<number>(10).fill(logit) } };
  const variants = [{ ...model.manifest.variants[0], selfTest }];
  return { ...model, dtype, manifest: { ...model.manifest, variants } };
}

test("an engine is warmed up also by a manifest that knows no logits, the slow reference is not", async () => {
  const [gpu, reference] = [fakeEngine("onnx-webgpu"), fakeEngine("reference")];
  for (const engine of [gpu, reference]) await selfTest(engine, model);
  expect([gpu.runs, reference.runs]).toEqual([1, 0]);
});

test.each([
  ["f32", 1.005, 1.02],
  ["f16", 1.02, 1.06],
  ["int8", 1.1, 1.3],
] as const)("in %s rounding is let through, more is not", async (dtype, rounded, wrong) => {
  const known = withLogits(1, dtype);
  await selfTest(fakeEngine("onnx-webgpu", rounded), known);
  await expect(selfTest(fakeEngine("onnx-webgpu", wrong), known)).rejects.toMatchObject({ code: "unsupported" });
});

test("known logits are held against those of the first run", async () => {
  const engine = fakeEngine("simd");
  await selfTest(engine, withLogits(0));
  const error = await selfTest(engine, withLogits(1)).catch((error: unknown) => error);
  expect(error).toMatchObject({ code: "unsupported", message: expect.stringMatching(/expected at most 1 %/) });
  expect(isWrongResults(error)).toBe(true);
  expect(engine.runs).toBe(2);
});

test("of an embedding model the features are held against the known ones", async () => {
  const { head: _, ...embedding } = model.manifest;
  const withFeatures = (feature: number) => {
    const selfTest = { f32: { seed: 3, features: Array<number>(48).fill(feature) } };
    return { ...model, manifest: singleVariant({ ...embedding, labels: [] }, selfTest) };
  };
  await selfTest(fakeEngine("simd"), withFeatures(0));
  await expect(selfTest(fakeEngine("simd"), withFeatures(1))).rejects.toMatchObject({ code: "unsupported" });
});
