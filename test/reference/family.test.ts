import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { readManifest, readModel } from "../../src/format/read.ts";
import { manifestJson, writeWeights } from "../../src/format/write.ts";
import { forward } from "../../src/reference/forward.ts";
import { FAMILY, familyModel } from "../family.ts";
import { expectClose, randomModel, randomPixels } from "../helpers.ts";

describe("a model of the family", () => {
  test.each(Object.entries(FAMILY))("%s is read as it was written", (_, arch) => {
    const model = randomModel(arch, 1);
    const manifest = readManifest(JSON.stringify(manifestJson(model.manifest)), "x");
    expect(manifest).toEqual(model.manifest);
    const read = readModel(manifest, "f32", writeWeights(model.tensors), "x");
    const pixels = randomPixels(arch, 2);
    expectClose(forward(read, pixels).features, forward(model, pixels).features, 0);
  });

  test("drawn at random is read as it was written", () => {
    fc.assert(
      fc.property(familyModel(), (model) => {
        const manifest = readManifest(JSON.stringify(manifestJson(model.manifest)), "x");
        expect(manifest).toEqual(model.manifest);
        const read = readModel(manifest, "f32", writeWeights(model.tensors), "x");
        const pixels = randomPixels(manifest, 2);
        const { logits, features } = forward(read, pixels);
        const expected = forward(model, pixels);
        expectClose(logits, expected.logits, 0);
        expectClose(features, expected.features, 0);
        expect(features.every(Number.isFinite)).toBe(true);
      }),
      { numRuns: 150, seed: 1 },
    );
  });
});
