/**
 * Training on the grid that int8 weights of 4 bits are stored on: the forward pass sees rounded weights, the gradient
 * goes straight through to the exact ones (Bengio et al. 2013, arXiv 1308.3432).
 */
import type { Weights } from "../../src/engines/tfjs/forward.ts";
import type { Tensor, TF } from "../../src/engines/tfjs/ops.ts";
import { isQuantised, MAX_PACKED } from "../../src/format/quantise.ts";

/** A row of zeros has no scale of its own. */
const LEAST_SCALE = 1e-30;

/**
 * @param step of the grid, in root mean squares of a row: `encodeTensors`'s weightStep
 * @returns the same weights, those that run in int8 rounded as `encodeTensors` rounds them
 */
export function onGrid(tf: TF, weights: Weights, step: number): Weights {
  const round = tf.customGrad((w) => {
    const square = tf.mean(tf.square(w as Tensor), 1, true);
    const greatest = tf.max(tf.abs(w as Tensor), 1, true);
    const scale = tf.maximum(tf.maximum(tf.mul(tf.sqrt(square), step), tf.div(greatest, MAX_PACKED)), LEAST_SCALE);
    return { value: tf.mul(tf.round(tf.div(w as Tensor, scale)), scale), gradFunc: (dy: Tensor) => dy };
  });
  return new Map([...weights].map(([key, w]) => [key, isQuantised(key) ? round(w) : w]));
}
