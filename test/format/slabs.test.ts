import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { readFamily } from "../../src/format/family.ts";
import { readModel } from "../../src/format/read.ts";
import { withVariant } from "../../src/format/variants.ts";
import { writeWeights } from "../../src/format/write.ts";
import { forward } from "../../src/reference/forward.ts";
import { FAMILY, familyModel } from "../family.ts";
import { randomModel, randomPixels } from "../helpers.ts";
import { nestedFamily } from "../nested.ts";

const shrink = (width: number, random: number) => Math.floor(width * Math.min(1, random * 1.5));

describe.each(["f32", "f16", "int8"] as const)("in %s", (dtype) => {
  test("every variant of a file gives exactly the logits of that variant exported alone", () => {
    fc.assert(
      fc.property(
        familyModel(),
        fc.integer({ min: 2, max: 4 }),
        fc.integer({ min: 0, max: 1e6 }),
        (large, count, seed) => {
          const nested = nestedFamily(large, count, seed, shrink);
          const { slabs, variants } = nested.weights(dtype);
          nested.names.forEach((name, k) => {
            const manifest = withVariant(nested.manifest, name);
            const own = { ...variants[k].manifest, position: manifest.position };
            const alone = readModel(own, dtype, writeWeights(variants[k].tensors), "alone");
            const pixels = randomPixels(manifest, seed);
            const expected = forward(alone, pixels);
            // From the prefix that it needs, and as one of the family that the whole file makes.
            for (const count of new Set([k + 1, slabs.length])) {
              const model = readFamily(manifest, dtype, slabs.slice(0, count), "file");
              expect(model.family!.names).toHaveLength(count);
              const actual = forward(model.family!.model(name), pixels);
              expect(actual.features).toEqual(expected.features);
              expect(actual.logits).toEqual(expected.logits);
            }
          });
        },
      ),
      { numRuns: 60 },
    );
  });
});

test.each(Object.keys(FAMILY))("%s has variants", (kind) => {
  const nested = nestedFamily(randomModel(FAMILY[kind], 1), 3, 7, (width) => width >> 1 || 1, true);
  const { slabs, variants } = nested.weights("f16");
  const manifest = withVariant(nested.manifest, "v1");
  const pixels = randomPixels(manifest, 3);
  const alone = readModel(variants[1].manifest, "f16", writeWeights(variants[1].tensors), "alone");
  expect(forward(readFamily(manifest, "f16", slabs, "file"), pixels)).toEqual(forward(alone, pixels));
});

test("what variants share is stored once", () => {
  const large = randomModel({ ...FAMILY.DeiT, embedDim: 64 }, 1);
  const nested = nestedFamily(large, 4, 3, (width) => Math.ceil(width * 0.75), true);
  const { slabs, variants } = nested.weights("f32");
  const sizeOf = (bytes: Uint8Array) => bytes.length - Number(new DataView(bytes.buffer).getBigUint64(0, true)) - 8;
  const own = sizeOf(writeWeights(variants[3].tensors));
  const differing = variants.slice(0, 3).map(({ tensors }) => tensors);
  const more = differing.reduce(
    (sum, tensors) =>
      sum +
      [...tensors]
        .filter(([key, { data }]) => {
          const whole = large.tensors.get(key)!.data;
          return data.length === whole.length && !data.every((v, i) => v === whole[i]);
        })
        .reduce((bytes, [, { data }]) => bytes + data.byteLength, 0),
    0,
  );
  const total = slabs.reduce((sum, slab) => sum + sizeOf(slab), 0);
  expect(total).toBeGreaterThanOrEqual(own);
  expect(total).toBeLessThanOrEqual(own + 2 * more + 4 * 1024);
  expect(sizeOf(slabs[0])).toBe(sizeOf(writeWeights(variants[0].tensors)));
});
