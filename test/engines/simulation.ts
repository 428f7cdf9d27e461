/** The judge of the simd engine's int8: its quantisation in plain loops, over the reference's operations. */
import type { RunOutput } from "../../src/engines/engine.ts";
import { innerDim, type Model } from "../../src/format/model.ts";
import { float32 } from "../../src/format/read.ts";
import { choosePairs, type MergePairs, mergedRows, mergeRows, mergeSizes } from "../../src/reference/merge.ts";
import { activate, attention, gatedUnits, layerNorm, linear } from "../../src/reference/ops.ts";
import { classify } from "../../src/reference/pooling.ts";
import { relativeBias, ropeCoordinates, rotate } from "../../src/reference/positions.ts";

interface Stream {
  x: Float32Array;
  alive: number[];
  sizes: Float64Array;
  coordinates?: Float64Array;
}

/**
 * src/reference/forward.ts with the engine's int8 linears.
 * @param forced for each block the pairs that merge, instead of those that this arithmetic finds most alike
 */
export function quantisedForward(
  model: Model,
  pixels: Float32Array,
  forced?: MergePairs[],
): RunOutput & { pairs: MergePairs[] } {
  const { manifest } = model;
  const stream: Stream = {
    ...embedOnly(model, pixels),
    sizes: new Float64Array(manifest.blocks[0].keepIdx.length).fill(1),
  };
  const pairs = manifest.blocks.map((_, i) => {
    keepTokens(model, stream, i);
    return runBlock(model, stream, i, forced?.[i]);
  });
  return { ...pooled(model, stream), pairs };
}

/** A linear whose activations are quantised where its weights are int8. */
function dense({ tensors }: Model, x: Float32Array, key: string, rows: number): Float32Array {
  const int8 = tensors.get(`${key}.weight`)!.dtype === "I8";
  const [weight, bias] = [float32(tensors, `${key}.weight`), float32(tensors, `${key}.bias`)];
  return linear(int8 ? quantiseRows(x, rows) : x, weight, bias, rows);
}

function keepTokens({ manifest }: Model, stream: Stream, i: number): void {
  const { embedDim, blocks, position } = manifest;
  const { keepIdx } = blocks[i];
  if (i > 0 && keepIdx.length === stream.alive.length) return;
  const row = new Map(stream.alive.map((token, k) => [token, k]));
  stream.x = Float32Array.from(
    keepIdx.flatMap((token) => [...stream.x.subarray(row.get(token)! * embedDim, (row.get(token)! + 1) * embedDim)]),
  );
  stream.alive = keepIdx;
  stream.sizes = new Float64Array(keepIdx.length).fill(1);
  if (position === "rope") stream.coordinates = ropeCoordinates(manifest, keepIdx);
}

function runBlock(model: Model, stream: Stream, i: number, forced?: MergePairs): MergePairs {
  const { manifest, tensors } = model;
  const { embedDim, headDim, layerNormEps, normEps, prefixTokens, blocks, position } = manifest;
  const block = blocks[i];
  const t = (name: string) => float32(tensors, `blocks.${i}.${name}`);
  const norm = (x: Float32Array, name: string, eps = layerNormEps, denseDim?: number) =>
    layerNorm(x, t(`${name}.weight`), t(`${name}.bias`), eps, denseDim);
  const add = (a: Float32Array, b: Float32Array) => a.map((v, k) => v + b[k]);
  const n = stream.sizes.length;
  const qkv = dense(model, norm(stream.x, "norm1"), `blocks.${i}.attn.qkv`, n);
  if (manifest.qkNorm) normHeads(model, qkv, i);
  if (stream.coordinates) rotate(qkv, block, stream.coordinates, t("attn.rope_freqs"), prefixTokens);
  const pairs = block.merge ? (forced ?? choosePairs(qkv, innerDim(block), prefixTokens, block.merge)) : [];
  if (tensors.get(`blocks.${i}.attn.qkv.weight`)?.dtype === "I8") quantiseScores(qkv, block.headDims, n);
  const relative = position === "relative" ? relativeBias(manifest, stream.alive, t("attn.rel_bias")) : undefined;
  const { sizes } = stream;
  const bias = (head: number, query: number, key: number) => Math.log(sizes[key]) + (relative?.(head, query, key) ?? 0);
  const mixed = attention(qkv, block.headDims, 1 / Math.sqrt(headDim), n, { bias });
  stream.x = add(stream.x, dense(model, mixed, `blocks.${i}.attn.proj`, n));
  if (pairs.length) {
    const merged = mergedRows(n, prefixTokens, pairs);
    stream.x = Float32Array.from(mergeRows(stream.x, embedDim, sizes, merged));
    if (stream.coordinates) stream.coordinates = mergeRows(stream.coordinates, 2, sizes, merged);
    stream.sizes = mergeSizes(sizes, merged);
  }
  const rows = stream.sizes.length;
  const units = dense(model, norm(stream.x, "norm2"), `blocks.${i}.mlp.fc1`, rows);
  const isGated = manifest.mlp === "swiglu";
  let hidden = isGated ? gatedUnits(units, block.mlpHidden, manifest.activation) : activate(units, manifest.activation);
  if (manifest.hiddenNorm) hidden = norm(hidden, "mlp.norm", normEps?.hidden, manifest.hiddenNorm);
  stream.x = add(stream.x, dense(model, hidden, `blocks.${i}.mlp.fc2`, rows));
  return pairs;
}

