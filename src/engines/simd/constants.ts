/** What the kernels read beside the linears: norms, where patches lie, what the tokens begin with. */
import { denseTokens, type Manifest, type Model, patchGrid } from "../../format/model.ts";
import { float32 } from "../../format/read.ts";
import type { MemoryLayout } from "./memoryLayout.ts";
import { pad8, spread } from "./padding.ts";

/** A norm's weight, then its bias. */
export function putNorm({ tensors, manifest }: Model, memory: MemoryLayout, key: string): number {
  const parts = ["weight", "bias"].map((part) => spread(float32(tensors, `${key}.${part}`), [manifest.embedDim]));
  const both = new Float32Array(2 * parts[0].length);
  both.set(parts[0]);
  both.set(parts[1], parts[0].length);
  return memory.put(both);
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
  const { blocks, embedDim, prefixTokens } = manifest;
  const position = float32(tensors, "pos_embed").subarray(0, denseTokens(manifest) * embedDim);
  const rows = new Float32Array(blocks[0].keepIdx.length * pad8(embedDim));
  blocks[0].keepIdx.forEach((token, k) => {
    rows.set(position.subarray(token * embedDim, (token + 1) * embedDim), k * pad8(embedDim));
  });
  for (let token = 0; token < prefixTokens; token++) {
    const own = float32(tensors, token === 0 ? "cls_token" : "dist_token");
    for (let d = 0; d < embedDim; d++) rows[token * pad8(embedDim) + d] += own[d];
  }
  return rows;
}
