/** The row that each patch of a picture is in after each block, and the pairs that merged, from rows by hand. */
import { expect, test } from "vitest";
import { explainMerges } from "../../src/tfjs/merge.ts";
import { tinyArchitecture } from "../tools/fixtures.ts";

const patches = Array.from({ length: 16 }, (_, patch) => patch);

/** Token 0 is the class token, so patch p is token p + 1. */
function network(lists: number[][], merges: number[]) {
  const shape = { headDims: [8, 8], mlpHidden: 24 };
  return tinyArchitecture({ blocks: lists.map((keepIdx, i) => ({ ...shape, keepIdx, merge: merges[i] })) });
}

test("patches that were dropped are in no row, those that merged are in one, and pairs are rows that enter the block", () => {
  // The second block keeps patches 2, 4, 6 and 8; there 6 and 8, rows 3 and 4, become one.
  const kept = [0, 3, 5, 7, 9];
  const arch = network(
    [
      patches
        .map((p) => p + 1)
        .concat(0)
        .sort((a, b) => a - b),
      kept,
      kept,
    ],
    [0, 1, 1],
  );
  // Rows of A are the second, fourth, …; each row's place afterwards.
  const second = [0, 1, 2, 3, 3];
  const third = [0, 1, 1, 2];
  const { groups, pairs } = explainMerges(arch, [undefined, second, third]);
  const placesOf = (places: Record<number, number>) => patches.map((patch) => places[patch] ?? -1);
  expect(groups!.map((rows) => [...rows])).toEqual([
    patches.map((patch) => patch + 1),
    placesOf({ 2: 1, 4: 2, 6: 3, 8: 3 }),
    placesOf({ 2: 1, 4: 1, 6: 2, 8: 2 }),
  ]);
  expect(pairs).toEqual([[], [[4, 3]], [[2, 1]]]);
});

test("a network that merges nothing has nothing to explain", () => {
  const all = [0, ...patches.map((patch) => patch + 1)];
  expect(explainMerges(network([all, all], [0, 0]), [undefined, undefined])).toEqual({});
});
