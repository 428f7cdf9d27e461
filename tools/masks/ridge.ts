/**
 * Least squares in closed form: solves a linear again for the kept inputs, and chooses the inputs whose removal loses
 * least.
 */
import { cholesky, solveFactored } from "../../src/reference/cholesky.ts";

/** Sums over what a linear saw. A 1 is appended to each input, so that the last row holds the inputs' sums and the corner their number. */
export interface Moments {
  /** Σ x xᵀ, [size + 1, size + 1] */
  inputs: ArrayLike<number>;
  /** Σ x yᵀ with the outputs that are wanted, [size + 1, outDim]; without them the whole linear's own outputs are wanted */
  targets?: ArrayLike<number>;
  /** number of inputs */
  size: number;
}

export interface Solved {
  /** [outDim, kept] */
  weight: Float32Array;
  /** [outDim] */
  bias: Float32Array;
}

/** Added to the diagonal of the inputs' moments, as a share of its mean: directions that were hardly seen keep their weights. */
const RIDGE = 0.001;

/**
 * Minimises Σ |y − W' x_keep − b'|² + λ |W' − W_keep|² over W' and b'; the bias has no penalty.
 *
 * @param weight [outDim, size], of the whole linear
 * @param bias [outDim]
 * @param keep inputs that are left, ascending
 */
export function solveForKept(weight: Float32Array, bias: Float32Array, moments: Moments, keep: number[]): Solved {
  const { inputs, targets, size } = moments;
  const stride = size + 1;
  const outDim = bias.length;
  const columns = [...keep, size];
  const width = columns.length;
  const gram = new Float64Array(width * width);
  columns.forEach((row, a) => {
    columns.forEach((column, b) => void (gram[a * width + b] = inputs[row * stride + column]));
  });
  const lambda = addRidge(gram, width, keep.length);
  const factor = cholesky(gram, width);
  const solved = { weight: new Float32Array(outDim * keep.length), bias: new Float32Array(outDim) };
  const right = new Float64Array(width);
  for (let o = 0; o < outDim; o++) {
    const row = weight.subarray(o * size, (o + 1) * size);
    columns.forEach((column, a) => {
      let sum = targets ? targets[column * outDim + o] : bias[o] * inputs[size * stride + column];
      if (!targets) for (let i = 0; i < size; i++) sum += row[i] * inputs[i * stride + column];
      right[a] = a < keep.length ? sum + lambda * row[column] : sum;
    });
    solveFactored(factor, right);
    solved.weight.set(right.subarray(0, keep.length), o * keep.length);
    solved.bias[o] = right[keep.length];
  }
  return solved;
}

/**
 * Chooses the inputs to remove so that the others compensate for them best. It removes one after the other the input
 * with the least loss when all remaining ones are solved again.
 *
 * @param weight [outDim, size]
 * @param extra a further loss of each input, as a share of the whole; 0 without
 * @param together so many adjacent inputs go or stay together
 * @returns for each input whether it stays
 * @see Hassibi and Stork 1993, "Optimal Brain Surgeon"
 */
export function chooseKept(
  weight: Float32Array,
  moments: Moments,
  keepCount: number,
  extra?: ArrayLike<number>,
  together = 1,
): boolean[] {
  const { size } = moments;
  const { covariance } = statisticsOf(moments);
  addRidge(covariance, size, size);
  const inverse = inverseOf(covariance, size);
  const weights = Float64Array.from(weight);
  const kept: boolean[] = Array(size).fill(true);
  const squares = new Float64Array(size); // Σ over the outputs of each input's weights
  for (let i = 0; i < weights.length; i++) squares[i % size] += weights[i] ** 2;
  const lossOf = (input: number) => squares[input] / inverse[input * size + input];
  let whole = 0;
  for (let input = 0; input < size; input++) whole += lossOf(input);
  for (let left = size; left - together >= keepCount; left -= together) {
    let best = -1;
    let least = Number.POSITIVE_INFINITY;
    for (let first = 0; first < size; first += together) {
      if (!kept[first]) continue;
      let loss = 0;
      for (let input = first; input < first + together; input++) loss += lossOf(input) / whole + (extra?.[input] ?? 0);
      if (loss < least) [best, least] = [first, loss];
    }
    for (let input = best; input < best + together; input++) {
      kept[input] = false;
      eliminate(weights, inverse, squares, input);
    }
  }
  return kept;
}

