/** A `Model` → the bytes of its weights file, and the known input that its self-test runs on. */
import { encodeFloat16 } from "./float16.ts";
import type { Architecture, Tensor, Tensors, WeightsDtype } from "./model.ts";
import { float32 } from "./read.ts";
import { writeSafetensors } from "./safetensors.ts";

/** Linears that int8 export quantises; embeddings, norms, biases and the patch embedding stay in f32. */
const QUANTISED = /^(blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12])|head(_dist)?)\.weight$/;

export function isQuantised(key: string): boolean {
  return QUANTISED.test(key);
}

const scaleOf = (key: string) => key.replace(/weight$/, "scale");

/**
 * @param tensors in any dtype; they are widened to f32 first
 * @returns f32 and f16: every tensor in that dtype. int8: the large linears as I8 with a scale an output channel.
 */
export function encodeTensors(tensors: Tensors, dtype: WeightsDtype): Tensors {
  const out: Tensors = new Map();
  for (const [key, { shape }] of tensors) {
    if (key.endsWith(".scale")) continue; // part of its weight, which float32() has already multiplied
    const values = float32(tensors, key);
    if (dtype === "f16") out.set(key, { dtype: "F16", shape, data: encodeFloat16(values) });
    else if (dtype === "int8" && isQuantised(key) && fits(tensors.get(key)!)) {
      for (const name of [key, scaleOf(key)]) out.set(name, tensors.get(name)!);
    } else if (dtype === "int8" && isQuantised(key)) {
      const { weight, scale } = quantiseRows(values, shape);
      out.set(key, weight);
      out.set(scaleOf(key), scale);
    } else out.set(key, { dtype: "F32", shape, data: values });
  }
  return out;
}

/**
 * Positive weights of one row whose products may meet in 16 bits, and negative ones, must not sum to more than this: times
 * 127, the greatest activation, it is the most that 16 bits hold.
 */
const MOST_OF_ONE_SIGN = 258;

/** Of all floats: a scale as small grows by no less. */
const SMALLEST = 2 ** -149;

/** Columns, from any on, whose products the simd engine adds up in 16 bits, wherever the padding of heads puts them. */
const TOGETHER = [0, 1, 4, 5];

/**
 * Symmetric int8, a scale an output channel: w ≈ scale[row] × int8, |int8| ≤ 127, and less where large weights stand
 * together (MOST_OF_ONE_SIGN).
 */
function quantiseRows(values: Float32Array, shape: number[]): { weight: Tensor; scale: Tensor } {
  const [rows, columns] = shape;
  const data = new Int8Array(values.length);
  const scale = new Float32Array(rows);
  for (let r = 0; r < rows; r++) {
    const row = values.subarray(r * columns, (r + 1) * columns);
    const levels = data.subarray(r * columns, (r + 1) * columns);
    let max = 0;
    for (const value of row) max = Math.max(max, Math.abs(value));
    scale[r] = max / 127;
    if (scale[r] === 0) continue;
    for (;;) {
      for (let c = 0; c < columns; c++) {
        levels[c] = Math.max(-127, Math.min(Math.round(row[c] / scale[r]), 127)); // a subnormal scale is too coarse to be exact
      }
      const most = mostOfOneSign(levels);
      if (most <= MOST_OF_ONE_SIGN) break;
      const larger = scale[r] * Math.max(most / MOST_OF_ONE_SIGN, 1.001); // rounding can leave one too many
      scale[r] = Math.max(larger, scale[r] + SMALLEST);
    }
  }
  return { weight: { dtype: "I8", shape, data }, scale: { dtype: "F32", shape: [rows], data: scale } };
}

/** Whether a tensor is as quantiseRows would leave it, so is kept. */
function fits({ dtype, shape, data }: Tensor): boolean {
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

export function writeWeights(tensors: Tensors): Uint8Array {
  return writeSafetensors(tensors, { format: "pt" });
}

/** The self-test's input: [3, height, width] of uniform noise in ±1 from `seed`, the same in every JavaScript. */
export function selfTestPixels({ imageSize: [height, width] }: Architecture, seed: number): Float32Array {
  const pixels = new Float32Array(3 * height * width);
  let state = seed >>> 0;
  for (let i = 0; i < pixels.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0; // Numerical Recipes' LCG; its high bits are used
    pixels[i] = (state >>> 8) / 2 ** 23 - 1;
  }
  return pixels;
}
