/** Reads attention and merges from the additional outputs of the graph. */
import { type Architecture, denseTokens, tokenCounts } from "../../format/model.ts";
import { type MergePairs, mergedRows } from "../../reference/merge.ts";
import type { RunOutput } from "../engine.ts";
import { halvesOf } from "./merge.ts";

/** @param results by output, as `OnnxOptions.explain` has them, of one picture */
export function explainResults(
  arch: Architecture,
  results: Record<string, Float32Array>,
): Pick<RunOutput, "attention" | "groups" | "pairs"> {
  const { blocks, prefixTokens } = arch;
  const attention = blocks.map((_, i) => results[`attention.${i}`] ?? new Float32Array(0));
  if (!blocks.some(({ merge }) => merge > 0)) return { attention };
  const counts = tokenCounts(arch);
  const pairs = blocks.map((_, i) => pairsOf(results[`target.${i}`], counts[i].entering, prefixTokens));
  const groups: Int32Array[] = [];
  let rowOf = new Int32Array(0);
  blocks.forEach(({ keepIdx }, i) => {
    if (i === 0 || keepIdx.length < blocks[i - 1].keepIdx.length) {
      rowOf = new Int32Array(denseTokens(arch) - prefixTokens).fill(-1);
      keepIdx.forEach((token, row) => void (token >= prefixTokens && (rowOf[token - prefixTokens] = row)));
    }
    if (pairs[i].length) {
      const { rows } = mergedRows(counts[i].entering, prefixTokens, pairs[i]);
      rowOf = rowOf.map((row) => (row < 0 ? -1 : rows[row]));
    }
    groups.push(rowOf);
  });
  return { attention, groups, pairs };
}

/** @param target for each row of A which of B it went into, −1 where it stayed; undefined of a block that merges none */
function pairsOf(target: Float32Array | undefined, tokens: number, prefixTokens: number): MergePairs {
  if (!target) return [];
  const [inA, inB] = halvesOf(tokens, prefixTokens);
  return inA.flatMap((a, k): MergePairs => (target[k] < 0 ? [] : [[a, inB[target[k]]]]));
}
