/** What `explain` shows of a network that merges tokens, for the patches that the tokens stand for. */
import type { Manifest } from "../format/model.ts";

/**
 * Engines give attention over the rows that enter a block. A merged row's attention is shared equally by its patches.
 *
 * @param attention for each block, over the rows that enter it; empty for a block without heads
 * @param groups for each block and patch of the grid, the row after the block that stands for the patch, or −1
 * @returns for each block, over its `keepIdx`
 */
export function attentionOverPatches(
  { blocks, prefixTokens }: Manifest,
  attention: Float32Array[],
  groups: Int32Array[],
): Float32Array[] {
  const firstMerge = blocks.findIndex(({ merge }) => merge > 0);
  return attention.map((map, i) => {
    if (i <= firstMerge || !map.length) return map; // each row is still one patch
    const rows = blocks[i].keepIdx.map((token) => (token < prefixTokens ? token : groups[i - 1][token - prefixTokens]));
    const sizes = new Map<number, number>();
    for (const row of rows) sizes.set(row, (sizes.get(row) ?? 0) + 1);
    return Float32Array.from(rows, (row) => map[row] / sizes.get(row)!);
  });
}
