/** A `Model` → the bytes of its weights file, and the known input that its self-test runs on. */
import { encodeFloat16 } from "./float16.ts";
import type { Architecture, Tensors, WeightsDtype } from "./model.ts";
import { fits, isPacked, isQuantised, quantiseRows } from "./quantise.ts";
import { float32 } from "./read.ts";
import { writeSafetensors } from "./safetensors.ts";

const scaleOf = (key: string) => key.replace(/weight$/, "scale");

/**
 * @param tensors in any dtype; they are widened to f32 first
 * @param weightStep int8: the large linears in 4 bits, on the grid of `quantiseRows`
 * @returns f32 and f16: every tensor in that dtype. int8: weights as I8 with a scale an output channel, the rest F16.
 */
export function encodeTensors(tensors: Tensors, dtype: WeightsDtype, weightStep?: number): Tensors {
  const out: Tensors = new Map();
  for (const [key, tensor] of tensors) {
    if (key.endsWith(".scale")) continue; // part of its weight, which float32() has already multiplied
    const { shape } = tensor;
    const runs = isQuantised(key);
    if (dtype === "int8" && (runs ? fits(tensor, weightStep) : tensor.dtype === "I8")) {
      for (const name of [key, scaleOf(key)]) out.set(name, tensors.get(name)!);
      continue;
    }
    const values = float32(tensors, key);
    if (dtype === "int8" && (runs || key === "patch_embed.proj.weight")) {
      const { weight, scale } = quantiseRows(values, shape, runs ? { pairs: true, step: weightStep } : {});
      out.set(key, weight);
      out.set(scaleOf(key), scale);
    } else if (dtype === "f16" || (dtype === "int8" && values.every((v) => Math.abs(v) < MAX_FLOAT16))) {
      out.set(key, { dtype: "F16", shape, data: encodeFloat16(values) });
    } else out.set(key, { dtype: "F32", shape, data: values });
  }
  return out;
}

const MAX_FLOAT16 = 65504;

/** Levels that 4 bits hold are written two to a byte, as U8 [⌈elements / 2⌉], the first in the low bits. */
export function writeWeights(tensors: Tensors): Uint8Array {
  const stored: Parameters<typeof writeSafetensors>[0] = new Map(tensors);
  for (const [key, { dtype, data }] of tensors) {
    if (dtype !== "I8" || !isPacked(data)) continue;
    const packed = new Uint8Array(Math.ceil(data.length / 2));
    for (let i = 0; i < data.length; i++) packed[i >> 1] |= (data[i] & 15) << (4 * (i & 1));
    stored.set(key, { dtype: "U8", shape: [packed.length], data: packed });
  }
  return writeSafetensors(stored, { format: "pt" });
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
