/** Reads what merged from the rows that the graph returns. */
import type { Architecture, TokenCount } from "../../format/model.ts";
import { denseTokens } from "../../format/model.ts";
import type { RunOutput } from "../engine.ts";
import { halves } from "./stream.ts";

/**
 * @param results with `rows0` … of blocks that merge: for each row before, its row after
 * @returns nothing for a network that does not merge
 */
export function explainMerges(
  arch: Architecture,
  counts: TokenCount[],
  results: Record<string, Float32Array>,
): Pick<RunOutput, "groups" | "pairs"> {
  const { blocks, prefixTokens } = arch;
  if (!blocks.some(({ merge }) => merge > 0)) return {};
  const pairs: NonNullable<RunOutput["pairs"]> = [];
  const groups: Int32Array[] = [];
  const patches = denseTokens(arch) - prefixTokens;
  let rowOf = new Int32Array(patches);
  blocks.forEach(({ keepIdx }, i) => {
    if (i === 0 || keepIdx.length < blocks[i - 1].keepIdx.length) {
      rowOf = new Int32Array(patches).fill(-1);
      keepIdx.forEach((token, row) => void (token >= prefixTokens && (rowOf[token - prefixTokens] = row)));
    }
    const after = results[`rows${i}`];
    pairs[i] = [];
    if (after) {
      const [inA, inB] = halves(counts[i].entering, prefixTokens);
      for (const a of inA) for (const b of inB) if (after[a] === after[b]) pairs[i].push([a, b]);
      rowOf = rowOf.map((row) => (row < 0 ? -1 : after[row]));
    }
    groups.push(rowOf);
  });
  return { groups, pairs };
}
