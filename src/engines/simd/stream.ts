/** What lives from stage to stage: the residual stream, and what a run returns. */
import type { Model } from "../../format/model.ts";
import type { MemoryLayout } from "./memoryLayout.ts";
import { pad8 } from "./padding.ts";

export interface Stream {
  /** the residual stream; a second one where tokens are dropped on the way */
  x: number[];
  features: number;
  logits: number[];
  /** class token's attention of each block; empty for a block without heads */
  maps: { at: number; tokens: number }[];
}

export function planStream({ manifest, tensors }: Model, memory: MemoryLayout): Stream {
  const { blocks, embedDim, prefixTokens } = manifest;
  const tokens = blocks[0].keepIdx.length;
  const rowBytes = pad8(embedDim) * 4;
  const classes = tensors.get("head.bias")!.shape[0];
  const x = [memory.take(tokens * rowBytes)];
  if (blocks.some((block) => block.keepIdx.length < tokens)) x.push(memory.take(tokens * rowBytes));
  return {
    x,
    features: memory.take(prefixTokens * rowBytes),
    logits: Array.from({ length: prefixTokens }, () => memory.take(pad8(classes) * 4)),
    maps: blocks.map(({ keepIdx: { length }, headDims }) => ({
      at: memory.take(length * 4),
      tokens: headDims.length && length,
    })),
  };
}
