/** `slimvit merge`: which blocks merge how much, what is refused, and that what is written runs as the reference says. */
import { beforeAll, describe, expect, test } from "vitest";
import { openSimd } from "../../../src/engines/simd/engine.ts";
import { countMacs, plainArchitecture, tokenCounts } from "../../../src/format/model.ts";
import { selfTestPixels } from "../../../src/format/write.ts";
import { forward } from "../../../src/reference/forward.ts";
import { mergeModel } from "../../../tools/masks/merge.ts";
import { evenMerges, listedMerges, mergesFor, mostMerges, withMerges } from "../../../tools/masks/mergeSchedule.ts";
import { thin } from "../../../tools/masks/thin.ts";
import { readModelFolder } from "../../../tools/models/folders.ts";
import { expectClose } from "../../helpers.ts";
import { makeDense, workplace } from "../fixtures.ts";

const range = (n: number) => Array.from({ length: n }, (_, i) => i);
const deitTiny = plainArchitecture({
  ...{ imageSize: [224, 224], patchSize: 16, embedDim: 192, headDim: 64, layerNormEps: 1e-6, prefixTokens: 1 },
  blocks: range(12).map(() => ({ headDims: [64, 64, 64], mlpHidden: 768, keepIdx: range(197) })),
});
const share = (merges: number[]) => countMacs(withMerges(deitTiny, merges), 1000) / countMacs(deitTiny, 1000);
const toShare = (ratio: number) =>
  mergesFor(deitTiny, (merged) => countMacs(merged, 1000) <= ratio * countMacs(deitTiny, 1000), `--ratio ${ratio}`);

describe("a schedule for a share of the MACs", () => {
  test.each([0.9, 0.8, 0.7, 0.6, 0.55])("%f is reached, and one pair a block less would miss it", (ratio) => {
    const merges = toShare(ratio);
    expect(share(merges)).toBeLessThanOrEqual(ratio);
    expect(share(merges)).toBeGreaterThan(ratio - 0.02);
    expect(share(merges.map((pairs) => Math.max(0, pairs - 1)))).toBeGreaterThan(ratio);
  });

  test("the first blocks and the last, after which only the class token is read, merge nothing; the others ever more", () => {
    const merges = toShare(0.7);
    expect([merges[0], merges[1], merges[11]]).toEqual([0, 0, 0]);
    const counts = tokenCounts(withMerges(deitTiny, merges));
    const quarter = merges.map((_, i) => Math.floor((counts[i].entering - 1) / 4));
    merges.slice(2, 11).forEach((pairs, k) => {
      const most = Math.min(quarter[k + 2], 24); // of the block's own patches, and an eighth of 196
      expect(pairs).toBeLessThanOrEqual(most);
      if (pairs < most) expect(pairs).toBeGreaterThan(merges[k + 1]);
    });
  });

  test("no block merges before the keep-lists have stopped shrinking", () => {
    const blocks = deitTiny.blocks.map((block, i) => (i < 5 ? block : { ...block, keepIdx: range(150) }));
    const listed = { ...deitTiny, blocks };
    const merges = mergesFor(listed, (merged) => countMacs(merged, 1000) <= 0.9 * countMacs(listed, 1000), "");
    expect(merges.slice(0, 5)).toEqual([0, 0, 0, 0, 0]);
    expect(merges.slice(5).some((pairs) => pairs > 0)).toBe(true);
  });

  test.each([0.5, 0.45, 0.4, 0.3, 0.2, 0.15])("%f, which takes merges from the first block on, is reached", (ratio) => {
    const merges = toShare(ratio);
    expect(share(merges)).toBeLessThanOrEqual(ratio);
    expect(share(merges)).toBeGreaterThan(ratio - 0.02);
    expect(merges[0]).toBeGreaterThan(0);
    if (ratio < 0.4) return;
    const counts = tokenCounts(withMerges(deitTiny, merges));
    merges.forEach((pairs, i) => {
      expect(pairs).toBeLessThanOrEqual(24);
      expect(pairs).toBeLessThanOrEqual((counts[i].entering - 1) / 4);
    });
  });

  test("no share is refused that merging can reach, and a smaller one is", () => {
    const least = share(mostMerges(deitTiny));
    expect(mostMerges(deitTiny)).toEqual([98, 49, 24, 12, 6, 3, 2, 1, 0, 0, 0, 0]);
    expect(toShare(least + 1e-9)).toEqual(mostMerges(deitTiny));
    expect(() => toShare(least - 1e-6)).toThrow(
      /cannot be reached by merging: with 98, 49, 24, .* half of the patches/,
    );
  });

  test("where keep-lists shrink first, and where the mean of the patches is read, each block that can merges", () => {
    const blocks = deitTiny.blocks.map((block, i) => (i < 5 ? block : { ...block, keepIdx: range(150) }));
    const mean = { ...deitTiny, blocks, pooling: "mean" as const };
    const isSmall = (merged: typeof mean) => countMacs(merged, 1000) <= 0.7 * countMacs(mean, 1000);
    const merges = mergesFor(mean, isSmall as Parameters<typeof mergesFor>[1], "");
    expect(merges.slice(0, 5)).toEqual([0, 0, 0, 0, 0]);
    expect(merges.slice(5).every((pairs) => pairs > 0)).toBe(true);
  });

  test.each([0.95, 0.8, 0.65])("even merges for %f differ by a pair at most, and a pair less misses it", (ratio) => {
    const merges = evenMerges(deitTiny, (merged) => countMacs(merged, 1000) <= ratio * countMacs(deitTiny, 1000))!;
    expect(share(merges)).toBeLessThanOrEqual(ratio);
    expect(merges[11]).toBe(0); // after it only the class token is read
    expect(merges[0] - merges[10]).toBeLessThanOrEqual(1);
    expect(merges.slice(0, 11)).toEqual(merges.slice(0, 11).sort((a, b) => b - a));
    const last = merges.lastIndexOf(merges[0]);
    expect(share(merges.map((pairs, i) => pairs - Number(i === last)))).toBeGreaterThan(ratio);
  });

  test("even merges give up where half of the patches in each block are not enough, and not before", () => {
    const least = share(mostMerges(deitTiny)) * countMacs(deitTiny, 1000);
    expect(evenMerges(deitTiny, (merged) => countMacs(merged, 1000) <= least + 0.5)).toEqual(mostMerges(deitTiny));
    expect(evenMerges(deitTiny, (merged) => countMacs(merged, 1000) < least - 0.5)).toBeUndefined();
  });

  test("a list is refused for a block that does not exist, and for more pairs than half of the patches", () => {
    expect(() => listedMerges(deitTiny, new Map([[12, 1]]))).toThrow(/names block 12; the last block is 11/);
    expect(() => listedMerges(deitTiny, new Map([[3, 99]]))).toThrow(/block 3 can merge 98 pairs at most/);
    expect(() => listedMerges(deitTiny, new Map([[11, 1]]))).toThrow(/block 11 can merge 0 pairs at most/);
  });
});

