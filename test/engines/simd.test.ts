import v8 from "node:v8";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { chooseFlavour, hasRelaxedDot } from "../../src/engines/simd/binary.ts";
import { openFlavour } from "../../src/engines/simd/engine.ts";
import { type Architecture, countMacs, denseTokens, type Model, plainArchitecture } from "../../src/format/model.ts";
import { forward } from "../../src/reference/forward.ts";
import { cut, expectClose, randomModel, randomPixels, readGolden, slimArchitecture } from "../helpers.ts";
import { architecture, encode, expectSame, range, slimCases } from "./networks.ts";
import { quantisedForward } from "./simulation.ts";

// Node 20 has relaxed SIMD behind a flag, and its baseline compiler computes the dot product wrongly. Both flags are taken
// before anything is compiled.
v8.setFlagsFromString("--experimental-wasm-relaxed-simd");
v8.setFlagsFromString("--no-liftoff");

const flavours = ["relaxed", "plain"] as const;
const dtypes = ["f32", "f16", "int8"] as const;
const golden = readGolden();
async function expectReference(
  model: Model,
  flavour: (typeof flavours)[number],
  seed = 1,
  tolerance = 1e-4,
  threads = 1,
): Promise<void> {
  const pixels = randomPixels(model.manifest, seed);
  const engine = await openFlavour(model, { threads }, flavour);
  try {
    expect(engine.threads).toBe(threads);
    const output = await engine.run(pixels, { explain: true });
    expectSame(output, forward(model, pixels, { explain: true }), tolerance);
    expectSame(await engine.run(pixels, { explain: true }), output, 0); // nothing is left over from the first run
  } finally {
    engine.dispose();
  }
}

test("this Node runs both binaries", () => {
  expect(hasRelaxedDot()).toBe(true);
  expect(chooseFlavour()).toBe("relaxed");
});

describe.each(flavours)("simd, %s binary", (flavour) => {
  test.each(golden.cases)("gives PyTorch's logits for the golden network, cut by $name", async ({ cuts, logits }) => {
    const engine = await openFlavour(cut(golden.model, cuts), {}, flavour);
    for (const [i, pixels] of golden.images.entries()) {
      expectClose((await engine.run(pixels)).logits, logits[i], 1e-4);
    }
    engine.dispose();
  });

  describe.each(dtypes)("%s", (dtype) => {
    test.each(slimCases)("%s", async (_, arch) => {
      const model = encode(randomModel(arch, 7, 13), dtype);
      if (dtype === "int8") await expectSimulation(model, flavour);
      else await expectReference(model, flavour);
    });

    test("random slim networks, small", async () => {
      const errors: number[] = [];
      await fc.assert(
        fc.asyncProperty(slimArchitecture(), fc.integer({ min: 0, max: 1e6 }), async (arch, seed) => {
          // Norms of a few channels can magnify a rounding a thousandfold.
          const wide = { ...arch, embedDim: arch.embedDim + 8 };
          const model = encode(randomModel(wide, seed), dtype);
          if (dtype === "int8") errors.push(await expectSimulation(model, flavour, seed));
          else await expectReference(model, flavour, seed);
        }),
        { numRuns: 40, seed: 1 },
      );
      if (dtype === "int8") expect(median(errors)).toBeLessThan(1e-4);
    });

    test("random slim networks, large", async () => {
      const errors: number[] = [];
      await fc.assert(
        fc.asyncProperty(largeArchitecture(), fc.integer({ min: 0, max: 1e6 }), async (arch, seed) => {
          const model = encode(randomModel(arch, seed), dtype);
          if (dtype === "int8") errors.push(await expectSimulation(model, flavour, seed));
          else await expectReference(model, flavour, seed);
        }),
        { numRuns: 15, seed: 2 },
      );
      if (dtype === "int8") expect(median(errors)).toBeLessThan(1e-4);
    });
  });

  test("layers of an int8 model may be left in f32 and f16", async () => {
    const model = randomModel(architecture({ headDims: [5, 8] }, { headDims: [3] }, {}), 5);
    const [int8, f16] = [encode(model, "int8"), encode(model, "f16")];
    const keys = [...model.tensors.keys()].filter((key) => int8.tensors.get(key)!.dtype === "I8");
    keys.forEach((key, i) => {
      if (i % 3 === 0) return;
      int8.tensors.set(key, (i % 3 === 1 ? model : f16).tensors.get(key)!);
      int8.tensors.delete(key.replace(/weight$/, "scale"));
    });
    await expectSimulation(int8, flavour);
  });

  test("int8 sums keep every bit where all activations are at their greatest and weights as large as can be", async () => {
    const arch = architecture({ headDims: [], mlpHidden: 64 });
    const model = randomModel(arch, 9);
    const set = (key: string, value: number) => model.tensors.get(key)!.data.fill(value);
    set("blocks.0.norm2.weight", 0);
    set("blocks.0.norm2.bias", 1); // so every activation of fc1 is the row's greatest
    set("blocks.0.mlp.fc1.bias", 0);
    // Pairs of steps on both sides of what 16 bits hold: 127 × 258 = 32,766.
    const patterns = [
      [127, 127, 4, 0],
      [127, 127, 5, 0],
      [127, 127, 127, 127],
      [-127, -127, -4, 1],
      [-127, -127, -127, -127],
      [65, 64, 65, 64],
      [65, 65, 65, 64],
      [127, -127, 127, 127],
    ];
    // A pattern for each 8 outputs, which the engine judges together: of the first four or the last, columns 0, 1, 4 and 5.
    const weights = Int8Array.from({ length: 64 * 20 }, (_, i) => {
      const [output, column] = [Math.floor(i / 20), i % 20];
      return column < 8 && !(column & 2) && output >> 5 === ((output >> 2) & 1)
        ? patterns[output >> 3][(column & 1) + (column >> 2) * 2]
        : 0;
    });
    model.tensors.set("blocks.0.mlp.fc1.weight", { dtype: "I8", shape: [64, 20], data: weights });
    const scale = Float32Array.from({ length: 64 }, (_, row) => 0.001 * (1 + row / 64));
    model.tensors.set("blocks.0.mlp.fc1.scale", { dtype: "F32", shape: [64], data: scale });
    await expectSimulation({ ...model, dtype: "int8" }, flavour, 1, 1e-4);
  });

  test("GELU in its erf form, not the tanh form", async () => {
    const model = randomModel({ ...architecture({ headDims: [], mlpHidden: 1 }), embedDim: 2, layerNormEps: 1 }, 1);
    for (const { data } of model.tensors.values()) data.fill(0);
    model.tensors.get("norm.weight")!.data.fill(1);
    model.tensors.get("blocks.0.mlp.fc2.weight")!.data[0] = 1;
    for (const x of [-2.2, -30, -5.5, -1, -1e-3, 0, 0.7, 5.3, 5.5, 40]) {
      model.tensors.get("blocks.0.mlp.fc1.bias")!.data[0] = x;
      await expectReference(model, flavour, 1, 2e-6);
    }
  });

  test("f16 subnormals are widened exactly", async () => {
    const model = randomModel(architecture({}), 3);
    const weight = model.tensors.get("head.weight")!;
    weight.data = weight.data.map((v) => v * 2 ** -14);
    model.tensors.get("head.bias")!.data.fill(0);
    const halves = encode(model, "f16");
    const pixels = randomPixels(model.manifest, 1);
    const engine = await openFlavour(halves, {}, flavour);
    expectClose((await engine.run(pixels)).logits, forward(halves, pixels).logits, 1e-9);
    engine.dispose();
  });

  test("scores far apart stay finite", async () => {
    const model = randomModel(architecture({}, {}), 4);
    const qkv = model.tensors.get("blocks.0.attn.qkv.weight")!;
    qkv.data = qkv.data.map((v) => v * 300);
    await expectReference(model, flavour, 1, 1e-3);
  });

  test.each([2, 4])("%i threads give what one gives", async (threads) => {
    for (const dtype of dtypes) {
      const model = encode(golden.model, dtype);
      const one = await openFlavour(model, {}, flavour);
      const more = await openFlavour(model, { threads }, flavour);
      expect(more.threads).toBe(threads);
      for (let i = 0; i < 40; i++) {
        const pixels = golden.images[i % 4];
        const options = { explain: true, profile: i % 3 === 0 };
        expectSame(await more.run(pixels, options), await one.run(pixels, { explain: true }), 1e-6);
      }
      one.dispose();
      more.dispose();
    }
  });
});

