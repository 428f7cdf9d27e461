/** Keep-lists without anything learned: fewer patches with depth, evenly spread over the picture. */
import type { Architecture } from "../../src/format/model.ts";
import { orderedPatches } from "./patchOrders.ts";

/** Share of the blocks that come first and keep every patch. */
const UNTOUCHED_SHARE = 1 / 6;
/** No block keeps less than this share of the patches. */
const LEAST_SHARE = 1 / 8;
/** Slopes that are tried: a patch more or less in the last block, up to grids of 32 × 32. */
const HALVINGS = 10;

/**
 * The number of patches falls evenly from the first sixth of the depth on, as steeply as it takes.
 *
 * @param reaches whether a network with these lists is small enough
 * @returns the longest lists of this form that are small enough; undefined where even the shortest are not
 */
export function spreadLists<A extends Architecture>(arch: A, reaches: (thinned: A) => boolean): A | undefined {
  const ranked = orderedPatches(arch, "spread");
  const steepest = withSlope(arch, ranked, 1);
  if (!reaches(steepest)) return undefined;
  let [low, high, best] = [0, 1, steepest];
  for (let step = 0; step < HALVINGS; step++) {
    const middle = (low + high) / 2;
    const tried = withSlope(arch, ranked, middle);
    if (reaches(tried)) [high, best] = [middle, tried];
    else low = middle;
  }
  return best;
}

/** @param slope 0 keeps every patch in each block, 1 leaves the last block the least */
function withSlope<A extends Architecture>(arch: A, ranked: number[], slope: number): A {
  const { blocks, prefixTokens } = arch;
  const first = Math.round(blocks.length * UNTOUCHED_SHARE);
  const prefix = Array.from({ length: prefixTokens }, (_, token) => token);
  return {
    ...arch,
    blocks: blocks.map((block, i) => {
      const depth = Math.max(0, (i - first + 1) / (blocks.length - first));
      const patches = Math.max(1, Math.round(ranked.length * (1 - slope * (1 - LEAST_SHARE) * depth)));
      const kept = ranked.slice(0, patches).map((patch) => patch + prefixTokens);
      return { ...block, keepIdx: [...prefix, ...kept.sort((a, b) => a - b)] };
    }),
  };
}