/**
 * Takes one input out of the weights and of the inverse covariance, as if the others had been solved without it.
 *
 * @param inverse symmetric; its upper triangle counts
 * @param squares of the weights, summed anew
 */
function eliminate(weights: Float64Array, inverse: Float64Array, squares: Float64Array, input: number): void {
  const size = squares.length;
  const row = squares.map((_, j) => inverse[j < input ? j * size + input : input * size + j]);
  const pivot = row[input];
  for (let i = 0; i < size; i++) {
    const factor = row[i] / pivot;
    if (factor !== 0) for (let j = i; j < size; j++) inverse[i * size + j] -= factor * row[j];
  }
  squares.fill(0);
  for (let first = 0; first < weights.length; first += size) {
    const factor = weights[first + input] / pivot;
    for (let j = 0; j < size; j++) {
      weights[first + j] -= factor * row[j];
      squares[j] += weights[first + j] ** 2;
    }
  }
}

/** Mean [size] and covariance [size, size] of the inputs. */
export function statisticsOf({ inputs, size }: Moments): { mean: Float64Array; covariance: Float64Array } {
  const stride = size + 1;
  const count = inputs[size * stride + size];
  const mean = Float64Array.from({ length: size }, (_, i) => inputs[size * stride + i] / count);
  const covariance = new Float64Array(size * size);
  for (let i = 0; i < size; i++) {
    for (let j = 0; j < size; j++) covariance[i * size + j] = inputs[i * stride + j] / count - mean[i] * mean[j];
  }
  return { mean, covariance };
}

/** The variance of w·x, where w is a row of a weight and C the covariance of x: w C wᵀ. */
export function rowVariance(weight: Float32Array, row: number, covariance: Float64Array): number {
  const size = Math.sqrt(covariance.length);
  const w = weight.subarray(row * size, (row + 1) * size);
  let sum = 0;
  for (let a = 0; a < size; a++) {
    for (let b = 0; b < size; b++) sum += w[a] * covariance[a * size + b] * w[b];
  }
  return sum;
}

/** @returns what was added to the first `count` places of the diagonal; positive also where nothing varies */
export function addRidge(matrix: Float64Array, size: number, count: number): number {
  let trace = 0;
  for (let i = 0; i < count; i++) trace += matrix[i * size + i];
  const lambda = (RIDGE * trace) / Math.max(count, 1) || 1;
  for (let i = 0; i < count; i++) matrix[i * size + i] += lambda;
  return lambda;
}

/** A⁻¹ = L⁻ᵀ L⁻¹ of a symmetric, positive definite matrix; in the upper triangle alone. */
function inverseOf(matrix: Float64Array, size: number): Float64Array {
  const lower = invertLower(cholesky(matrix, size), size);
  const inverse = new Float64Array(size * size);
  for (let k = 0; k < size; k++) {
    for (let i = 0; i <= k; i++) {
      const factor = lower[k * size + i];
      for (let j = i; j <= k; j++) inverse[i * size + j] += factor * lower[k * size + j];
    }
  }
  return inverse;
}

/** L⁻¹ of a lower triangular matrix, row by row. */
function invertLower(lower: Float64Array, size: number): Float64Array {
  const inverse = new Float64Array(size * size);
  for (let i = 0; i < size; i++) {
    const row = inverse.subarray(i * size, (i + 1) * size);
    for (let k = 0; k < i; k++) {
      const factor = lower[i * size + k];
      for (let j = 0; j <= k; j++) row[j] -= factor * inverse[k * size + j];
    }
    const pivot = lower[i * size + i];
    for (let j = 0; j < i; j++) row[j] /= pivot;
    row[i] = 1 / pivot;
  }
  return inverse;
}
