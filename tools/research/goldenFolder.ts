/** A folder of golden numbers: its contents, the tolerances, and the errors. */

import type { Architecture } from "../../src/format/model.ts";
import type { StoredTensor } from "../../src/format/safetensors.ts";
import type { Tensor, TF } from "../../src/tfjs/ops.ts";
import type { MaskMode } from "../masks/masks.ts";

/**
 * Tolerances from the golden README. Those of logits are absolute; those of gradients, losses and AdamW are relative to
 * the tensor's largest value.
 */
export const TOLERANCE = { logits: 1e-4, gradient: 1e-3, loss: 1e-5, adamw: 1e-4, exact: 0 };

export interface GoldenMode {
  weights_attn_mlp_patch: [number, number, number];
  budgets: Record<string, GoldenBudget>;
  adamw3_losses?: number[];
  dense_macs_params?: [number, number];
  [scalar: string]: unknown;
}

export interface GoldenBudget {
  budget: [number, number, number];
  threshold: [number, number, number];
  keep_union: number[][];
  keep_intersect: number[][];
  attn_channels_per_head: number[][];
  mlp_kept: number[];
  slim_macs_params: [number, number];
  slim_intersect_macs_params: [number, number];
}

export type Report = (quantity: string, error: number, tolerance: number) => void;
export type Stored = Map<string, StoredTensor>;

/** A mask mode of the folder, with all that its checks start from. */
export interface Case {
  mode: MaskMode;
  arch: Architecture;
  stored: Stored;
  zetas: Stored;
  pixels: Tensor;
  labels: number[];
  softTargets: Tensor;
  expected: GoldenMode;
}

export function tensorOf(tf: TF, { shape, data }: StoredTensor): Tensor {
  return tf.tensor(Float32Array.from(data as Float32Array), shape);
}

export const numbers = ({ data }: StoredTensor): number[] => Array.from(data as Float64Array, Number);

export function scalar(tf: TF, compute: () => Tensor): number {
  return tf.tidy(() => compute().dataSync()[0]);
}

export function worst(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Infinity;
  let error = 0;
  for (let k = 0; k < actual.length; k++) {
    const difference = Math.abs(actual[k] - expected[k]);
    if (!(difference <= error)) error = difference; // keeps NaN
  }
  return error;
}

export function relativeWorst(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  let largest = 1e-6; // key biases have a true gradient of 0
  for (let k = 0; k < expected.length; k++) largest = Math.max(largest, Math.abs(expected[k]));
  return worst(actual, expected) / largest;
}

export const relative = (actual: number, expected: number) =>
  Math.abs(actual - expected) / Math.max(Math.abs(expected), 1e-12);

export function mismatches(actual: number[][], expected: number[][]): number {
  if (actual.length !== expected.length) return Infinity;
  return actual.filter((row, i) => row.length !== expected[i].length || row.some((v, k) => v !== expected[i][k]))
    .length;
}