function normHeads({ manifest, tensors }: Model, qkv: Float32Array, i: number): void {
  const { headDim, layerNormEps, normEps, blocks } = manifest;
  const inner = innerDim(blocks[i]);
  for (const [part, name] of ["q", "k"].entries()) {
    const [weight, bias] = ["weight", "bias"].map((of) => float32(tensors, `blocks.${i}.attn.${name}_norm.${of}`));
    for (let row = part * inner; row < qkv.length; row += 3 * inner) {
      let first = 0;
      for (const width of blocks[i].headDims) {
        const own = (values: Float32Array, from: number) => values.slice(from + first, from + first + width);
        const eps = normEps?.qk ?? layerNormEps;
        qkv.set(layerNorm(own(qkv, row), own(weight, 0), own(bias, 0), eps, headDim), row + first);
        first += width;
      }
    }
  }
}

/** x → what is left of it after 7 bits: 127 steps from the row's least value to its greatest, 0 included. */
function quantiseRows(x: Float32Array, rows: number): Float32Array {
  const width = x.length / rows;
  const out = new Float32Array(x.length);
  for (let r = 0; r < rows; r++) {
    const row = x.subarray(r * width, (r + 1) * width);
    const min = row.reduce((a, b) => Math.min(a, b), 0);
    const step = (row.reduce((a, b) => Math.max(a, b), 0) - min) / 127;
    for (let i = 0; i < width; i++) out[r * width + i] = step ? Math.round((row[i] - min) / step) * step + min : 0;
  }
  return out;
}

/** Queries of a head like activations; keys like weights, to 64 levels on either side of 0 with a scale a token. In place. */
function quantiseScores(qkv: Float32Array, headDims: number[], tokens: number): void {
  const inner = headDims.reduce((a, b) => a + b, 0);
  for (let token = 0, at = 0; token < tokens; token++, at += 2 * inner) {
    for (const width of headDims) {
      qkv.set(quantiseRows(qkv.slice(at, at + width), 1), at);
      const key = qkv.subarray(at + inner, at + inner + width);
      const step = key.reduce((a, b) => Math.max(a, Math.abs(b)), 0) / 64;
      key.forEach((v, c) => {
        key[c] = step && Math.round(v / step) * step;
      });
      at += width;
    }
  }
}

/** Features by the reference; the head is an int8 linear too. */
function pooled(model: Model, { x, sizes }: Stream): RunOutput {
  const { manifest } = model;
  const { embedDim, head, distilled, finalNorm, normEps, layerNormEps } = manifest;
  const { features } = classify({ ...model, manifest: { ...manifest, head: undefined } }, x, sizes);
  if (!head) return { features, logits: new Float32Array(0) };
  const unit = (v: Float32Array) => v.map((c) => c / Math.max(Math.hypot(...v), 1e-12));
  const ofHead = (v: Float32Array, key: string) => dense(model, head.cosine ? unit(v) : v, key, 1);
  let logits = ofHead(features, "head");
  if (distilled) {
    const t = (name: string) => float32(model.tensors, name);
    const second = x.slice(embedDim, 2 * embedDim);
    const token =
      finalNorm === "none"
        ? second
        : layerNorm(second, t("norm.weight"), t("norm.bias"), normEps?.final ?? layerNormEps);
    const other = ofHead(token, "head_dist");
    logits = logits.map((v, k) => (v + other[k]) / 2);
  }
  return { features, logits };
}

/** The residual stream that enters the first block. */
function embedOnly({ manifest, tensors }: Model, pixels: Float32Array): { x: Float32Array; alive: number[] } {
  const { embedDim, patchSize: p, prefixTokens, imageSize, blocks, preNorm, normEps, layerNormEps } = manifest;
  const t = (key: string) => float32(tensors, key);
  const prefix = ["cls_token", "dist_token", "reg_token"].flatMap((key) => (tensors.has(key) ? [...t(key)] : []));
  const columns = imageSize[1] / p;
  const position = t("pos_embed");
  const rows = blocks[0].keepIdx.map((token) => {
    const own = position.subarray(token * embedDim, (token + 1) * embedDim);
    if (token < prefixTokens) return own.map((v, d) => v + prefix[token * embedDim + d]);
    const [top, left] = [Math.floor((token - prefixTokens) / columns) * p, ((token - prefixTokens) % columns) * p];
    const patch = new Float32Array(3 * p * p).map((_, i) => {
      const [c, y, x] = [Math.floor(i / (p * p)), Math.floor(i / p) % p, i % p];
      return pixels[(c * imageSize[0] + top + y) * imageSize[1] + left + x];
    });
    const row = linear(patch, t("patch_embed.proj.weight"), t("patch_embed.proj.bias"), 1).map((v, d) => v + own[d]);
    return preNorm ? layerNorm(row, t("norm_pre.weight"), t("norm_pre.bias"), normEps?.pre ?? layerNormEps) : row;
  });
  return { x: Float32Array.from(rows.flatMap((row) => [...row])), alive: blocks[0].keepIdx };
}
