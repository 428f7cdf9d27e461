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
    else if (dtype === "int8" && isQuantised(key)) {
      const { weight, scale } = quantiseRows(values, shape);
      out.set(key, weight);
      out.set(key.replace(/weight$/, "scale"), scale);
    } else out.set(key, { dtype: "F32", shape, data: values });
  }
  return out;
}

/** Symmetric int8, a scale an output channel: w ≈ scale[row] × int8, |int8| ≤ 127. */
function quantiseRows(values: Float32Array, shape: number[]): { weight: Tensor; scale: Tensor } {
  const [rows, columns] = shape;
  const data = new Int8Array(values.length);
  const scale = new Float32Array(rows);
  for (let r = 0; r < rows; r++) {
    let max = 0;
    for (let c = 0; c < columns; c++) max = Math.max(max, Math.abs(values[r * columns + c]));
    scale[r] = max / 127;
    if (scale[r] === 0) continue;
    for (let c = 0; c < columns; c++) {
      const level = Math.round(values[r * columns + c] / scale[r]);
      data[r * columns + c] = Math.max(-127, Math.min(level, 127)); // a subnormal scale is too coarse to be exact
    }
  }
  return { weight: { dtype: "I8", shape, data }, scale: { dtype: "F32", shape: [rows], data: scale } };
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
