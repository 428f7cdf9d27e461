/** A model folder's two files → a checked `Model`. What comes out of here is trusted by everything else. */
import { messageOf, SlimViTError } from "../errors.ts";
import { decodeFloat16 } from "./float16.ts";
import {
  type BlockShape,
  countParams,
  denseTokens,
  FORMAT,
  type Manifest,
  type Model,
  type Tensor,
  type Tensors,
  tensorShapes,
  type WeightsDtype,
} from "./model.ts";
import { MAX_HEADER_BYTES, readSafetensors } from "./safetensors.ts";
import { show } from "./show.ts";

/**
 * 21,841 labels and their self-tests fit. JSON.parse can make thirty times as much of a text, and whoever serves it has
 * promised nothing yet.
 */
export const MAX_MANIFEST_BYTES = 2.5 * 2 ** 20;

/** Bounds on what a manifest may claim, so that a hostile one cannot make its reader allocate without end. */
const LIMITS = {
  imageSize: 4096,
  patchSize: 256,
  embedDim: 16384,
  blocks: 1024,
  tokens: 65_536,
  classes: 1_000_000,
  mlpHidden: 65_536,
  heads: 1024,
  weightsBytes: 2 ** 31,
};

/**
 * @param name how messages call the file
 * @throws SlimViTError `bad-model`, naming the file and the fault
 */
export function readManifest(text: string, name: string): Manifest {
  const check = new Check(name);
  if (text.length > MAX_MANIFEST_BYTES) check.fail(`is longer than ${MAX_MANIFEST_BYTES} bytes.`);
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    check.fail(`is not JSON (${messageOf(error)}).`);
  }
  const m = check.object(json, "the manifest");
  if (m.format !== FORMAT) {
    check.fail(
      `has format ${show(m.format)}; this version reads "${FORMAT}". Export the model again with "slimvit export".`,
    );
  }
  check.string(m.name, "name");
  check.string(m.license, "license");
  const [height, width] = check.pair(m.imageSize, "imageSize", LIMITS.imageSize);
  const patchSize = check.integer(m.patchSize, "patchSize", 1, LIMITS.patchSize);
  if (height % patchSize || width % patchSize)
    check.fail(`imageSize ${height}×${width} is no multiple of patchSize ${patchSize}.`);
  check.integer(m.embedDim, "embedDim", 1, LIMITS.embedDim);
  check.integer(m.headDim, "headDim", 1, LIMITS.embedDim);
  check.number(m.layerNormEps, "layerNormEps", true);
  check.integer(m.prefixTokens, "prefixTokens", 1, 2);
  const manifest = m as unknown as Manifest;
  const tokens = denseTokens(manifest);
  if (tokens > LIMITS.tokens) check.fail(`has ${tokens} tokens; the limit is ${LIMITS.tokens}.`);
  checkBlocks(check, manifest, tokens);
  checkPreprocess(check, manifest);
  checkLabels(check, manifest);
  checkWeightsFiles(check, manifest);
  check.object((manifest.provenance ??= {}), "provenance");
  check.object((manifest.metrics ??= {}), "metrics");
  return manifest;
}

/**
 * @param bytes the weights file, whole; its integrity is the caller's business
 * @throws SlimViTError `bad-model` for a missing, unknown, misshapen or mistyped tensor, and for NaN or Inf
 */
export function readModel(manifest: Manifest, dtype: WeightsDtype, bytes: Uint8Array, name: string): Model {
  const fail = (fault: string): never => {
    throw new SlimViTError("bad-model", `${name}: ${fault}`);
  };
  const stored = readSafetensors(bytes, name);
  const tensors: Tensors = new Map();
  for (const [key, shape] of tensorShapes(manifest, manifest.labels.length)) {
    const tensor = stored.get(key);
    if (!tensor) fail(`tensor "${key}" is missing.`);
    const { dtype: type, shape: found } = tensor!;
    if (!sameShape(found, shape))
      fail(`tensor "${key}" has shape ${show(found)}; slimvit.json makes it ${show(shape)}.`);
    if (!["F32", "F16", "I8"].includes(type)) fail(`tensor "${key}" has dtype ${type}; expected F32, F16 or I8.`);
    tensors.set(key, tensor as Tensor);
    stored.delete(key);
    if (type === "I8") {
      if (!key.endsWith(".weight")) fail(`tensor "${key}" is I8; only weights can be.`);
      const scaleKey = key.replace(/weight$/, "scale");
      const scale = stored.get(scaleKey);
      const isFloat = scale?.dtype === "F32" || scale?.dtype === "F16";
      if (!isFloat || !sameShape(scale.shape, [shape[0]])) {
        fail(`tensor "${key}" is I8 and needs "${scaleKey}" (F32 or F16, [${shape[0]}]).`);
      }
      tensors.set(scaleKey, { dtype: "F32", shape: [shape[0]], data: float32(stored as Tensors, scaleKey) });
      stored.delete(scaleKey);
    }
  }
  const [unknown] = stored.keys();
  if (unknown !== undefined) fail(`tensor ${show(unknown)} is unknown to this architecture.`);
  for (const [key, tensor] of tensors) {
    if (!isFinite32(tensor)) fail(`tensor "${key}" holds NaN or Inf.`);
    if (tensor.dtype === "I8" && overflows(tensors, key))
      fail(`tensor "${key}" overflows when it is multiplied by its scale.`);
  }
  return { manifest, dtype, tensors };
}

