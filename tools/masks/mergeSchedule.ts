/** How many pairs each block merges, for a network that nothing was learned about. */
import { SlimViTError } from "../../src/errors.ts";
import { type Architecture, tokenCounts } from "../../src/format/model.ts";

/**
 * Share of the blocks that come first and merge nothing: a token's keys say what it is only after some mixing. On DeiT-Ti at
 * 65 % of the MACs, merges that rise from block 2 on diverge from the whole model by 0.05 nats, as many in each block by 0.08.
 */
const UNTOUCHED_SHARE = 1 / 6;

/** No block merges more than this share of the picture's patches: few large steps lose more than many small ones. */
const LARGEST_SHARE = 1 / 8;

/**
 * Merges that rise evenly from the first sixth of the depth on, as steep as it takes.
 *
 * @param reaches whether a network with these merges is small enough
 * @returns the least merges of this form that are small enough, one number a block
 * @throws SlimViTError `bad-option` when even the steepest are not
 */
export function risingMerges(arch: Architecture, reaches: (merged: Architecture) => boolean, target: string): number[] {
  const steepest = mergesOf(arch, Number.POSITIVE_INFINITY);
  if (!reaches(withMerges(arch, steepest))) {
    throw new SlimViTError(
      "bad-option",
      `${target} cannot be reached by merging: with ${steepest.join(", ")} pairs a block the model is still above it. ` +
        "Give a larger target, or start from smaller pictures (--image-size of slimvit thin).",
    );
  }
  // The merges change at few slopes: those at which a block's number is rounded up.
  const slopes = [...new Set(arch.blocks.flatMap((_, i) => slopesOf(arch, i)))].sort((a, b) => a - b);
  let [low, high] = [-1, slopes.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (reaches(withMerges(arch, mergesOf(arch, slopes[middle])))) high = middle;
    else low = middle;
  }
  return mergesOf(arch, slopes[high] ?? 0);
}

/** @throws SlimViTError `bad-option` for a block that does not exist or cannot merge so many pairs */
export function listedMerges(arch: Architecture, pairs: Map<number, number>): number[] {
  const merges = arch.blocks.map((_, i) => pairs.get(i) ?? 0);
  for (const block of pairs.keys()) {
    if (block >= merges.length)
      throw new SlimViTError(
        "bad-option",
        `merge: --merge names block ${block}; the last block is ${merges.length - 1}.`,
      );
  }
  const counts = tokenCounts(withMerges(arch, merges));
  merges.forEach((merge, i) => {
    const most = canMerge(arch, i) ? Math.floor((counts[i].entering - arch.prefixTokens) / 2) : 0;
    if (merge > most)
      throw new SlimViTError("bad-option", `merge: --merge ${i}:${merge}: block ${i} can merge ${most} pairs at most.`);
  });
  return merges;
}

export function withMerges<A extends Architecture>(arch: A, merges: number[]): A {
  return { ...arch, blocks: arch.blocks.map((block, i) => ({ ...block, merge: merges[i] })) };
}

/** Not while keep-lists still shrink, not without keys to compare, and not where nothing reads the patches any more. */
export function canMerge({ blocks, pooling }: Architecture, i: number): boolean {
  const shrinksLater = blocks.slice(i + 1).some(({ keepIdx }) => keepIdx.length < blocks[i].keepIdx.length);
  const isRead = i < blocks.length - 1 || pooling !== "class";
  return !shrinksLater && blocks[i].headDims.length > 0 && isRead;
}

const firstOf = ({ blocks }: Architecture): number => Math.round(blocks.length * UNTOUCHED_SHARE);

function mergesOf(arch: Architecture, slope: number): number[] {
  let patches = arch.blocks[0].keepIdx.length - arch.prefixTokens;
  const largest = Math.max(1, Math.floor(patches * LARGEST_SHARE));
  return arch.blocks.map((block, i) => {
    const before = arch.blocks[i - 1]?.keepIdx.length ?? block.keepIdx.length;
    patches -= before - block.keepIdx.length;
    const step = i - firstOf(arch) + 1;
    if (step < 1 || !canMerge(arch, i)) return 0;
    const merge = Math.min(Math.round(slope * step), largest, Math.floor(patches / 2));
    patches -= merge;
    return merge;
  });
}

/** The slopes at which block `i` merges one pair more. */
function slopesOf(arch: Architecture, i: number): number[] {
  const step = i - firstOf(arch) + 1;
  if (step < 1) return [];
  const patches = arch.blocks[0].keepIdx.length - arch.prefixTokens;
  const largest = Math.max(1, Math.floor(patches * LARGEST_SHARE));
  return Array.from({ length: largest }, (_, pairs) => (pairs + 0.5) / step);
}
