/** The slim forward pass of the whole family in plain loops. Every engine computes the same logits, only faster. */
import { throwIfAborted } from "../errors.ts";
import { denseTokens, innerDim, type Model, patchGrid } from "../format/model.ts";
import { float32 } from "../format/read.ts";
import { choosePairs, type MergePairs, mergedRows, mergeRows, mergeSizes } from "./merge.ts";
import { activate, attention, gatedUnits, layerNorm, linear } from "./ops.ts";
import { classify } from "./pooling.ts";
import { relativeBias, ropeCoordinates, rotate } from "./positions.ts";

export type { MergePairs };

export interface RunOptions {
  /** seen between blocks where the engine can, else after the run */
  signal?: AbortSignal;
  /** milliseconds of each block */
  profile?: boolean;
  /** the class token's attention in each block, and what merged */
  explain?: boolean;
  /** for each block the pairs that merge, instead of those most alike: two engines are compared on the same pairs */
  forcedPairs?: MergePairs[];
  /** receives what enters and leaves each linear of the blocks, as `blocks.0.attn.qkv` */
  onLinear?: (name: string, input: Float32Array, output: Float32Array) => void;
}

export interface RunOutput {
  /** [classes]; empty without a head */
  logits: Float32Array;
  /** [featureDim]: the pooled tokens after norm and projection */
  features: Float32Array;
  /** with `profile`: [blocks] */
  blockMs?: number[];
  /**
   * with `explain`: for each block, attention of the class token over the tokens that enter it, averaged over heads. Without
   * a class token it is the mean over all tokens' attention. Empty for a block without heads.
   */
  attention?: Float32Array[];
  /** with `explain`, of a network that merges: for each block and original patch, the row after the block that stands for it; −1 where it was dropped */
  groups?: Int32Array[];
  /** with `explain`, of a network that merges: for each block the pairs that merged */
  pairs?: MergePairs[];
}

/** @param pixels [3, height, width], normalised */
export function forward(model: Model, pixels: Float32Array, options: RunOptions = {}): RunOutput {
  const steps = forwardSteps(model, pixels, options);
  for (;;) {
    const { done, value } = steps.next();
    if (done) return value;
  }
}

/** The tokens between two blocks. */
interface Stream {
  /** [tokens, embedDim] */
  x: Float32Array;
  /** tokens that are represented, as in keepIdx */
  alive: number[];
  /** [tokens]: patches that each row stands for; 1 for a prefix token */
  sizes: Float64Array;
  /** with RoPE: [tokens, 2] */
  coordinates?: Float64Array;
  /** [patches]: the row that stands for each original patch, or −1 */
  rowOf: Int32Array;
}

/** The forward pass with a pause before each block, in which the caller can let an abort arrive. */
export function* forwardSteps(
  model: Model,
  pixels: Float32Array,
  options: RunOptions = {},
): Generator<undefined, RunOutput> {
  const { blocks } = model.manifest;
  const merges = blocks.some(({ merge }) => merge > 0);
  const [blockMs, maps, groups, pairs]: [number[], Float32Array[], Int32Array[], MergePairs[]] = [[], [], [], []];
  let stream = start(model, pixels);
  for (const i of blocks.keys()) {
    yield;
    throwIfAborted(options.signal);
    const begun = performance.now();
    stream = keepTokens(model, stream, blocks[i].keepIdx);
    const { map, merged } = runBlock(model, i, stream, options);
    maps.push(map);
    pairs.push(merged);
    groups.push(stream.rowOf);
    blockMs.push(performance.now() - begun);
  }
  return {
    ...classify(model, stream.x, stream.sizes),
    ...(options.profile && { blockMs }),
    ...(options.explain && { attention: maps, ...(merges && { groups, pairs }) }),
  };
}

function start(model: Model, pixels: Float32Array): Stream {
  const alive = model.manifest.blocks[0].keepIdx;
  const rowOf = new Int32Array(denseTokens(model.manifest) - model.manifest.prefixTokens);
  const stream = { x: embed(model, pixels, alive), alive, sizes: new Float64Array(alive.length).fill(1), rowOf };
  return placed(model, stream);
}