/** One tensor in f32, dequantised where it is int8; cached nowhere, so keep what you get. */
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

function checkBlocks(check: Check, manifest: Manifest, tokens: number): void {
  const blocks = check.list(manifest.blocks, "blocks", 1, LIMITS.blocks) as BlockShape[];
  let before: Set<number> | undefined;
  blocks.forEach((block, i) => {
    const at = `blocks[${i}]`;
    check.object(block, at);
    for (const width of check.list(block.headDims, `${at}.headDims`, 0, LIMITS.heads)) {
      check.integer(width, `${at}.headDims`, 1, manifest.headDim);
    }
    check.integer(block.mlpHidden, `${at}.mlpHidden`, 0, LIMITS.mlpHidden);
    const where = `${at}.keepIdx`;
    const keepIdx = check.list(block.keepIdx, where, 1, tokens) as number[];
    keepIdx.forEach((token, k) => {
      check.integer(token, where, 0, tokens - 1);
      if (k > 0 && token <= keepIdx[k - 1]) check.fail(`${where} is not ascending at ${keepIdx[k - 1]}, ${token}.`);
      if (before && !before.has(token)) {
        check.fail(
          `block ${i} keeps token ${token}, which block ${i - 1} has already dropped. keepIdx must shrink from block to block.`,
        );
      }
    });
    for (let prefix = 0; prefix < manifest.prefixTokens; prefix++) {
      if (keepIdx[prefix] !== prefix)
        check.fail(`${where} lacks token ${prefix}: class and distillation tokens are always kept.`);
    }
    before = new Set(keepIdx);
  });
}

function checkPreprocess(check: Check, { preprocess, imageSize }: Manifest): void {
  check.object(preprocess, "preprocess");
  const crop = check.pair(preprocess.crop, "preprocess.crop", LIMITS.imageSize);
  if (!sameShape(crop, imageSize)) check.fail(`preprocess.crop ${show(crop)} is not imageSize ${show(imageSize)}.`);
  const { resize } = preprocess;
  if (Array.isArray(resize)) {
    check.list(resize, "preprocess.resize", 2, 2);
    resize.forEach((side, k) => void check.integer(side, `preprocess.resize[${k}]`, crop[k], 4 * LIMITS.imageSize));
  } else {
    check.integer(resize, "preprocess.resize", Math.max(...crop), 4 * LIMITS.imageSize);
  }
  if (preprocess.interpolation !== "bicubic" && preprocess.interpolation !== "bilinear") {
    check.fail(`preprocess.interpolation is ${show(preprocess.interpolation)}; expected "bicubic" or "bilinear".`);
  }
  for (const key of ["mean", "std"] as const) {
    const at = `preprocess.${key}`;
    for (const value of check.list(preprocess[key], at, 3, 3)) check.number(value, at, key === "std");
  }
}

function checkLabels(check: Check, manifest: Manifest): void {
  check.list(manifest.labels, "labels", 1, LIMITS.classes).forEach((label, i) => {
    const { id, label: text } = check.object(label, `labels[${i}]`);
    check.string(id, `labels[${i}].id`);
    check.string(text, `labels[${i}].label`);
  });
}

