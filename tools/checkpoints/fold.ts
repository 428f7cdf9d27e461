/** Exact folds of a few arrays each: the checkpoint computes in two steps what the format computes in one. */

/** LayerScale multiplies a branch's output channel by channel: into the rows of the linear before it, weight or bias. */
export function scaleRows(values: Float32Array, factors: Float32Array): Float32Array {
  const row = values.length / factors.length;
  return values.map((v, k) => v * factors[Math.floor(k / row)]);
}

/** Arrays end to end. */
export function concat(parts: Float32Array[]): Float32Array {
  const out = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

/** Matrices of the same number of rows, side by side. */
export function concatColumns(parts: Float32Array[], rows: number): Float32Array {
  const row = (part: Float32Array, r: number) =>
    part.subarray((r * part.length) / rows, ((r + 1) * part.length) / rows);
  return concat(Array.from({ length: rows }, (_, r) => parts.map((part) => row(part, r))).flat());
}

/**
 * The affine part of a norm moved into the linear behind it: W (w x + b) + c = (W w) x + (W b + c).
 * @param weight [out, in]
 * @param bias [out], or none
 */
export function foldNorm(
  weight: Float32Array,
  bias: Float32Array,
  norm: { weight: Float32Array; bias: Float32Array },
): { weight: Float32Array; bias: Float32Array } {
  const width = norm.weight.length;
  const moved = bias.map((v, o) => {
    let sum = v;
    for (let i = 0; i < width; i++) sum += weight[o * width + i] * norm.bias[i];
    return sum;
  });
  return { weight: weight.map((v, k) => v * norm.weight[k % width]), bias: moved };
}

/**
 * Half-split rotary pairs (i, i + width/2) made adjacent ones (2i, 2i + 1), head by head. Queries and keys are permuted alike, so
 * their products stay.
 * @param values rows of `row` numbers; the first `heads × width` rows are permuted
 */
export function adjacentPairs(values: Float32Array, heads: number, width: number, row: number): Float32Array {
  const out = Float32Array.from(values);
  for (let head = 0; head < heads; head++) {
    for (let i = 0; i < width; i++) {
      const from = head * width + (i % 2 ? width / 2 : 0) + Math.floor(i / 2);
      out.set(values.subarray(from * row, (from + 1) * row), (head * width + i) * row);
    }
  }
  return out;
}

/**
 * A learned probe's attention: score of token x = q_h · (W_k x + b_k) × scale. The key's bias adds the same to every score, which
 * softmax takes away, so scores are x · (W_kᵀ q_h × scale).
 * @param q [dim], the probe after its own linear
 * @param keyWeight [dim, dim]
 * @returns [heads, dim]
 */
export function foldProbe(q: Float64Array, keyWeight: Float32Array, heads: number): Float32Array {
  const dim = q.length;
  const width = dim / heads;
  const out = new Float64Array(heads * dim);
  for (let c = 0; c < dim; c++) {
    const head = Math.floor(c / width);
    for (let i = 0; i < dim; i++) out[head * dim + i] += (q[c] * keyWeight[c * dim + i]) / Math.sqrt(width);
  }
  return Float32Array.from(out);
}

/** W x + b of one vector, in double. */
export function project(weight: Float32Array, bias: Float32Array, x: Float32Array): Float64Array {
  return Float64Array.from(bias, (v, o) => {
    let sum = v;
    for (let i = 0; i < x.length; i++) sum += weight[o * x.length + i] * x[i];
    return sum;
  });
}

/** [rows, columns] → [columns, rows] */
export function transpose(values: Float32Array, rows: number, columns: number): Float32Array {
  return values.map((_, k) => values[(k % rows) * columns + Math.floor(k / rows)]);
}
