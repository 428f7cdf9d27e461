/** The judge of the simd engine's int8: its quantisation in plain loops. */
import type { RunOutput } from "../../src/engines/engine.ts";
import type { Model } from "../../src/format/model.ts";
import { float32 } from "../../src/format/read.ts";
import { attention, gelu, layerNorm, linear } from "../../src/reference/ops.ts";

/** src/reference/forward.ts with the engine's int8 linears. */
export function quantisedForward({ manifest, tensors }: Model, pixels: Float32Array): RunOutput {
  const { embedDim, headDim, layerNormEps, prefixTokens, blocks } = manifest;
  const t = (key: string) => float32(tensors, key);
  const norm = (x: Float32Array, key: string) => layerNorm(x, t(`${key}.weight`), t(`${key}.bias`), layerNormEps);
  const dense = (x: Float32Array, key: string, rows: number) => {
    const int8 = tensors.get(`${key}.weight`)!.dtype === "I8";
    return linear(int8 ? quantiseRows(x, rows) : x, t(`${key}.weight`), t(`${key}.bias`), rows);
  };
  const add = (a: Float32Array, b: Float32Array) => a.map((v, i) => v + b[i]);
  let alive = blocks[0].keepIdx;
  let x = embedOnly(manifest, tensors, pixels);
  blocks.forEach((block, i) => {
    const row = new Map(alive.map((token, k) => [token, k]));
    const kept = block.keepIdx.map((token) => x.subarray(row.get(token)! * embedDim, (row.get(token)! + 1) * embedDim));
    x = Float32Array.from(kept.flatMap((values) => [...values]));
    alive = block.keepIdx;
    const n = alive.length;
    const qkv = dense(norm(x, `blocks.${i}.norm1`), `blocks.${i}.attn.qkv`, n);
    if (tensors.get(`blocks.${i}.attn.qkv.weight`)?.dtype === "I8") quantiseScores(qkv, block.headDims, n);
    x = add(x, dense(attention(qkv, block.headDims, 1 / Math.sqrt(headDim), n), `blocks.${i}.attn.proj`, n));
    const hidden = gelu(dense(norm(x, `blocks.${i}.norm2`), `blocks.${i}.mlp.fc1`, n));
    x = add(x, dense(hidden, `blocks.${i}.mlp.fc2`, n));
  });
  const features = norm(x.subarray(0, prefixTokens * embedDim), "norm");
  let logits = dense(features.slice(0, embedDim), "head", 1);
  if (prefixTokens === 2) {
    const distilled = dense(features.slice(embedDim), "head_dist", 1);
    logits = logits.map((v, k) => (v + distilled[k]) / 2);
  }
  return { logits, features: features.slice(0, embedDim) };
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

/** The residual stream that enters the first block. */
function embedOnly(manifest: Model["manifest"], tensors: Model["tensors"], pixels: Float32Array): Float32Array {
  const { embedDim, patchSize: p, prefixTokens, imageSize, blocks } = manifest;
  const columns = imageSize[1] / p;
  const position = float32(tensors, "pos_embed");
  return Float32Array.from(
    blocks[0].keepIdx.flatMap((token) => {
      let content = float32(tensors, token === 1 && prefixTokens === 2 ? "dist_token" : "cls_token");
      if (token >= prefixTokens) {
        const [top, left] = [Math.floor((token - prefixTokens) / columns) * p, ((token - prefixTokens) % columns) * p];
        const patch = new Float32Array(3 * p * p).map((_, i) => {
          const [c, y, x] = [Math.floor(i / (p * p)), Math.floor(i / p) % p, i % p];
          return pixels[(c * imageSize[0] + top + y) * imageSize[1] + left + x];
        });
        content = linear(
          patch,
          float32(tensors, "patch_embed.proj.weight"),
          float32(tensors, "patch_embed.proj.bias"),
          1,
        );
      }
      return Array.from(content, (v, d) => v + position[token * embedDim + d]);
    }),
  );
}
