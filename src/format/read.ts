/** A model folder's two files → a checked `Model`. All other code trusts the result. */
import { SlimViTError } from "../errors.ts";
import { decodeFloat16 } from "./float16.ts";
import { LIMITS } from "./limits.ts";
import {
  isOptional,
  type Manifest,
  type Model,
  type Tensor,
  type Tensors,
  tensorShapes,
  type WeightsDtype,
} from "./model.ts";
import { readSafetensors, type StoredTensor } from "./safetensors.ts";
import { show } from "./show.ts";

export { MAX_MANIFEST_BYTES, readManifest } from "./manifest.ts";

/**
 * @param bytes the weights file, whole; its integrity is the caller's business
 * @returns the selected variant's network, of a file that is a single piece
 * @throws SlimViTError `bad-model` for a missing, unknown, misshapen or mistyped tensor, and for NaN or Inf
 */
export function readModel(manifest: Manifest, dtype: WeightsDtype, bytes: Uint8Array, name: string): Model {
  return modelOf(manifest, dtype, readSafetensors(bytes, name), name);
}

/** @throws SlimViTError as `readModel` */
export function modelOf(
  manifest: Manifest,
  dtype: WeightsDtype,
  stored: Map<string, StoredTensor>,
  name: string,
): Model {
  const tensors = tensorsOf(manifest, stored, name);
  const unknown = [...stored.keys()].find((key) => !tensors.has(key));
  if (unknown !== undefined)
    throw new SlimViTError("bad-model", `${name}: tensor ${show(unknown)} is unknown to this architecture.`);
  return { manifest, dtype, tensors };
}

/**
 * The selected variant's tensors out of those that a file stores.
 *
 * @param name how messages call the file
 * @returns also the zeros that the file leaves out
 * @throws SlimViTError `bad-model` as `readModel`, but for unknown tensors
 */
export function tensorsOf(manifest: Manifest, stored: Map<string, StoredTensor>, name: string): Tensors {
  const fail = (fault: string): never => {
    throw new SlimViTError("bad-model", `${name}: ${fault}`);
  };
  const tensors: Tensors = new Map();
  let filled = 0;
  for (const [key, shape] of tensorShapes(manifest, manifest.labels.length)) {
    const tensor = stored.get(key);
    if (!tensor) {
      if (!isOptional(key)) fail(`tensor "${key}" is missing.`);
      const count = shape.reduce((a, b) => a * b, 1);
      filled += count;
      if (filled > LIMITS.filledValues)
        fail(`leaves out tensors of ${filled} zeros, "${key}" the last; the limit is ${LIMITS.filledValues}.`);
      tensors.set(key, { dtype: "F32", shape, data: new Float32Array(count) });
      continue;
    }
    const { dtype: type, shape: found } = tensor;
    if (!sameShape(found, shape))
      fail(`tensor "${key}" has shape ${show(found)}; slimvit.json makes it ${show(shape)}.`);
    if (!["F32", "F16", "I8"].includes(type)) fail(`tensor "${key}" has dtype ${type}; expected F32, F16 or I8.`);
    tensors.set(key, tensor as Tensor);
    if (type === "I8") {
      if (!key.endsWith(".weight")) fail(`tensor "${key}" is I8; only weights can be.`);
      const scaleKey = key.replace(/weight$/, "scale");
      const scale = stored.get(scaleKey);
      const isFloat = scale?.dtype === "F32" || scale?.dtype === "F16";
      if (!isFloat || !sameShape(scale.shape, [shape[0]])) {
        fail(`tensor "${key}" is I8 and needs "${scaleKey}" (F32 or F16, [${shape[0]}]).`);
      }
      tensors.set(scaleKey, { dtype: "F32", shape: [shape[0]], data: float32(stored as Tensors, scaleKey) });
    }
  }
  for (const [key, tensor] of tensors) {
    if (!isFinite32(tensor)) fail(`tensor "${key}" holds NaN or Inf.`);
    if (tensor.dtype === "I8" && overflows(tensors, key))
      fail(`tensor "${key}" overflows when it is multiplied by its scale.`);
  }
  return tensors;
}

/** One tensor in f32, dequantised where it is int8. The result is not cached, so callers should keep it. */
export function float32(tensors: Tensors, key: string): Float32Array {
  const tensor = tensors.get(key);
  if (!tensor) throw new SlimViTError("bad-model", `tensor "${key}" is missing.`);
  const { dtype, data, shape } = tensor;
  if (dtype === "F32") return data as Float32Array;
  if (dtype === "F16") return decodeFloat16(data as Uint16Array);
  const scale = tensors.get(key.replace(/weight$/, "scale"))!.data as Float32Array;
  const out = new Float32Array(data.length);
  const rowLength = data.length / shape[0];
  for (let row = 0, i = 0; row < scale.length; row++) {
    for (const end = i + rowLength; i < end; i++) out[i] = data[i] * scale[row];
  }
  return out;
}

function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((size, i) => size === b[i]);
}

/** Whether weights overflow f32. Numbers are computed only where a scale is very large, which is rare. */
function overflows(tensors: Tensors, key: string): boolean {
  const scale = tensors.get(key.replace(/weight$/, "scale"))!.data as Float32Array;
  return scale.some((s) => Math.abs(s) > 2 ** 120) && !float32(tensors, key).every(Number.isFinite);
}

/**
 * Avoids a loop of our own, which took a tenth of a second: in a page that has just opened, nothing is compiled yet.
 */
function isFinite32({ dtype, data }: Tensor): boolean {
  const values = dtype === "F16" ? decodeFloat16(data as Uint16Array) : (data as Float32Array | Int8Array);
  return ![Number.NaN, Infinity, -Infinity].some((bad) => values.includes(bad));
}