/** Adds the place of each row and the patches it stands for, as long as each row is one token. */
function placed({ manifest }: Model, stream: Stream): Stream {
  const rowOf = new Int32Array(stream.rowOf.length).fill(-1);
  stream.alive.forEach((token, row) => {
    if (token >= manifest.prefixTokens) rowOf[token - manifest.prefixTokens] = row;
  });
  const coordinates = manifest.position === "rope" ? ropeCoordinates(manifest, stream.alive) : undefined;
  return { ...stream, coordinates, rowOf };
}

/** Gathers the rows of the tokens in `keepIdx`, a subset of those alive. Lists do not shrink after a merge. */
function keepTokens(model: Model, stream: Stream, keepIdx: number[]): Stream {
  if (keepIdx.length === stream.alive.length) return stream;
  const dim = model.manifest.embedDim;
  const row = new Map(stream.alive.map((token, k) => [token, k]));
  const x = new Float32Array(keepIdx.length * dim);
  keepIdx.forEach((token, k) => {
    const from = row.get(token)! * dim;
    x.set(stream.x.subarray(from, from + dim), k * dim);
  });
  return placed(model, { ...stream, x, alive: keepIdx, sizes: new Float64Array(keepIdx.length).fill(1) });
}

/** Runs block `i` on the stream. */
function runBlock(
  { manifest, tensors }: Model,
  i: number,
  stream: Stream,
  { forcedPairs, onLinear }: RunOptions,
): { map: Float32Array; merged: MergePairs } {
  const { embedDim, headDim, layerNormEps, normEps, prefixTokens, blocks } = manifest;
  const block = blocks[i];
  const inner = innerDim(block);
  const t = (key: string) => float32(tensors, `blocks.${i}.${key}`);
  const norm = (x: Float32Array, key: string, eps = layerNormEps, denseDim?: number) =>
    layerNorm(x, t(`${key}.weight`), t(`${key}.bias`), eps, denseDim);
  const dense = (x: Float32Array, key: string, rows: number) => {
    const y = linear(x, t(`${key}.weight`), t(`${key}.bias`), rows);
    onLinear?.(`blocks.${i}.${key}`, x, y);
    return y;
  };

  const n = stream.sizes.length;
  const qkv = dense(norm(stream.x, "norm1"), "attn.qkv", n);
  if (manifest.qkNorm) {
    for (const [part, key] of [`q`, `k`].entries()) {
      const [weight, bias] = [t(`attn.${key}_norm.weight`), t(`attn.${key}_norm.bias`)];
      normHeads(qkv, part, block.headDims, weight, bias, normEps?.qk ?? layerNormEps, headDim);
    }
  }
  if (stream.coordinates) rotate(qkv, block, stream.coordinates, t("attn.rope_freqs"), prefixTokens);
  const relative =
    manifest.position === "relative" ? relativeBias(manifest, stream.alive, t("attn.rel_bias")) : undefined;
  const { sizes } = stream;
  const bias = (head: number, query: number, key: number) => Math.log(sizes[key]) + (relative?.(head, query, key) ?? 0);
  const map = new Float32Array(block.headDims.length ? n : 0);
  const mapRows = manifest.classToken ? 1 : n;
  const mixed = attention(qkv, block.headDims, 1 / Math.sqrt(headDim), n, { bias, map, mapRows });
  stream.x = add(stream.x, dense(mixed, "attn.proj", n)); // without heads: proj.bias alone

  const merged = block.merge ? (forcedPairs?.[i] ?? choosePairs(qkv, inner, prefixTokens, block.merge)) : [];
  if (merged.length) mergeStream(stream, embedDim, prefixTokens, merged);

  const left = stream.sizes.length;
  const units = dense(norm(stream.x, "norm2"), "mlp.fc1", left);
  let hidden =
    manifest.mlp === "swiglu"
      ? gatedUnits(units, block.mlpHidden, manifest.activation)
      : activate(units, manifest.activation);
  if (manifest.hiddenNorm) hidden = norm(hidden, "mlp.norm", normEps?.hidden, manifest.hiddenNorm);
  stream.x = add(stream.x, dense(hidden, "mlp.fc2", left)); // without units: fc2.bias alone
  return { map, merged };
}

