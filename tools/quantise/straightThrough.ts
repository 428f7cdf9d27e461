/**
 * Training on the grid of int8 weights with a given step: the forward pass uses rounded weights, and the gradient goes
 * straight through to the exact ones (Bengio et al. 2013, arXiv 1308.3432).
 */

import { isQuantised, MAX_ON_GRID, stepOf } from "../../src/format/quantise.ts";
import type { Weights } from "../../src/tfjs/forward.ts";
import type { Tensor, TF } from "../../src/tfjs/ops.ts";

/** The scale of a row of zeros. */
const LEAST_SCALE = 1e-30;

/** The 11 leading bits of an f32, rounded: what f16 holds of numbers in its range (Dekker's split). */
function toFloat16(tf: TF, x: Tensor): Tensor {
  const shifted = tf.mul(x, 2 ** 13 + 1);
  return tf.sub(shifted, tf.sub(shifted, x));
}

/**
 * @param weightStep of the grid, in root mean squares of a row: `encodeTensors`'s weightStep
 * @returns the same weights, those that run in int8 rounded as `encodeTensors` rounds them
 */
export function onGrid(tf: TF, weights: Weights, weightStep: number): Weights {
  const round = (w: Tensor, step: number): Tensor => {
    const square = tf.mean(tf.square(w), 1, true);
    const greatest = tf.max(tf.abs(w), 1, true);
    const exact = tf.maximum(tf.maximum(tf.mul(tf.sqrt(square), step), tf.div(greatest, MAX_ON_GRID)), LEAST_SCALE);
    const scale = toFloat16(tf, exact);
    return tf.mul(tf.round(tf.div(w, scale)), scale);
  };
  const roundAt = (step: number) =>
    tf.customGrad((w) => ({ value: round(w as Tensor, step), gradFunc: (dy: Tensor) => dy }));
  return new Map([...weights].map(([key, w]) => [key, isQuantised(key) ? roundAt(stepOf(key, weightStep))(w) : w]));
}
