/**
 * Merging tokens: pairs of patches with similar keys become one token between attention and MLP.
 * @see Bolya et al. 2022, "Token merging" — https://arxiv.org/abs/2210.09461
 */

/** Rows [A, B] of the tokens that enter a block, by rising A: A's token goes into B's. */
export type MergePairs = [a: number, b: number][];

/**
 * Patches 0, 2, 4, … of the block are B, patches 1, 3, 5, … are A. Each of A has one best partner in B, and the pairs of
 * highest cosine similarity merge. Where two are equal, the lower row is taken. Prefix tokens never merge.
 *
 * @param qkv [tokens, 3 × inner], whose keys are compared, all heads side by side, as they enter the scores
 * @param count of pairs, at most half of the patches
 */
export function choosePairs(qkv: Float32Array, inner: number, prefixTokens: number, count: number): MergePairs {
  const tokens = qkv.length / (3 * inner);
  const keys = Array.from({ length: tokens }, (_, i) => unit(qkv.subarray((3 * i + 1) * inner, (3 * i + 2) * inner)));
  const best: { a: number; b: number; similarity: number }[] = [];
  for (let a = prefixTokens + 1; a < tokens; a += 2) {
    let [partner, similarity] = [-1, -Infinity];
    for (let b = prefixTokens; b < tokens; b += 2) {
      const cosine = keys[a].reduce((sum, v, c) => sum + v * keys[b][c], 0);
      if (cosine > similarity) [partner, similarity] = [b, cosine];
    }
    best.push({ a, b: partner, similarity });
  }
  best.sort((x, y) => y.similarity - x.similarity); // stable: among equals the lower row of A stays first
  const chosen = best.slice(0, count).map(({ a, b }): [number, number] => [a, b]);
  return chosen.sort(([x], [y]) => x - y);
}

/** The vector at length 1. Zeros stay zeros and are similar to nothing. */
function unit(values: Float32Array): Float64Array {
  const length = Math.hypot(...values);
  return Float64Array.from(values, (v) => (length ? v / length : 0));
}

export interface Merged {
  /** the row after the merge of each row before it */
  rows: Int32Array;
  /** how many rows are left */
  count: number;
}

/** The order after a merge: prefix tokens, then those of A that are left, then B. */
export function mergedRows(tokens: number, prefixTokens: number, pairs: MergePairs): Merged {
  const partner = new Map(pairs);
  const rows = new Int32Array(tokens).fill(-1);
  let count = 0;
  for (let token = 0; token < prefixTokens; token++) rows[token] = count++;
  for (let a = prefixTokens + 1; a < tokens; a += 2) if (!partner.has(a)) rows[a] = count++;
  for (let b = prefixTokens; b < tokens; b += 2) rows[b] = count++;
  for (const [a, b] of pairs) rows[a] = rows[b];
  return { rows, count };
}

/**
 * Means of the rows that merge, weighted by how many patches each row stands for.
 * @param x [tokens, dim]
 * @param sizes [tokens]
 * @returns [count, dim]
 */
export function mergeRows(
  x: ArrayLike<number>,
  dim: number,
  sizes: Float64Array,
  { rows, count }: Merged,
): Float64Array {
  const sums = new Float64Array(count * dim);
  const total = mergeSizes(sizes, { rows, count });
  rows.forEach((row, token) => {
    for (let d = 0; d < dim; d++) sums[row * dim + d] += sizes[token] * x[token * dim + d];
  });
  return sums.map((sum, i) => sum / total[Math.floor(i / dim)]);
}

/** Patches that each row stands for after the merge; 1 for a prefix token. */
export function mergeSizes(sizes: Float64Array, { rows, count }: Merged): Float64Array {
  const total = new Float64Array(count);
  rows.forEach((row, token) => {
    total[row] += sizes[token];
  });
  return total;
}
