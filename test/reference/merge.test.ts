import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type Architecture, type Model, tokenCounts } from "../../src/format/model.ts";
import { forward } from "../../src/reference/forward.ts";
import { choosePairs, mergedRows, mergeRows, mergeSizes } from "../../src/reference/merge.ts";
import { FAMILY, familyModel } from "../family.ts";
import { expectClose, randomModel, randomPixels } from "../helpers.ts";

const merging = familyModel().filter(({ manifest }) => manifest.blocks.some(({ merge }) => merge > 0));
const RUNS = { numRuns: 80, seed: 5 };

function unmerged(model: Model): Model {
  const blocks = model.manifest.blocks.map((block) => ({ ...block, merge: 0 }));
  return { ...model, manifest: { ...model.manifest, blocks } };
}

describe("merging", () => {
  test("of no pairs changes the order of patches alone", () => {
    fc.assert(
      fc.property(merging, (model) => {
        const pixels = randomPixels(model.manifest, 1);
        const none = model.manifest.blocks.map(() => []);
        const actual = forward(model, pixels, { forcedPairs: none });
        expectClose(actual.features, forward(unmerged(model), pixels).features, 2e-5);
      }),
      RUNS,
    );
  });

  test("of patches that are all alike changes nothing, whatever the pooling", () => {
    fc.assert(
      fc.property(merging, (model) => {
        const tensors = new Map(model.tensors);
        for (const [key, tensor] of tensors)
          if (/pos_embed|rope_freqs/.test(key))
            tensors.set(key, { ...tensor, data: new Float32Array(tensor.data.length) });
        const alike = { ...model, tensors };
        const { imageSize } = model.manifest;
        const grey = new Float32Array(3 * imageSize[0] * imageSize[1]).fill(0.3);
        const [actual, expected] = [forward(alike, grey), forward(unmerged(alike), grey)];
        expectClose(actual.features, expected.features, 2e-5);
        expectClose(actual.logits, expected.logits, 2e-5);
      }),
      RUNS,
    );
  });

  test("keeps account of what each row stands for, and never takes a prefix token", () => {
    fc.assert(
      fc.property(merging, (model) => {
        const { manifest } = model;
        const { prefixTokens, blocks } = manifest;
        const counts = tokenCounts(manifest);
        const { groups, pairs, attention } = forward(model, randomPixels(manifest, 2), { explain: true });
        blocks.forEach(({ keepIdx, merge, headDims }, i) => {
          expect(pairs![i]).toHaveLength(merge);
          expect(new Set(pairs![i].map(([a]) => a)).size).toBe(merge);
          for (const [a, b] of pairs![i]) {
            expect([(a - prefixTokens) % 2, (b - prefixTokens) % 2]).toEqual([1, 0]);
            expect(Math.min(a, b)).toBeGreaterThanOrEqual(prefixTokens);
            expect(Math.max(a, b)).toBeLessThan(counts[i].entering);
          }
          if (headDims.length) expect(attention![i]).toHaveLength(counts[i].entering);
          const kept = new Set(keepIdx.map((token) => token - prefixTokens));
          groups![i].forEach((row, patch) => {
            expect(row >= 0).toBe(kept.has(patch));
          });
          const rows = new Set([...groups![i]].filter((row) => row >= 0));
          expect([...rows].sort((a, b) => a - b)).toEqual(
            Array.from({ length: counts[i].mlp - prefixTokens }, (_, k) => k + prefixTokens),
          );
        });
      }),
      RUNS,
    );
  });

  test("of the pairs that were reported gives the same result again", () => {
    fc.assert(
      fc.property(merging, (model) => {
        const pixels = randomPixels(model.manifest, 3);
        const { pairs, features } = forward(model, pixels, { explain: true });
        expectClose(forward(model, pixels, { forcedPairs: pairs }).features, features, 0);
      }),
      RUNS,
    );
  });

  test("takes other pairs where they are forced", () => {
    const model = randomModel(FAMILY["DeiT, merging"], 4);
    const pixels = randomPixels(model.manifest, 4);
    const free = forward(model, pixels, { explain: true });
    const forcedPairs = free.pairs!.map((pairs) => pairs.map(([a, b]): [number, number] => [a, b === 1 ? 3 : 1]));
    const forced = forward(model, pixels, { explain: true, forcedPairs });
    expect(forced.pairs).toEqual(forcedPairs);
    expect(Math.max(...forced.logits.map((v, i) => Math.abs(v - free.logits[i])))).toBeGreaterThan(1e-4);
  });

  test("joins two patches of one content first", () => {
    const arch: Architecture = {
      ...FAMILY.DeiT,
      blocks: FAMILY["DeiT, merging"].blocks.map((block, i) => ({ ...block, merge: i ? 0 : 1 })),
    };
    const model = randomModel(arch, 5);
    const positions = model.tensors.get("pos_embed")!;
    model.tensors.set("pos_embed", { ...positions, data: new Float32Array(positions.data.length) });
    const [height, width] = arch.imageSize;
    const columns = width / 4;
    for (const [a, b] of [
      [3, 8],
      [11, 0],
      [1, 14],
    ]) {
      const pixels = randomPixels(arch, a);
      const at = (patch: number, c: number, y: number, x: number) =>
        c * height * width + (Math.floor(patch / columns) * 4 + y) * width + (patch % columns) * 4 + x;
      for (let c = 0; c < 3; c++)
        for (let y = 0; y < 4; y++) for (let x = 0; x < 4; x++) pixels[at(a, c, y, x)] = pixels[at(b, c, y, x)];
      const { pairs, groups } = forward(model, pixels, { explain: true });
      expect(pairs![0]).toEqual([[a + 1, b + 1]]);
      expect(groups![0][a]).toBe(groups![0][b]);
    }
  });

  test("is not reported by a network that merges nothing", () => {
    const { groups, pairs } = forward(randomModel(FAMILY.DeiT, 1), randomPixels(FAMILY.DeiT, 1), { explain: true });
    expect([groups, pairs]).toEqual([undefined, undefined]);
  });
});