/** Norms each head's part of q (part 0) or k (1) in place. Cut channels count as zeros among `headDim`. */
function normHeads(
  qkv: Float32Array,
  part: number,
  headDims: number[],
  weight: Float32Array,
  bias: Float32Array,
  eps: number,
  headDim: number,
): void {
  const inner = weight.length;
  for (let row = part * inner; row < qkv.length; row += 3 * inner) {
    let first = 0;
    for (const width of headDims) {
      const own = (values: Float32Array, from: number) => values.subarray(from + first, from + first + width);
      qkv.set(layerNorm(own(qkv, row), own(weight, 0), own(bias, 0), eps, headDim), row + first);
      first += width;
    }
  }
}

function mergeStream(stream: Stream, dim: number, prefixTokens: number, pairs: MergePairs): void {
  const { x, sizes, coordinates, rowOf } = stream;
  const merged = mergedRows(sizes.length, prefixTokens, pairs);
  stream.x = Float32Array.from(mergeRows(x, dim, sizes, merged));
  if (coordinates) stream.coordinates = mergeRows(coordinates, 2, sizes, merged);
  stream.sizes = mergeSizes(sizes, merged);
  stream.rowOf = rowOf.map((row) => (row < 0 ? -1 : merged.rows[row]));
}

/** Embeds the kept patches only and adds their positions by original index: [keepIdx.length, embedDim]. */
function embed(model: Model, pixels: Float32Array, keepIdx: number[]): Float32Array {
  const { manifest, tensors } = model;
  const { embedDim, prefixTokens, preNorm, layerNormEps, normEps } = manifest;
  const t = (key: string) => float32(tensors, key);
  const [weight, bias, position] = [t("patch_embed.proj.weight"), t("patch_embed.proj.bias"), t("pos_embed")];
  const prefix = prefixOf(model);
  const x = new Float32Array(keepIdx.length * embedDim);
  keepIdx.forEach((token, k) => {
    const own = position.subarray(token * embedDim, (token + 1) * embedDim);
    if (token < prefixTokens) {
      x.set(add(prefix.subarray(token * embedDim, (token + 1) * embedDim), own), k * embedDim);
      return;
    }
    const content = linear(patchPixels(manifest, pixels, token - prefixTokens), weight, bias, 1);
    const row = add(content, own);
    const eps = normEps?.pre ?? layerNormEps;
    x.set(preNorm ? layerNorm(row, t("norm_pre.weight"), t("norm_pre.bias"), eps) : row, k * embedDim);
  });
  return x;
}

/** [prefixTokens, embedDim]: class token, distillation token, registers */
function prefixOf({ manifest, tensors }: Model): Float32Array {
  const { embedDim, prefixTokens } = manifest;
  const out = new Float32Array(prefixTokens * embedDim);
  let at = 0;
  for (const key of ["cls_token", "dist_token", "reg_token"]) {
    if (!tensors.has(key)) continue;
    const values = float32(tensors, key);
    out.set(values, at);
    at += values.length;
  }
  return out;
}

/** [3 × patchSize × patchSize] */
function patchPixels(manifest: Model["manifest"], pixels: Float32Array, patch: number): Float32Array {
  const { imageSize, patchSize: p } = manifest;
  const [height, width] = imageSize;
  const columns = patchGrid(manifest)[1];
  const top = Math.floor(patch / columns) * p;
  const left = (patch % columns) * p;
  const values = new Float32Array(3 * p * p);
  for (let c = 0; c < 3; c++) {
    for (let row = 0; row < p; row++) {
      const from = c * height * width + (top + row) * width + left;
      values.set(pixels.subarray(from, from + p), (c * p + row) * p);
    }
  }
  return values;
}

function add(a: Float32Array, b: Float32Array): Float32Array {
  return a.map((v, i) => v + b[i]);
}
