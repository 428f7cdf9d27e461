/** Which patches of the picture's grid a network keeps. */
import type { Architecture } from "../../src/format/model.ts";

export interface KeepList {
  /** the first block that has it */
  block: number;
  /** for each patch of the grid, row by row */
  kept: boolean[];
}

/** The lists that differ from the block's before. @param patches of the grid */
export function distinctKeepLists({ blocks, prefixTokens }: Architecture, patches: number): KeepList[] {
  return blocks.flatMap(({ keepIdx }, block) => {
    if (keepIdx.join() === blocks[block - 1]?.keepIdx.join()) return [];
    const tokens = new Set(keepIdx);
    return [{ block, kept: Array.from({ length: patches }, (_, patch) => tokens.has(patch + prefixTokens)) }];
  });
}
