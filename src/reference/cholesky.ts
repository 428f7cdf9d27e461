/** Linear equations with a symmetric, positive definite matrix. */

/**
 * @param matrix [size, size], of which the lower triangle is read
 * @param least of what roots are taken of: rounding can bring it below 0
 * @returns the lower triangular L of L Lᵀ = matrix, [size, size]
 */
export function cholesky(matrix: Float64Array, size: number, least = Number.MIN_VALUE): Float64Array {
  const lower = new Float64Array(size * size);
  for (let i = 0; i < size; i++) {
    for (let j = 0; j <= i; j++) {
      const [rowI, rowJ] = [i * size, j * size];
      let sum = matrix[rowI + j];
      for (let k = 0; k < j; k++) sum -= lower[rowI + k] * lower[rowJ + k];
      lower[rowI + j] = i === j ? Math.sqrt(Math.max(sum, least)) : sum / lower[rowJ + j];
    }
  }
  return lower;
}

/** Solves L Lᵀ x = values in place. */
export function solveFactored(lower: Float64Array, values: Float64Array): void {
  const size = values.length;
  for (let i = 0; i < size; i++) {
    let sum = values[i];
    for (let k = 0; k < i; k++) sum -= lower[i * size + k] * values[k];
    values[i] = sum / lower[i * size + i];
  }
  for (let i = size - 1; i >= 0; i--) {
    values[i] /= lower[i * size + i];
    for (let k = 0; k < i; k++) values[k] -= lower[i * size + k] * values[i];
  }
}
