/** Logits → scores. */

/** Scores of all classes, which sum to 1. */
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

/** By the name that slimvit.json gives. */
export const SCORE = { softmax, sigmoid };

/**
 * @param means [classes, features.length]
 * @returns the greatest cosine between the features and one of the means, −1 to 1
 */
export function nearestCosine(features: Float32Array, means: Float32Array): number {
  const cosines = rowsOf(means, features.length).map(
    (mean) => dot(features, mean) / (Math.sqrt(dot(features, features) * dot(mean, mean)) || 1),
  );
  return Math.max(...cosines);
}

/**
 * @param weight [classes, features.length]
 * @returns [classes]
 */
export function headLogits(
  { weight, bias }: { weight: Float32Array; bias: Float32Array },
  features: Float32Array,
): Float32Array {
  return Float32Array.from(rowsOf(weight, features.length), (row, kind) => dot(row, features) + bias[kind]);
}

/** The rows of a matrix [rows, width]. */
function rowsOf(matrix: Float32Array, width: number): Float32Array[] {
  return Array.from({ length: matrix.length / width }, (_, i) => matrix.subarray(i * width, (i + 1) * width));
}

export function dot(a: Float32Array | Float64Array, b: Float32Array | Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}
