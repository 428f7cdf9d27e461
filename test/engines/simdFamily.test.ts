import v8 from "node:v8";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { openFlavour } from "../../src/engines/simd/engine.ts";
import { planMemory } from "../../src/engines/simd/plan.ts";
import { type BlockShape, type Model, plainArchitecture, type Tensors, tensorShapes } from "../../src/format/model.ts";
import { forward } from "../../src/reference/forward.ts";
import { FAMILY, familyArchitecture } from "../family.ts";
import { expectClose, manifestOf, randomModel, randomPixels } from "../helpers.ts";
import { comparePairs, encode, expectSame, MERGING } from "./networks.ts";
import { quantisedForward } from "./simulation.ts";

// As in simd.test.ts: the relaxed binary on Node 20, before anything is compiled.
v8.setFlagsFromString("--experimental-wasm-relaxed-simd");
v8.setFlagsFromString("--no-liftoff");

const flavours = ["relaxed", "plain"] as const;
type Flavour = (typeof flavours)[number];

/** The engine against the reference, both merging the pairs that the reference chooses. */
async function expectReference(model: Model, flavour: Flavour, threads = 1): Promise<void> {
  const pixels = randomPixels(model.manifest, 1);
  const expected = forward(model, pixels, { explain: true });
  const engine = await openFlavour(model, { threads }, flavour);
  try {
    const options = { explain: true, forcedPairs: expected.pairs };
    const output = await engine.run(pixels, options);
    expectSame(output, expected, 1e-4);
    expectSame(await engine.run(pixels, options), output, 0); // nothing is left over from the first run
    expect(output.pairs).toEqual(expected.pairs);
    expect(output.groups).toEqual(expected.groups);
  } finally {
    engine.dispose();
  }
}

/**
 * int8 against the same quantisation in plain loops, as in simd.test.ts: a value on the edge between two steps may fall
 * either way, so the bound is a few steps; where none does, the error is one of rounding.
 *
 * @returns the greatest error
 */
async function int8Error(model: Model, flavour: Flavour): Promise<number> {
  const pixels = randomPixels(model.manifest, 1);
  const expected = quantisedForward(model, pixels);
  const engine = await openFlavour(model, {}, flavour);
  const { logits, features } = await engine.run(pixels, { forcedPairs: expected.pairs });
  engine.dispose();
  expectClose(logits, expected.logits, 0.3, "logits");
  expectClose(features, expected.features, 0.3, "features");
  const errors = [...logits].map((v, i) => Math.abs(v - expected.logits[i]));
  return Math.max(0, ...errors, ...[...features].map((v, i) => Math.abs(v - expected.features[i])));
}

const median = (values: number[]) => values.sort((a, b) => a - b)[values.length >> 1];

describe.each(flavours)("simd, %s binary", (flavour) => {
  describe.each(["f32", "f16"] as const)("%s", (dtype) => {
    test.each(Object.entries(FAMILY))("gives the reference's output for %s", async (_, arch) => {
      await expectReference(encode(randomModel(arch, 3), dtype), flavour);
    });

    test("gives the reference's output for random networks of the family", async () => {
      await fc.assert(
        fc.asyncProperty(familyArchitecture(), fc.integer({ min: 0, max: 1e6 }), (arch, seed) =>
          expectReference(encode(randomModel(arch, seed), dtype), flavour),
        ),
        { numRuns: 150, seed: 1 },
      );
    });
  });

  test("int8 is its simulation for random networks of the family", async () => {
    const errors: number[] = [];
    for (const arch of Object.values(FAMILY))
      errors.push(await int8Error(encode(randomModel(arch, 3), "int8"), flavour));
    await fc.assert(
      fc.asyncProperty(familyArchitecture(), fc.integer({ min: 0, max: 1e6 }), async (arch, seed) => {
        // Norms of a few channels can magnify a rounding a thousandfold.
        const wide = { ...arch, embedDim: arch.embedDim + 8 * (arch.poolHeads ?? 1) };
        errors.push(await int8Error(encode(randomModel(wide, seed), "int8"), flavour));
      }),
      { numRuns: 80, seed: 2 },
    );
    expect(median(errors)).toBeLessThan(1e-4);
  });

  test.each([2, 4])("%i threads give what one gives, merges and all", async (threads) => {
    for (const arch of Object.values(FAMILY)) {
      for (const dtype of ["f32", "int8"] as const) {
        const model = encode(randomModel(arch, 5), dtype);
        const pixels = randomPixels(arch, 2);
        const one = await openFlavour(model, {}, flavour);
        const more = await openFlavour(model, { threads }, flavour);
        expect(more.threads).toBe(threads);
        const expected = await one.run(pixels, { explain: true });
        for (let run = 0; run < 5; run++) {
          const actual = await more.run(pixels, { explain: true, profile: run % 2 === 0 });
          expectSame(actual, expected, 1e-6);
          expect([actual.pairs, actual.groups]).toEqual([expected.pairs, expected.groups]);
        }
        one.dispose();
        more.dispose();
      }
    }
  });

  // Where it chooses for itself, a pair decided by rounding may fall differently. These are the least shares allowed.
  test.each([
    ["f32", 0.995, 40],
    ["f16", 0.995, 40],
    ["int8", 0.97, 39],
  ] as const)(
    "%s: finds at least %d of the reference's pairs, and the best class of %i in 40",
    async (dtype, share, best) => {
      const model = encode(randomModel(MERGING, 7, 50), dtype);
      const engine = await openFlavour(model, {}, flavour);
      const { equalPairs, sameBest } = await comparePairs(engine, model, 40);
      engine.dispose();
      expect(equalPairs).toBeGreaterThanOrEqual(share);
      expect(sameBest).toBeGreaterThanOrEqual(best);
    },
  );
});

