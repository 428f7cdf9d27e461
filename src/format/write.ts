/** A `Model` → its manifest's JSON, the bytes of its weights file, and the known input of its self-test. */
import { encodeFloat16, fromFloat16, MAX_FLOAT16, toFloat16 } from "./float16.ts";
import {
  type Architecture,
  FORMAT,
  isOptional,
  type Manifest,
  PLAIN,
  type Tensor,
  type Tensors,
  type WeightsDtype,
} from "./model.ts";
import { fits, isQuantised, quantiseRows, stepOf } from "./quantise.ts";
import { float32 } from "./read.ts";
import { writeSafetensors } from "./safetensors.ts";
import { type Stored, toSlabs } from "./slabs.ts";
import { currentVariants } from "./variants.ts";

const scaleOf = (key: string) => key.replace(/weight$/, "scale");

/**
 * The content of `slimvit.json`: each variant's fields under `variants` alone, without fields that equal `PLAIN`. The first
 * variant's preprocessing and RoPE grid apply to all variants that have the same.
 */
export function manifestJson(manifest: Manifest): Record<string, unknown> {
  const { format: _, name, license, variant: __, imageSize: ___, blocks: ____, metrics: _____, ...shared } = manifest;
  const variants = currentVariants(manifest);
  const common = { preprocess: variants[0].preprocess, rope: variants[0].rope };
  const json: Record<string, unknown> = { format: FORMAT, name, license, ...shared, ...common };
  for (const [key, value] of Object.entries(PLAIN)) if (key !== "head" && json[key] === value) delete json[key];
  const isCommon = (key: string, value: unknown) =>
    Object.hasOwn(common, key) && JSON.stringify(value) === JSON.stringify(common[key as keyof typeof common]);
  json.variants = variants.map((entry) =>
    Object.fromEntries(
      Object.entries(entry)
        .filter(([key, value]) => !isCommon(key, value))
        .map(([key, value]) => [key, key === "blocks" ? entry.blocks.map(blockJson) : value]),
    ),
  );
  return json;
}

function blockJson({ merge, ...block }: Manifest["blocks"][number]): Partial<Manifest["blocks"][number]> {
  return merge ? { ...block, merge } : block;
}

/**
 * @param tensors in any dtype; they are widened to f32 first
 * @param weightStep int8: weights on the grid of `quantiseRows`, each of its own step, whatever they were on before
 * @returns f32 and f16: every tensor in that dtype. int8: weights as I8 with a scale an output channel, the rest F16.
 */
export function encodeTensors(tensors: Tensors, dtype: WeightsDtype, weightStep?: number): Tensors {
  const out: Tensors = new Map();
  for (const [key, tensor] of tensors) {
    if (key.endsWith(".scale")) continue; // part of its weight, which float32() has already multiplied
    const { shape } = tensor;
    const runs = isQuantised(key);
    if (dtype === "int8" && !weightStep && (runs ? fits(tensor) : tensor.dtype === "I8")) {
      for (const name of [key, scaleOf(key)]) out.set(name, tensors.get(name)!);
      continue;
    }
    const values = float32(tensors, key);
    if (dtype === "int8" && (runs || key === "patch_embed.proj.weight")) {
      const step = weightStep && stepOf(key, weightStep);
      const { weight, scale } = quantiseRows(values, shape, { pairs: runs, step });
      out.set(key, weight);
      out.set(scaleOf(key), scale);
    } else if (key.endsWith(".rope_freqs")) {
      out.set(key, { dtype: "F32", shape, data: values }); // f16 would turn far patches by some thousandths of a radian
    } else if (dtype === "f16" || (dtype === "int8" && values.every((v) => Math.abs(v) < MAX_FLOAT16))) {
      out.set(key, { dtype: "F16", shape, data: encodeFloat16(values) });
    } else out.set(key, { dtype: "F32", shape, data: values });
  }
  return out;
}

/** A model's weights file. */
export function writeWeights(tensors: Tensors): Uint8Array {
  return writeStored(storedForm(tensors));
}

/**
 * The slabs of a file with several variants.
 *
 * @param variants smallest first
 */
export function writeSlabs(variants: { manifest: Manifest; tensors: Tensors }[]): Uint8Array[] {
  const isExact = (key: string) => variants.every(({ tensors }) => isFloat16(tensors.get(key)));
  const stored = variants.map(({ manifest, tensors }) => ({ manifest, stored: storedForm(tensors, isExact) }));
  return toSlabs(stored).map(writeStored);
}

const writeStored = (stored: Stored) => writeSafetensors(stored, { format: "pt" });

/** Scales that f16 holds exactly are written in f16. Zeros that a reader fills in are left out. */
function storedForm(tensors: Tensors, isExact = (key: string) => isFloat16(tensors.get(key))): Stored {
  const stored: Tensors = new Map(tensors);
  for (const [key, { dtype, shape, data }] of tensors) {
    if (data.length && isOptional(key) && (dtype === "F32" || dtype === "F16") && data.every((v) => v === 0))
      stored.delete(key);
    const isScale = dtype === "F32" && key.endsWith(".scale");
    if (!isScale || !isExact(key)) continue;
    stored.set(key, { dtype: "F16", shape, data: encodeFloat16(data as Float32Array) });
  }
  return stored;
}

const isFloat16 = (tensor?: Tensor) => !tensor || tensor.data.every((v) => fromFloat16(toFloat16(v)) === v);

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
