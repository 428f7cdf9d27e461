/**
 * The merges of a run: pairs as engines store them, measured or given, and the groups of patches that follow from them.
 */
import { SlimViTError } from "../errors.ts";
import { denseTokens, type Manifest, tokenCounts } from "../format/model.ts";
import { type MergePairs, mergedRows } from "../reference/merge.ts";

/** @param partners of a block: for each token of A the row that it merges into, or −1 */
export function readPairs(partners: ArrayLike<number>, prefixTokens: number): MergePairs {
  return Array.from(partners, (b, k): [number, number] => [prefixTokens + 2 * k + 1, b]).filter(([, b]) => b >= 0);
}

/** @throws SlimViTError `bad-option` for pairs that the block cannot merge */
export function writePairs(pairs: MergePairs, partners: Int32Array, manifest: Manifest, block: number): void {
  const { prefixTokens, blocks } = manifest;
  const { entering } = tokenCounts(manifest)[block];
  const { merge } = blocks[block];
  const isPatch = (row: number, parity: number) =>
    Number.isInteger(row) && row >= prefixTokens && row < entering && (row - prefixTokens) % 2 === parity;
  const isSound = pairs.every(([a, b]) => isPatch(a, 1) && isPatch(b, 0));
  if (!isSound || pairs.length !== merge || new Set(pairs.map(([a]) => a)).size !== merge)
    throw new SlimViTError(
      "bad-option",
      `forcedPairs[${block}] is ${JSON.stringify(pairs)}; expected ${merge} pairs of an odd patch and an even one among ` +
        `rows ${prefixTokens} to ${entering - 1}, no odd patch twice.`,
    );
  partners.fill(-1);
  for (const [a, b] of pairs) partners[(a - prefixTokens - 1) / 2] = b;
}

/** For each block and original patch: the row after the block that represents the patch, −1 where it was dropped. */
export function groupsOf(manifest: Manifest, pairs: MergePairs[]): Int32Array[] {
  const { prefixTokens, blocks } = manifest;
  const counts = tokenCounts(manifest);
  let list: number[] | undefined;
  let rowOf = new Int32Array(denseTokens(manifest) - prefixTokens);
  return blocks.map(({ keepIdx, merge }, i) => {
    if (list?.length !== keepIdx.length) {
      rowOf = new Int32Array(rowOf.length).fill(-1);
      keepIdx.slice(prefixTokens).forEach((token, k) => {
        rowOf[token - prefixTokens] = prefixTokens + k;
      });
    }
    list = keepIdx;
    if (merge) {
      const { rows } = mergedRows(counts[i].entering, prefixTokens, pairs[i]);
      rowOf = rowOf.map((row) => (row < 0 ? -1 : rows[row]));
    }
    return rowOf;
  });
}