/** 1 to 16 heads of width 1 to 96, up to 1000 units and 600 tokens, odd everything; as many tokens as plain loops can do. */
function largeArchitecture(): fc.Arbitrary<Architecture> {
  const widths = fc.integer({ min: 1, max: 96 });
  const block = fc.record({
    headDims: fc.array(widths, { minLength: 1, maxLength: 16, size: "max" }),
    mlpHidden: fc.integer({ min: 0, max: 1000 }),
    kept: fc.double({ min: 0.3, max: 1, noNaN: true }),
  });
  return fc
    .record({
      columns: fc.integer({ min: 1, max: 30 }),
      rows: fc.integer({ min: 1, max: 20 }),
      embedDim: fc.integer({ min: 8, max: 203 }),
      patchSize: fc.integer({ min: 1, max: 5 }),
      prefixTokens: fc.constantFrom(1 as const, 2 as const),
      blocks: fc.array(block, { minLength: 1, maxLength: 2 }),
    })
    .map(({ columns, rows, blocks, patchSize, ...rest }) => {
      const build = (height: number): Architecture => {
        const arch = {
          ...rest,
          patchSize,
          headDim: 96,
          layerNormEps: 1e-6,
          imageSize: [height * patchSize, columns * patchSize] as [number, number],
        };
        let keepIdx = range(denseTokens(plainArchitecture({ ...arch, blocks: [] })));
        return plainArchitecture({
          ...arch,
          blocks: blocks.map(({ kept, ...shape }) => {
            keepIdx = keepIdx.filter((token) => token < rest.prefixTokens || (token * 0.618034) % 1 < kept);
            return { ...shape, keepIdx };
          }),
        });
      };
      let height = rows;
      while (height > 1 && countMacs(build(height), 5) > 4e7) height--;
      return build(height);
    });
}

/**
 * Against the same quantisation in plain loops. A value that lies on the edge between two steps may fall either way, so
 * the bound is a few steps of a few of the summands; where none does, the error is one of rounding.
 *
 * @returns the greatest error
 */
async function expectSimulation(
  model: Model,
  flavour: (typeof flavours)[number],
  seed = 1,
  tolerance = 0.1,
): Promise<number> {
  const pixels = randomPixels(model.manifest, seed);
  const engine = await openFlavour(model, {}, flavour);
  const actual = await engine.run(pixels);
  engine.dispose();
  const expected = quantisedForward(model, pixels);
  expectClose(actual.logits, expected.logits, tolerance, "logits");
  expectClose(actual.features, expected.features, tolerance, "features");
  return Math.max(
    ...actual.logits.map((v, i) => Math.abs(v - expected.logits[i])),
    ...actual.features.map((v, i) => Math.abs(v - expected.features[i])),
  );
}

const median = (values: number[]) => values.sort((a, b) => a - b)[values.length >> 1];
