/**
 * Positions inside attention: rotary embeddings by the position of a token, and learned biases by the positions of two
 * tokens.
 */
import { type Architecture, type BlockShape, innerDim, patchGrid } from "../format/model.ts";

/** Coordinates [tokens, 2] (row, column) of the tokens of a keep-list; prefix tokens have none, which is written as 0. */
export function ropeCoordinates(arch: Architecture, keepIdx: number[]): Float64Array {
  const columns = patchGrid(arch)[1];
  const { rows: alongRows, columns: alongColumns } = arch.rope!;
  const out = new Float64Array(2 * keepIdx.length);
  keepIdx.forEach((token, k) => {
    const patch = token - arch.prefixTokens;
    if (patch < 0) return;
    out[2 * k] = alongRows[0] + alongRows[1] * Math.floor(patch / columns);
    out[2 * k + 1] = alongColumns[0] + alongColumns[1] * (patch % columns);
  });
  return out;
}

/**
 * Turns each pair of adjacent channels (2i, 2i + 1) of q and of k, by the angle frequencies[0, i] × row +
 * frequencies[1, i] × column of the token. Prefix tokens are not turned.
 *
 * @param qkv [tokens, 3 × inner], changed in place
 * @param coordinates [tokens, 2]
 * @param frequencies [2, inner / 2]
 * @see Su et al. 2021 — https://arxiv.org/abs/2104.09864
 */
export function rotate(
  qkv: Float32Array,
  block: BlockShape,
  coordinates: Float64Array,
  frequencies: Float32Array,
  prefixTokens: number,
): void {
  const inner = innerDim(block);
  for (let token = prefixTokens; 2 * token < coordinates.length; token++) {
    const [row, column] = [coordinates[2 * token], coordinates[2 * token + 1]];
    for (let i = 0; i < inner / 2; i++) {
      const angle = frequencies[i] * row + frequencies[inner / 2 + i] * column;
      const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
      for (const part of [0, inner]) {
        const at = token * 3 * inner + part + 2 * i;
        const [a, b] = [qkv[at], qkv[at + 1]];
        qkv[at] = a * cos - b * sin;
        qkv[at + 1] = a * sin + b * cos;
      }
    }
  }
}

/**
 * The bias that the places of a query and a key add to their score.
 *
 * @param table [heads, (2R − 1)(2C − 1) + 3]: by the difference of the places, then prefix on patch, patch on prefix and
 * prefix on prefix
 * @see Bao et al. 2021, BEiT — https://arxiv.org/abs/2106.08254
 */
export function relativeBias(
  arch: Architecture,
  keepIdx: number[],
  table: Float32Array,
): (head: number, query: number, key: number) => number {
  const [rows, columns] = patchGrid(arch);
  const places = (2 * rows - 1) * (2 * columns - 1);
  return (head, query, key) => {
    const from = keepIdx[query] - arch.prefixTokens;
    const to = keepIdx[key] - arch.prefixTokens;
    let index: number;
    if (from < 0) index = places + (to < 0 ? 2 : 0);
    else if (to < 0) index = places + 1;
    else {
      const down = Math.floor(from / columns) - Math.floor(to / columns) + rows - 1;
      const across = (from % columns) - (to % columns) + columns - 1;
      index = down * (2 * columns - 1) + across;
    }
    return table[head * (places + 3) + index];
  };
}
