import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { Manifest } from "../../src/format/model.ts";
import { cardText, interval } from "../../tools/models/card.ts";
import { readManifestFile } from "../../tools/models/folders.ts";
import { manifestOf } from "../helpers.ts";

const MODELS = new URL("../../models", import.meta.url).pathname;
const shipped = readdirSync(MODELS).filter((name) => existsSync(join(MODELS, name, "slimvit.json")));

test("there are shipped models", () => {
  expect(shipped).toContain("deit-tiny");
});

test.each(shipped)("the card of %s is what its manifest says", (name) => {
  const card = cardText(readManifestFile(join(MODELS, name)));
  expect(readFileSync(join(MODELS, name, "card.md"), "utf8")).toBe(card);
  expect(card).toMatch(/assumed 3 heads of 64 channels \(timm's; --heads\), LayerNorm eps 0\.000001 \(timm's; --eps\)/);
});

test.each([
  [81, 263, "25.5 %–36.6 %"],
  [15, 148, "6.2 %–16.0 %"],
  [0, 20, "0.0 %–16.1 %"],
  [1, 29, "0.6 %–17.2 %"],
])("the interval of %i in %i is Newcombe's (1998, table I, method 3)", (right, n, expected) => {
  expect(interval(right / n, n)).toBe(expected);
});

describe("the card of an oblong network, of which much was cut", () => {
  const blocks = [
    { headDims: [8, 3], mlpHidden: 20, keepIdx: [0, 1, 2, 3, 5, 7, 8] },
    { headDims: [4], mlpHidden: 7, keepIdx: [0, 5, 8] },
  ];
  const sizes = { imageSize: [16, 32] as [number, number], patchSize: 8, embedDim: 16, headDim: 8 };
  /** Dense, it had three heads and 24 units in each block. */
  const manifest = (steps: object[] = []): Manifest => {
    const plain = manifestOf({ ...sizes, layerNormEps: 1e-6, prefixTokens: 1, blocks });
    return { ...plain, provenance: { dense: { heads: 3, mlpHidden: [24, 24] }, steps } };
  };

  test("has width before height, and shares of what is recorded as dense", () => {
    const card = cardText(manifest());
    expect(card).toContain("32×16 px in patches of 8");
    expect(card).toContain("| attention channels | 15 of 48 | 31.3 % |");
    expect(card).toContain("| MLP units | 27 of 48 | 56.3 % |");
    expect(card).toContain("| tokens over all blocks | 10 of 18 | 55.6 % |");
  });

  test("compares with the first of the sizes that it had", () => {
    const moved = [{ imageSizeBefore: [32, 64] }, { command: "thin" }, { imageSizeBefore: [24, 24] }];
    expect(cardText(manifest(moved))).toMatch(/\| \| [\d.]+ % of the dense model's at 64×32 px \|/);
    expect(cardText(manifest([{ imageSizeBefore: [16, 32] }]))).not.toContain("before it was moved");
  });
});