function checkWeightsFiles(check: Check, manifest: Manifest): void {
  const dtypes = new Set<unknown>();
  // A few packed bytes can make very many: no more than the network's in f32, or in int8 of rows of one weight, and a header.
  const unpackedLimit = 5 * countParams(manifest, manifest.labels.length) + MAX_HEADER_BYTES;
  check.list(manifest.weights, "weights", 0, 8).forEach((entry, i) => {
    const at = `weights[${i}]`;
    const { dtype, file, bytes, sha256, unpackedBytes, selfTest } = check.object(entry, at);
    if (!["f32", "f16", "int8"].includes(dtype as string))
      check.fail(`${at}.dtype is ${show(dtype)}; expected "f32", "f16" or "int8".`);
    if (dtypes.has(dtype)) check.fail(`${at} is a second ${dtype} file.`);
    dtypes.add(dtype);
    if (typeof file !== "string" || !/^[\w][\w.-]*\.safetensors(\.zz)?$/.test(file)) {
      check.fail(
        `${at}.file is ${show(file)}; expected the plain name of a .safetensors file in the model's own folder.`,
      );
    }
    check.integer(bytes, `${at}.bytes`, 8, LIMITS.weightsBytes);
    if (file.endsWith(".zz")) check.integer(unpackedBytes, `${at}.unpackedBytes`, 8, unpackedLimit);
    if (typeof sha256 !== "string" || !/^[0-9a-f]{64}$/.test(sha256))
      check.fail(`${at}.sha256 is ${show(sha256)}; expected 64 hex digits.`);
    if (selfTest !== undefined) {
      const test = check.object(selfTest, `${at}.selfTest`);
      check.integer(test.seed, `${at}.selfTest.seed`, 0, 2 ** 32 - 1);
      const logits = check.list(test.logits, `${at}.selfTest.logits`, manifest.labels.length, manifest.labels.length);
      if (!logits.every(Number.isFinite)) check.fail(`${at}.selfTest.logits holds what is no number.`);
    }
  });
}

/** Each check returns the value it has checked, or throws one sentence that names the file. */
export class Check {
  constructor(private readonly name: string) {}

  fail(fault: string): never {
    throw new SlimViTError("bad-model", `${this.name}: ${fault}`);
  }
  object(value: unknown, what: string): Record<string, unknown> {
    if (typeof value !== "object" || value === null || Array.isArray(value))
      this.fail(`${what} is ${show(value)}; expected an object.`);
    return value as Record<string, unknown>;
  }
  string(value: unknown, what: string): string {
    if (typeof value !== "string") this.fail(`${what} is ${show(value)}; expected a string.`);
    return value as string;
  }
  integer(value: unknown, what: string, min: number, max: number): number {
    if (!Number.isSafeInteger(value) || (value as number) < min || (value as number) > max) {
      this.fail(`${what} is ${show(value)}; expected a whole number from ${min} to ${max}.`);
    }
    return value as number;
  }
  number(value: unknown, what: string, isPositive: boolean): void {
    const single = Math.fround(value as number);
    if (typeof value !== "number" || !Number.isFinite(single) || (isPositive && single <= 0))
      this.fail(`${what} is ${show(value)}; expected a number${isPositive ? " above 0" : ""}.`);
  }
  list(value: unknown, what: string, min: number, max: number): unknown[] {
    if (!Array.isArray(value)) this.fail(`${what} is ${show(value)}; expected a list.`);
    const { length } = value as unknown[];
    if (length < min || length > max)
      this.fail(`${what} has ${length} entries; expected ${min === max ? min : `${min} to ${max}`}.`);
    return value as unknown[];
  }
  pair(value: unknown, what: string, max: number): [number, number] {
    const [first, second] = this.list(value, what, 2, 2);
    return [this.integer(first, what, 1, max), this.integer(second, what, 1, max)];
  }
}

function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((size, i) => size === b[i]);
}

/** Exact only where it matters: hardly a scale is so large that int8 cannot be multiplied by it. */
function overflows(tensors: Tensors, key: string): boolean {
  const scale = tensors.get(key.replace(/weight$/, "scale"))!.data as Float32Array;
  return scale.some((s) => Math.abs(s) > 2 ** 120) && !float32(tensors, key).every(Number.isFinite);
}

/** No loop of our own: in a page that has just opened nothing is compiled yet, and one took a tenth of a second. */
function isFinite32({ dtype, data }: Tensor): boolean {
  const values = dtype === "F16" ? decodeFloat16(data as Uint16Array) : (data as Float32Array | Int8Array);
  return ![Number.NaN, Infinity, -Infinity].some((bad) => values.includes(bad));
}
