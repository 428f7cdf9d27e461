/** Which weights are int8, and how they are rounded. */
import { fromFloat16, MAX_FLOAT16, toFloat16 } from "./float16.ts";
import type { Tensor } from "./model.ts";
import { MOST_OF_ONE_SIGN, PAIR_COLUMNS, STEP_COLUMNS } from "./pairSums.ts";

/** Linears that run in int8; the patch embedding is stored so, and embeddings, norms and biases in f16 where they fit. */
const QUANTISED = /^(blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12])|head(_dist)?)\.weight$/;

export function isQuantised(key: string): boolean {
  return QUANTISED.test(key);
}

/**
 * The same step costs some linears more accuracy than others, so each gets a share of the step. The shares come from
 * the effect that rounding each linear of DeiT-Ti alone has on the logits (docs/experiments.md).
 */
const SHARES: [RegExp, number][] = [
  [/^head/, 0.2],
  [/^patch_embed/, 0.5],
  [/attn\.proj/, 0.7],
  [/mlp\.fc2/, 1.3],
];

/** @returns the step of a tensor, given the requested step */
export function stepOf(key: string, step: number): number {
  return step * (SHARES.find(([name]) => name.test(key))?.[1] ?? 1);
}

/** The greatest level of a grid with a given step. Weights up to it can be summed in 16 bits, whatever their signs. */
export const MAX_ON_GRID = 64;

/** Smallest normal f16. Below it, f16 has fewer than 11 significant bits. */
const SMALLEST_NORMAL_FLOAT16 = 2 ** -14;

/** Smallest positive float32: a scale of this size cannot grow by less. */
const SMALLEST = 2 ** -149;

/** Columns, from any on, whose products the simd engine adds up in 16 bits, wherever the padding of heads puts them. */
const TOGETHER = [0, STEP_COLUMNS].flatMap((step) => Array.from({ length: PAIR_COLUMNS }, (_, i) => step + i));

/**
 * Symmetric, a scale an output channel: w ≈ scale[row] × level. |level| ≤ 127, and with `pairs` smaller where large weights
 * stand together (MOST_OF_ONE_SIGN). With a `step` the scale is `step` × the row's root mean square, more only where its
 * greatest weight needs it (MAX_ON_GRID): most levels are then so small that they compress to two or three bits.
 */
export function quantiseRows(
  values: Float32Array,
  shape: number[],
  { pairs = false, step }: { pairs?: boolean; step?: number },
): { weight: Tensor; scale: Tensor } {
  const [rows] = shape;
  const columns = values.length / rows;
  const data = new Int8Array(values.length);
  const scale = new Float32Array(rows);
  const greatest = step ? MAX_ON_GRID : 127;
  for (let r = 0; r < rows; r++) {
    const row = values.subarray(r * columns, (r + 1) * columns);
    const levels = data.subarray(r * columns, (r + 1) * columns);
    scale[r] = scaleOf(row, greatest, step);
    if (scale[r] === 0) continue;
    for (;;) {
      for (let c = 0; c < columns; c++) {
        const level = Math.round(row[c] / scale[r]);
        levels[c] = Math.max(-greatest, Math.min(level, greatest)); // a subnormal scale is too coarse to be exact
      }
      const most = pairs ? mostOfOneSign(levels) : 0;
      if (most <= MOST_OF_ONE_SIGN) break;
      const larger = scale[r] * Math.max(most / MOST_OF_ONE_SIGN, 1.001); // rounding can leave one too many
      scale[r] = Math.max(larger, scale[r] + SMALLEST);
    }
  }
  return { weight: { dtype: "I8", shape, data }, scale: { dtype: "F32", shape: [rows], data: scale } };
}

/**
 * The scale of a row: large enough for its greatest weight and at least `step` × its root mean square. With a step it
 * is an f16.
 */
export function scaleOf(row: Float32Array, greatest: number, step = 0): number {
  let max = 0;
  let squares = 0;
  for (const value of row) {
    max = Math.max(max, Math.abs(value));
    squares += value * value;
  }
  const scale = Math.max(max / greatest, step * Math.sqrt(squares / Math.max(row.length, 1)));
  return step && scale >= SMALLEST_NORMAL_FLOAT16 && scale < MAX_FLOAT16 ? fromFloat16(toFloat16(scale)) : scale;
}

/** Whether a tensor already is what quantiseRows would make, so that it is kept. */
export function fits({ dtype, shape, data }: Tensor): boolean {
  if (dtype !== "I8") return false;
  const columns = shape[1];
  for (let at = 0; at < data.length; at += columns) {
    if (mostOfOneSign((data as Int8Array).subarray(at, at + columns)) > MOST_OF_ONE_SIGN) return false;
  }
  return true;
}

function mostOfOneSign(levels: Int8Array): number {
  let most = 0;
  for (let c = 0; c < levels.length; c++) {
    let up = 0;
    let down = 0;
    for (const i of TOGETHER) {
      const level = levels[c + i] ?? 0;
      if (level > 0) up += level;
      else down -= level;
    }
    most = Math.max(most, up, down);
  }
  return most;
}
