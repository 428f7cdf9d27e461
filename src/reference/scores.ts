/** Logits → scores. */

/** Sums to 1. */
export function softmax(logits: ArrayLike<number>): Float64Array {
  const values = Float64Array.from(logits);
  const max = values.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const scores = values.map((v) => Math.exp(v - max));
  const total = scores.reduce((a, b) => a + b, 0);
  return scores.map((v) => v / total);
}

/** Each class's own probability, for models whose pictures may have several labels. */
export function sigmoid(logits: ArrayLike<number>): Float64Array {
  return Float64Array.from(logits, (v) => 1 / (1 + Math.exp(-v)));
}
