/** A model's tensors as TensorFlow.js variables, for training and rounding. */
import type * as tfjs from "@tensorflow/tfjs-core";
import type { TF } from "../../src/tfjs/ops.ts";

export type Variables = Map<string, tfjs.Variable>;

/** Named f32 tensors → trainable variables. */
export function variablesFrom(tf: TF, entries: Iterable<[string, { shape: number[]; data: Float32Array }]>): Variables {
  return new Map(
    [...entries].map(([name, { shape, data }]) => [name, tf.tidy(() => tf.variable(tf.tensor(data, shape)))]),
  );
}
