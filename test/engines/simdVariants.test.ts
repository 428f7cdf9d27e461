/** Variants over one copy of the weights: engine `simd` changes between them in place. */
import v8 from "node:v8";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { sharedFamily } from "../../src/engines/family/index.ts";
import { openFlavour } from "../../src/engines/simd/engine.ts";
import { readFamily } from "../../src/format/family.ts";
import { type Architecture, type Model, plainArchitecture, type WeightsDtype } from "../../src/format/model.ts";
import { withVariant } from "../../src/format/variants.ts";
import { forward } from "../../src/reference/forward.ts";
import { expectClose, randomModel, randomPixels } from "../helpers.ts";
import { type Nested, nestedFamily } from "../nested.ts";

// As in simd.test.ts: the relaxed binary on Node 20, before anything is compiled.
v8.setFlagsFromString("--experimental-wasm-relaxed-simd");
v8.setFlagsFromString("--no-liftoff");

/** A panel has 8 channels: whole panels, or the width itself. */
const wholePanels = (width: number, random: number) => (random > 0.8 ? width : 8 * Math.floor((random * width) / 8));
const anyWidth = (width: number, random: number) => Math.ceil(width * random);

const width = fc.integer({ min: 1, max: 26 });
const networks: fc.Arbitrary<Architecture> = fc
  .record({
    embedDim: fc.integer({ min: 4, max: 40 }),
    blocks: fc.array(
      fc.record({ headDims: fc.array(width, { maxLength: 3 }), mlpHidden: fc.integer({ min: 0, max: 45 }) }),
      {
        minLength: 1,
        maxLength: 3,
      },
    ),
    merge: fc.integer({ min: 0, max: 3 }),
    kind: fc.constantFrom<Partial<Architecture>>(
      {},
      { qkNorm: true },
      { position: "relative" },
      { position: "rope", rope: { rows: [-0.5, 0.3], columns: [0.2, 0.4] } },
      { pooling: "mean", finalNorm: "pooled" },
      { classToken: false, prefixTokens: 0, pooling: "map", poolHeads: 1, poolHidden: 12, poolActivation: "gelu" },
    ),
  })
  .map(({ embedDim, blocks, merge, kind }) => {
    const even = (wide: number) => (kind.position === "rope" ? 2 * Math.ceil(wide / 2) : wide);
    const prefixTokens = kind.prefixTokens ?? 1;
    const keepIdx = [...Array(12 + prefixTokens).keys()];
    const canMerge = (heads: number[], last: boolean) => heads.length && kind.position !== "relative" && !last;
    return plainArchitecture({
      ...{ imageSize: [12, 16], patchSize: 4, embedDim, headDim: 26, layerNormEps: 1e-6, prefixTokens, ...kind },
      blocks: blocks.map(({ headDims, mlpHidden }, i) => ({
        ...{ headDims: headDims.map(even), mlpHidden, keepIdx },
        merge: canMerge(headDims, i === blocks.length - 1) ? merge : 0,
      })),
    });
  });

function modelOf(nested: Nested, dtype: WeightsDtype, name: string): Model {
  const { slabs } = nested.weights(dtype);
  return readFamily(withVariant(nested.manifest, name), dtype, slabs, "file");
}

/** int8 engines quantise activations too. */
const TOLERANCE: Record<WeightsDtype, number> = { f32: 1e-3, f16: 1e-3, int8: 0.4 };

async function alone(model: Model, flavour: "relaxed" | "plain", pixels: Float32Array) {
  const { family: _, ...single } = model;
  const engine = await openFlavour(single, { threads: 1, sharedFamily }, flavour);
  const { features } = await engine.run(pixels);
  engine.dispose();
  return features;
}

describe.each(["relaxed", "plain"] as const)("%s kernels", (flavour) => {
  test.each(["f32", "f16", "int8"] as const)(
    "in %s give each variant's own output, in whatever order",
    async (dtype) => {
      let sharing = 0;
      await fc.assert(
        fc.asyncProperty(
          networks,
          fc.integer({ min: 2, max: 4 }),
          fc.integer({ min: 0, max: 1e6 }),
          async (arch, count, seed) => {
            const nested = nestedFamily(randomModel(arch, seed), count, seed, wholePanels);
            const first = nested.names[seed % count];
            const whole = modelOf(nested, dtype, first);
            const engine = await openFlavour(whole, { threads: 1, sharedFamily }, flavour);
            if (engine.variants) sharing++;
            for (const name of !engine.variants
              ? [first]
              : [first, ...nested.names, ...[...nested.names].reverse(), first]) {
              engine.use?.(name);
              const model = modelOf(nested, dtype, name);
              const pixels = randomPixels(model.manifest, seed);
              const { features } = await engine.run(pixels);
              expectClose(features, await alone(model, flavour, pixels), 1e-5, name);
              if (dtype !== "int8") expectClose(features, forward(model, pixels).features, 1e-2, `${name}, plainly`);
            }
            engine.dispose();
          },
        ),
        { numRuns: 40 },
      );
      expect(sharing).toBeGreaterThan(15); // the others have a width that is no whole panels
    },
  );
});

const DEIT = plainArchitecture({
  ...{ imageSize: [24, 24], patchSize: 4, embedDim: 64, headDim: 32, layerNormEps: 1e-6, prefixTokens: 1 },
  blocks: [1, 2, 3].map(() => ({ headDims: [32, 32], mlpHidden: 256, keepIdx: [...Array(37).keys()] })),
});

test("all variants take the memory of the largest, and little more", async () => {
  const nested = nestedFamily(
    randomModel(DEIT, 1),
    4,
    3,
    (wide, random) => Math.max(8, wholePanels(wide, random)),
    true,
  );
  const engine = await openFlavour(modelOf(nested, "int8", "v0"), { threads: 1, sharedFamily }, "plain");
  const { family: _, ...single } = modelOf(nested, "int8", "v3");
  const largest = await openFlavour(single, { threads: 1, sharedFamily }, "plain");
  expect(engine.variants).toEqual(nested.names);
  expect(engine.memoryBytes! / largest.memoryBytes!).toBeLessThanOrEqual(1.1);
  engine.dispose();
  largest.dispose();
});

test("several threads change along", async () => {
  const nested = nestedFamily(randomModel(DEIT, 1), 3, 3, wholePanels, true);
  const engine = await openFlavour(modelOf(nested, "f16", "v2"), { threads: 3, sharedFamily }, "plain");
  expect(engine.threads).toBe(3);
  const names = nested.names;
  const expected = new Map<string, Float32Array>();
  for (const name of names) {
    const model = modelOf(nested, "f16", name);
    expected.set(name, await alone(model, "plain", randomPixels(model.manifest, 5)));
  }
  for (let i = 0; i < 300; i++) {
    const name = names[(i * 7 + (i >> 2)) % names.length];
    engine.use!(name);
    const { features } = await engine.run(randomPixels(withVariant(nested.manifest, name), 5));
    expectClose(features, expected.get(name)!, 1e-5, `${i}: ${name}`);
  }
  engine.dispose();
});

test("widths that share a panel have no common memory: the engine is opened for one variant", async () => {
  const nested = nestedFamily(randomModel(DEIT, 1), 3, 4, anyWidth, true);
  const engine = await openFlavour(modelOf(nested, "f32", "v1"), { threads: 1, sharedFamily }, "plain");
  expect(engine.variants).toBeUndefined();
  const model = modelOf(nested, "f32", "v1");
  const pixels = randomPixels(model.manifest, 1);
  expectClose((await engine.run(pixels)).features, forward(model, pixels).features, TOLERANCE.f32);
  engine.dispose();
});
