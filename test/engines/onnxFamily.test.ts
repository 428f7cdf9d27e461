/** The ONNX graph of the whole family, held against the reference. */
import fc from "fast-check";
import { InferenceSession, Tensor } from "onnxruntime-web";
import { describe, expect, test } from "vitest";
import type { RunOutput } from "../../src/engines/engine.ts";
import { openOnnx } from "../../src/engines/onnx/engine.ts";
import { INPUT, type OnnxOptions, writeOnnx } from "../../src/engines/onnx/graph.ts";
import { encodeFloat16 } from "../../src/format/float16.ts";
import { type Model, plainArchitecture } from "../../src/format/model.ts";
import { encodeTensors } from "../../src/format/write.ts";
import { forward } from "../../src/reference/forward.ts";
import { FAMILY, familyModel } from "../family.ts";
import { checkOnnx } from "../fuzz/onnx-reader.ts";
import { expectClose, randomModel, randomPixels } from "../helpers.ts";
import { comparePairs, expectSame as expectSameValues, MERGING } from "./networks.ts";

/** What a graph gives for some pictures at once. */
async function infer(model: Model, pictures: Float32Array[], options: OnnxOptions = {}) {
  const session = await InferenceSession.create(writeOnnx(model, options), { logSeverityLevel: 3 });
  const pixels = Float32Array.from(pictures.flatMap((picture) => [...picture]));
  const shape = [pictures.length, 3, ...model.manifest.imageSize];
  const outputs = await session.run({ [INPUT]: new Tensor("float32", pixels, shape) });
  const results = Object.entries(outputs).map(([name, { data, dims }]): [string, Float32Array] => {
    expect(dims[0], name).toBe(pictures.length);
    return [name, Float32Array.from(data as Float32Array)];
  });
  await session.release();
  return Object.fromEntries(results);
}

function expectSame(actual: RunOutput, expected: RunOutput, tolerance = 1e-4): void {
  expectSameValues(actual, expected, tolerance);
  expect([actual.pairs, actual.groups]).toEqual([expected.pairs, expected.groups]);
}

describe.each(Object.entries(FAMILY))("%s", (_, arch) => {
  const model = randomModel(arch, 3);
  const pictures = [1, 2, 3].map((seed) => randomPixels(arch, seed));

  test.each(["f32", "f16", "int8"] as const)("onnx-wasm gives the reference's output for %s weights", async (dtype) => {
    const encoded: Model = { ...model, dtype, tensors: encodeTensors(model.tensors, dtype) };
    const engine = await openOnnx(encoded, {});
    for (const pixels of pictures) {
      const explained = await engine.run(pixels, { explain: true });
      expectSame(explained, forward(encoded, pixels, { explain: true, forcedPairs: explained.pairs }));
      const { logits, features, attention } = await engine.run(pixels);
      expectClose(logits, explained.logits, 1e-5);
      expectClose(features, explained.features, 1e-5);
      expect(attention).toBeUndefined();
    }
    engine.dispose();
  });

  test("its graph is whole", () => {
    checkOnnx(writeOnnx(model), model.manifest);
    checkOnnx(writeOnnx(model, { freeBatch: true }), model.manifest, "batch");
  });

  test("a free batch gives each picture what it gets alone", async () => {
    for (const few of [pictures, pictures.slice(0, 1)]) {
      const { logits, features } = await infer(model, few, { freeBatch: true });
      const expected = few.map((pixels) => forward(model, pixels));
      const all = (of: "logits" | "features") => Float32Array.from(expected.flatMap((output) => [...output[of]]));
      expectClose(features, all("features"), 1e-4);
      if (arch.head) expectClose(logits, all("logits"), 1e-4);
      else expect(logits).toBeUndefined();
    }
  });

  test("in f16 it stays within 0.05", async () => {
    const expected = forward(model, pictures[0], { explain: true });
    const options = { half: encodeFloat16, forcedPairs: expected.pairs };
    const { logits = new Float32Array(0), features } = await infer(model, pictures.slice(0, 1), options);
    expectClose(features, expected.features, 0.05);
    expectClose(logits, expected.logits, 0.05);
  });
});

test("random networks of the whole family give the reference's outputs, merging what the reference merges", async () => {
  await fc.assert(
    fc.asyncProperty(familyModel(), fc.integer({ min: 0, max: 1e6 }), async (model, seed) => {
      const pixels = randomPixels(model.manifest, seed);
      const expected = forward(model, pixels, { explain: true });
      const { logits = new Float32Array(0), features } = await infer(model, [pixels], { forcedPairs: expected.pairs });
      expectClose(features, expected.features, 1e-4, "features");
      expectClose(logits, expected.logits, 1e-4, "logits");
    }),
    { numRuns: 100, seed: 24 },
  );
});

test("random networks of the whole family in a free batch, merging what they choose", async () => {
  await fc.assert(
    fc.asyncProperty(familyModel(), async (model) => {
      const pictures = [1, 2].map((seed) => randomPixels(model.manifest, seed));
      const { features } = await infer(model, pictures, { freeBatch: true });
      const engine = await openOnnx(model, {});
      for (const [k, pixels] of pictures.entries()) {
        const alone = await engine.run(pixels, { explain: true });
        const expected = forward(model, pixels, { explain: true, forcedPairs: alone.pairs });
        expectSame(alone, expected);
        const { length } = alone.features;
        expectClose(features.subarray(k * length, (k + 1) * length), alone.features, 1e-4, `picture ${k}`);
      }
      engine.dispose();
    }),
    { numRuns: 40, seed: 31 },
  );
});

describe("merges", () => {
  test("at least 99.5 % of the pairs, and each best class of 40, are the reference's", async () => {
    const model = randomModel(MERGING, 7, 50);
    const engine = await openOnnx(model, {});
    const { equalPairs, sameBest } = await comparePairs(engine, model, 40);
    engine.dispose();
    expect(equalPairs).toBeGreaterThanOrEqual(0.995);
    expect(sameBest).toBe(40);
  });

  test("of tokens that are all alike the first ones merge", async () => {
    const arch = FAMILY["DeiT, merging"];
    const model = randomModel(arch, 3);
    model.tensors.get("pos_embed")!.data.fill(0);
    const engine = await openOnnx(model, {});
    const { pairs } = await engine.run(new Float32Array(3 * arch.imageSize[0] * arch.imageSize[1]), { explain: true });
    engine.dispose();
    expect(pairs![0]).toEqual([
      [2, 1],
      [4, 1],
      [6, 1],
    ]);
  });
});

test("an activation with a form of its own is within 2e-6", async () => {
  for (const activation of ["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"] as const) {
    const one = randomModel(
      plainArchitecture({
        ...{ imageSize: [4, 4], patchSize: 4, embedDim: 2, headDim: 8, layerNormEps: 1, prefixTokens: 1, activation },
        finalNorm: "none",
        blocks: [{ headDims: [], mlpHidden: 1, keepIdx: [0, 1], merge: 0 }],
      }),
      1,
    );
    for (const { data } of one.tensors.values()) data.fill(0);
    one.tensors.get("blocks.0.mlp.fc2.weight")!.data[0] = 1;
    const pixels = randomPixels(one.manifest, 1);
    for (const x of [-80, -5.5, -2.2, -1e-3, 0, 0.7, 2, 40]) {
      one.tensors.get("blocks.0.mlp.fc1.bias")!.data[0] = x;
      const { features } = await infer(one, [pixels]);
      expectClose(features, forward(one, pixels).features, Math.max(2e-6, 4e-8 * Math.abs(x)), `${activation} of ${x}`);
    }
  }
});