describe("slimvit merge", () => {
  const at = workplace("merge");
  beforeAll(() => makeDense(at, 1));

  test("writes the same weights with merges, which the engine that ships runs as the reference does", async () => {
    const report = await mergeModel(at("dense"), { out: at("merged"), merge: new Map([[0, 3]]) });
    const [dense, merged] = [readModelFolder(at("dense")), readModelFolder(at("merged"))];
    expect(merged.manifest.blocks[0].merge).toBe(3);
    expect(tokenCounts(merged.manifest)[1].entering).toBe(dense.manifest.blocks[1].keepIdx.length - 3);
    expect(report.macsShare).toBeLessThan(1);
    expect([...merged.tensors.keys()]).toEqual([...dense.tensors.keys()]);
    const pixels = selfTestPixels(merged.manifest, 5);
    const engine = await openSimd(merged, { threads: 1 });
    expectClose((await engine.run(pixels)).logits, forward(merged, pixels).logits, 1e-4);
    engine.dispose();
  });

  test("--ratio is a share of the model's own MACs, also where it merges already", async () => {
    const first = await mergeModel(at("dense"), { out: at("once"), ratio: 0.8 });
    const second = await mergeModel(at("once"), { out: at("twice"), ratio: 0.9 });
    expect(second.macs).toBeLessThanOrEqual(0.9 * first.macs);
    expect(second.macsShare).toBeCloseTo(second.macs / first.macs, 10);
  });

  test("a model whose last blocks drop patches cannot merge, and the message says why", async () => {
    await thin(at("dense"), { out: at("thin"), order: "spread", keep: new Map([[2, 8]]) });
    await expect(mergeModel(at("thin"), { out: at("none"), ratio: 0.5 })).rejects.toThrow(
      /before the last one that drops patches cannot merge/,
    );
  });

  test("one target is wanted, and an input is never replaced", async () => {
    await expect(mergeModel(at("dense"), { out: at("none") })).rejects.toThrow(/give one of --ratio/);
    await expect(mergeModel(at("dense"), { out: at("dense"), ratio: 0.9, force: true })).rejects.toMatchObject({
      code: "bad-option",
    });
  });
});
