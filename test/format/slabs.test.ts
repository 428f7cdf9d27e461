import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { readFamily } from "../../src/format/family.ts";
import { readModel } from "../../src/format/read.ts";
import { checkSlabs } from "../../src/format/slabFields.ts";
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

describe("a manifest whose slabs do not add up is refused", () => {
  const nested = nestedFamily(randomModel(FAMILY.DeiT, 1), 2, 3, (width) => width >> 1);
  const sha256 = "0".repeat(64);
  const sound = () => ({
    ...nested.manifest,
    weights: [
      {
        ...{ dtype: "int8" as const, file: "model.int8.safetensors.zz", bytes: 100, unpackedBytes: 300, sha256 },
        slabs: [40, 60].map((bytes) => ({ bytes, unpackedBytes: 3 * bytes, sha256 })),
      },
    ],
  });
  type Sound = ReturnType<typeof sound>;
  test.each<[string, (manifest: Sound) => unknown, RegExp]>([
    ["nothing", () => {}, /^$/],
    [
      "no slabs in the file",
      (m) => delete (m.weights[0] as { slabs?: unknown }).slabs,
      /slabs is undefined; expected a list/,
    ],
    ["a slab too few", (m) => m.weights[0].slabs.pop(), /slabs has 1 entries; expected 2/],
    ["bytes", (m) => m.weights[0].slabs[0].bytes++, /slabs have 101 bytes; the file has 100/],
    ["unpacked bytes", (m) => m.weights[0].slabs[1].unpackedBytes--, /slabs have 299 unpackedBytes; the file has 300/],
    ["a negative size", (m) => (m.weights[0].slabs[0].bytes = -1), /slabs\[0\].bytes is -1/],
    ["a hash", (m) => (m.weights[0].slabs[1].sha256 = "00"), /slabs\[1\].sha256 is "00"; expected 64 hex digits/],
    ["a variant without", (m) => delete m.variants[0].slabs, /variants\[0\].slabs is undefined/],
    ["no variant of the first", (m) => (m.variants[1].slabs = 2), /no variant of 1 slabs/],
    ["too many", (m) => (m.variants[0].slabs = 1e9), /variants\[0\].slabs is 1000000000/],
    ["slabs alone", (m) => m.variants.forEach((v) => void delete v.slabs), /weights\[0\] has slabs/],
  ])("%s", (_, change, fault) => {
    const manifest = structuredClone(sound());
    change(manifest);
    let message = "";
    try {
      checkSlabs(manifest, "m.json");
    } catch (error) {
      message = (error as Error).message;
      expect(error).toMatchObject({ code: "bad-model", message: expect.stringMatching(/^m\.json: /) });
    }
    expect(message).toMatch(fault);
  });
});
