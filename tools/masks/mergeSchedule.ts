/** How many pairs each block merges, without anything learned. */
import { SlimViTError } from "../../src/errors.ts";
import { type Architecture, tokenCounts } from "../../src/format/model.ts";

/**
 * Share of the blocks that come first and merge nothing: a token's keys say what it is only after some mixing. On DeiT-Ti at
 * 65 % of the MACs, merges that rise from block 2 on diverge from the whole model by 0.05 nats, as many in each block by 0.10.
 */
const UNTOUCHED_SHARE = 1 / 6;

/** No block merges more than this share of the picture's patches: few large steps lose more than many small ones. */
const LARGEST_SHARE = 1 / 8;

/** No block merges more than this share of its own patches, because merging the last tokens loses most. */
const OWN_SHARE = 1 / 4;

/** Whether a network with these merges is small enough. */
export type Reaches = (merged: Architecture) => boolean;

/**
 * The least merges that are small enough, of the first form that reaches so far down (docs/experiments.md compares them):
 *
 * 1. Merges that rise from the first sixth of the depth on. They lose least while many tokens stay.
 * 2. Merges that rise from the first block on.
 * 3. As many pairs in each block as it takes, and ever larger shares of what is left. In the end they are half in each block, which is all
 *    that merging can do.
 *
 * @returns one number a block
 * @throws SlimViTError `bad-option` when even half of the patches in each block are not enough
 */
export function mergesFor(arch: Architecture, reaches: Reaches, target: string): number[] {
  const untouched = Math.round(arch.blocks.length * UNTOUCHED_SHARE);
  for (const form of [rising(arch, untouched), rising(arch, 0), even(arch)]) {
    const merges = leastOf(form, arch, reaches);
    if (merges) return merges;
  }
  const drops = arch.blocks.at(-1)!.keepIdx.length < arch.blocks[0].keepIdx.length;
  throw new SlimViTError(
    "bad-option",
    `${target} cannot be reached by merging: with ${mostMerges(arch).join(", ")} pairs a block, which is ${drops ? "the most" : "half of the patches in each"}, the model is still above it. ` +
      (drops
        ? "Blocks before the last one that drops patches cannot merge. Give a larger target, or a model that keeps every patch."
        : "Give a larger target, or start from smaller pictures (--image-size of slimvit thin)."),
  );
}

/** The third form alone. @returns none where not even half of the patches in each block are enough */
export function evenMerges(arch: Architecture, reaches: Reaches): number[] | undefined {
  return leastOf(even(arch), arch, reaches);
}

/** The most that can merge: half of the patches in each block. */
export function mostMerges(arch: Architecture): number[] {
  return mergesOf(arch, (_, patches) => patches);
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

export function withoutMerges<A extends Architecture>(arch: A): A {
  return withMerges(
    arch,
    arch.blocks.map(() => 0),
  );
}

/**
 * A block cannot merge while keep-lists still shrink, without keys to compare, or where nothing reads the patches any
 * more.
 */
export function canMerge({ blocks, pooling }: Architecture, i: number): boolean {
  const shrinksLater = blocks.slice(i + 1).some(({ keepIdx }) => keepIdx.length < blocks[i].keepIdx.length);
  const isRead = i < blocks.length - 1 || pooling !== "class";
  return !shrinksLater && blocks[i].headDims.length > 0 && isRead;
}

/** Merges of one form: the later the step, the more pairs. */
interface Form {
  steps: number[];
  of(step: number): number[];
}

/** The steps are those slopes at which a block merges one pair more. */
function rising(arch: Architecture, first: number): Form {
  const largest = largestOf(arch);
  const blocks = arch.blocks.map((_, i) => i - first + 1).filter((place) => place > 0);
  const slopes = blocks.flatMap((place) => Array.from({ length: largest }, (_, pairs) => (pairs + 0.5) / place));
  return {
    steps: [...new Set(slopes)].sort((a, b) => a - b),
    of: (slope) =>
      mergesOf(arch, (i, patches) =>
        i < first ? 0 : Math.min(Math.round(slope * (i - first + 1)), largest, Math.floor(OWN_SHARE * patches)),
      ),
  };
}

/** The steps are the pairs of all blocks together. Where they do not divide, the first blocks merge one pair more. */
function even(arch: Architecture): Form {
  const all = patchesOf(arch);
  const able = arch.blocks.flatMap((_, i) => (canMerge(arch, i) ? [i] : []));
  const most = able.length * Math.floor(all / 2);
  return {
    steps: Array.from({ length: most + 1 }, (_, pairs) => pairs),
    of: (pairs) => {
      const each = Math.floor(pairs / able.length);
      const share = Math.max(OWN_SHARE, each / all);
      return mergesOf(arch, (i, patches) =>
        pairs === most
          ? patches
          : Math.min(each + Number(able.indexOf(i) < pairs % able.length), Math.floor(share * patches)),
      );
    },
  };
}

/** @returns the merges of the first step that is small enough, if one is */
function leastOf(form: Form, arch: Architecture, reaches: Reaches): number[] | undefined {
  const isEnough = (step: number) => reaches(withMerges(arch, form.of(form.steps[step])));
  let [low, high] = [-1, form.steps.length - 1];
  if (!isEnough(high)) return undefined;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (isEnough(middle)) high = middle;
    else low = middle;
  }
  return form.of(form.steps[high]);
}

const patchesOf = ({ blocks, prefixTokens }: Architecture): number => blocks[0].keepIdx.length - prefixTokens;

const largestOf = (arch: Architecture): number => Math.max(1, Math.floor(patchesOf(arch) * LARGEST_SHARE));

/** @param wanted of a block that has so many patches; it gets half of them at most */
function mergesOf(arch: Architecture, wanted: (block: number, patches: number) => number): number[] {
  let patches = patchesOf(arch);
  return arch.blocks.map((block, i) => {
    const before = arch.blocks[i - 1]?.keepIdx.length ?? block.keepIdx.length;
    patches -= before - block.keepIdx.length;
    if (!canMerge(arch, i)) return 0;
    const merge = Math.min(wanted(i, patches), Math.floor(patches / 2));
    patches -= merge;
    return merge;
  });
}