const ACTIVATIONS = ["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"] as const;

describe("simd", () => {
  const arch = FAMILY["DeiT, merging"];
  const model = randomModel(arch, 3);
  const pixels = randomPixels(arch, 1);

  test("chooses for itself again after a run with forced pairs", async () => {
    const engine = await openFlavour(model, {}, "relaxed");
    const free = await engine.run(pixels, { explain: true });
    const forcedPairs = free.pairs!.map((pairs) => pairs.map(([a]): [number, number] => [a, 1]));
    const forced = await engine.run(pixels, { explain: true, forcedPairs });
    expect(forced.pairs).toEqual(forcedPairs);
    expect((await engine.run(pixels, { explain: true })).pairs).toEqual(free.pairs);
    engine.dispose();
  });

  test.each([
    ["too few", [[[2, 1]], [], []]],
    [
      "a prefix token",
      [
        [
          [2, 0],
          [4, 1],
          [6, 1],
        ],
        [],
        [],
      ],
    ],
    [
      "two of B",
      [
        [
          [2, 1],
          [3, 1],
          [6, 1],
        ],
        [],
        [],
      ],
    ],
    [
      "one of A twice",
      [
        [
          [2, 1],
          [2, 3],
          [6, 1],
        ],
        [],
        [],
      ],
    ],
    [
      "a row beyond the last",
      [
        [
          [2, 1],
          [4, 99],
          [6, 1],
        ],
        [],
        [],
      ],
    ],
  ])("refuses to merge %s", async (_, forcedPairs) => {
    const engine = await openFlavour(model, {}, "relaxed");
    const run = engine.run(pixels, { forcedPairs: forcedPairs as [number, number][][] });
    await expect(run).rejects.toMatchObject({ code: "bad-option", message: expect.stringContaining("forcedPairs[0]") });
    engine.dispose();
  });

  test("tells what merged where it is asked to, and of networks that merge", async () => {
    const engine = await openFlavour(model, {}, "relaxed");
    const output = await engine.run(pixels);
    expect([output.pairs, output.groups, output.attention]).toEqual([undefined, undefined, undefined]);
    engine.dispose();
    const plain = await openFlavour(randomModel(FAMILY.DeiT, 3), {}, "relaxed");
    const { pairs, groups } = await plain.run(randomPixels(FAMILY.DeiT, 1), { explain: true });
    expect([pairs, groups]).toEqual([undefined, undefined]);
    plain.dispose();
  });

  test("of tokens that are all alike the first ones merge", async () => {
    const alike = randomModel(arch, 3);
    alike.tensors.get("pos_embed")!.data.fill(0);
    const blank = new Float32Array(pixels.length);
    const engine = await openFlavour(alike, {}, "relaxed");
    const { pairs } = await engine.run(blank, { explain: true });
    expect(pairs![0]).toEqual([
      [2, 1],
      [4, 1],
      [6, 1],
    ]);
    engine.dispose();
  });

  test.each(ACTIVATIONS)("%s within 2e-6, or 4e-8 of what it is of", async (activation) => {
    const one = randomModel(
      plainArchitecture({
        ...{ imageSize: [4, 4], patchSize: 4, embedDim: 2, headDim: 8, layerNormEps: 1, prefixTokens: 1, activation },
        blocks: [{ headDims: [], mlpHidden: 1, keepIdx: [0, 1], merge: 0 }],
      }),
      1,
    );
    for (const { data } of one.tensors.values()) data.fill(0);
    one.tensors.get("norm.weight")!.data.fill(1);
    one.tensors.get("blocks.0.mlp.fc2.weight")!.data[0] = 1;
    const blank = randomPixels(one.manifest, 1);
    for (const x of [-80, -30, -5.5, -2.2, -1, -1e-3, 0, 0.7, 2, 5.3, 5.5, 40, 90]) {
      one.tensors.get("blocks.0.mlp.fc1.bias")!.data[0] = x;
      for (const flavour of flavours) {
        const engine = await openFlavour(one, {}, flavour);
        const { features } = await engine.run(blank);
        engine.dispose();
        expectClose(
          features,
          forward(one, blank).features,
          Math.max(2e-6, 4e-8 * Math.abs(x)),
          `of ${x}, ${flavour} binary`,
        );
      }
    }
  });
});

test("ViT-B/16 takes at most its weights and 60 MB", () => {
  const keepIdx = [...Array(197).keys()];
  const block = { headDims: Array<number>(12).fill(64), mlpHidden: 3072, keepIdx, merge: 0 };
  const arch = plainArchitecture({
    ...{ imageSize: [224, 224], patchSize: 16, embedDim: 768, headDim: 64, layerNormEps: 1e-5, prefixTokens: 1 },
    ...{ preNorm: true, activation: "quick_gelu" },
    blocks: [...Array<BlockShape>(10).fill({ ...block, merge: 10 }), block, block],
  });
  const tensors: Tensors = new Map();
  let weightBytes = 0;
  for (const [key, shape] of tensorShapes(arch, 1000)) {
    const data = new Uint16Array(shape.reduce((a, b) => a * b, 1));
    tensors.set(key, { dtype: "F16", shape, data });
    weightBytes += data.byteLength;
  }
  const model: Model = { manifest: manifestOf(arch, 1000), dtype: "f16", tensors };
  const { plan } = planMemory(model, { flavour: "relaxed", threads: 8, spins: 0, maySleep: true });
  expect(plan.bytes).toBeGreaterThan(weightBytes);
  expect(plan.bytes).toBeLessThan(weightBytes + 60e6);
});
