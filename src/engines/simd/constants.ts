/** What the kernels read besides the linears: norms, positions of patches, and the initial prefix tokens. */
import { denseTokens, type Manifest, type Model, patchGrid } from "../../format/model.ts";
import { float32 } from "../../format/read.ts";
import * as L from "./layout.ts";
import type { MemoryLayout } from "./memoryLayout.ts";
import { pad8, padded, spread } from "./padding.ts";

export interface NormRequest {
  /** of its tensors */
  key: string;
  /** widths of the parts of a row, each of which is padded to 8 */
  widths: number[];
  eps: number | undefined;
  /** channels that mean and variance are of, where some were cut */
  denseDim?: number;
}

/** @returns the address of the norm's NORM_ words */
export function putNorm({ tensors, manifest }: Model, memory: MemoryLayout, request: NormRequest): number {
  const { key, widths, eps = manifest.layerNormEps, denseDim = padded(widths) } = request;
  const channels = padded(widths);
  const data = new Float32Array(L.NORM_WEIGHTS + 2 * channels);
  const words = new Int32Array(data.buffer);
  words[L.NORM_DENSE_DIM] = denseDim;
  words[L.NORM_BYTES] = channels * 4;
  data[L.NORM_EPS] = eps;
  data.set(spread(float32(tensors, `${key}.weight`), widths), L.NORM_WEIGHTS);
  data.set(spread(float32(tensors, `${key}.bias`), widths), L.NORM_WEIGHTS + channels);
  return memory.put(data);
}

/** A norm over all channels of a token. */
export function putTokenNorm(model: Model, memory: MemoryLayout, key: string, eps?: number): number {
  const { embedDim } = model.manifest;
  return putNorm(model, memory, { key, widths: [embedDim], eps, denseDim: embedDim });
}

/** Byte offset in the image of each embedded patch's first pixel. */
export function firstPixels(manifest: Manifest): Int32Array {
  const { blocks, patchSize, prefixTokens, imageSize } = manifest;
  const columns = patchGrid(manifest)[1];
  return Int32Array.from(blocks[0].keepIdx.slice(prefixTokens), (token) => {
    const patch = token - prefixTokens;
    return (Math.floor(patch / columns) * patchSize * imageSize[1] + (patch % columns) * patchSize) * 4;
  });
}

/** What the tokens are before a patch is added: position embeddings, on the prefix tokens' own. [tokens, dim padded] */
export function startRows({ manifest, tensors }: Model): Float32Array {
  const { blocks, embedDim } = manifest;
  const position = float32(tensors, "pos_embed").subarray(0, denseTokens(manifest) * embedDim);
  const rows = new Float32Array(blocks[0].keepIdx.length * pad8(embedDim));
  blocks[0].keepIdx.forEach((token, k) => {
    rows.set(position.subarray(token * embedDim, (token + 1) * embedDim), k * pad8(embedDim));
  });
  let token = 0;
  for (const key of ["cls_token", "dist_token", "reg_token"]) {
    if (!tensors.has(key)) continue;
    const own = float32(tensors, key);
    for (let i = 0; i < own.length; i++)
      rows[(token + Math.floor(i / embedDim)) * pad8(embedDim) + (i % embedDim)] += own[i];
    token += own.length / embedDim;
  }
  return rows;
}