describe("pairs and rows, worked by hand", () => {
  /** One prefix token and five patches of two channels; only their keys count. */
  const qkv = (keys: number[][]) => Float32Array.from(keys.flatMap((key) => [9, 9, ...key, 9, 9]));

  test("the most similar pairs merge, by direction and not by length", () => {
    // B: rows 1, 3, 5. A: rows 2, 4. Row 2 lies along row 5, row 4 between rows 1 and 3.
    const keys = qkv([
      [7, 7],
      [1, 0],
      [0, -5],
      [0, 1],
      [1, 2],
      [0, -0.1],
    ]);
    expect(choosePairs(keys, 2, 1, 2)).toEqual([
      [2, 5],
      [4, 3],
    ]);
    expect(choosePairs(keys, 2, 1, 1)).toEqual([[2, 5]]);
    expect(choosePairs(keys, 2, 1, 0)).toEqual([]);
  });

  test("of equals the lower row comes first", () => {
    const same = qkv(Array(6).fill([1, 1]));
    expect(choosePairs(same, 2, 1, 1)).toEqual([[2, 1]]);
    expect(choosePairs(same, 2, 1, 2)).toEqual([
      [2, 1],
      [4, 1],
    ]);
  });

  test("a key of length 0 is alike to nothing", () => {
    expect(
      choosePairs(
        qkv([
          [1, 1],
          [0, 0],
          [1, 0],
          [1, 0.1],
          [0, 0],
          [1, 0],
        ]),
        2,
        1,
        1,
      ),
    ).toEqual([[2, 5]]);
  });

  test("prefix, then what is left of A, then B; means weighted by size", () => {
    const merged = mergedRows(6, 1, [[2, 5]]);
    expect(merged).toEqual({ rows: Int32Array.of(0, 2, 4, 3, 1, 4), count: 5 });
    const sizes = Float64Array.of(1, 1, 3, 1, 2, 1);
    expect([...mergeSizes(sizes, merged)]).toEqual([1, 2, 1, 1, 4]);
    expect([...mergeRows([0, 10, 20, 30, 40, 60], 1, sizes, merged)]).toEqual([0, 40, 10, 30, 30]);
  });

  test("several of A go into one of B", () => {
    const merged = mergedRows(4, 0, [
      [1, 0],
      [3, 0],
    ]);
    expect(merged).toEqual({ rows: Int32Array.of(0, 0, 1, 0), count: 2 });
    expect([...mergeRows([1, 2, 3, 6], 1, Float64Array.of(1, 1, 1, 1), merged)]).toEqual([3, 3]);
  });
});
