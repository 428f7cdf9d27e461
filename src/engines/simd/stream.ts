/** Data that lives from stage to stage: the residual stream, what its rows stand for, and the outputs of a run. */
import { featureDim, type Manifest, pooledDim, tokenCounts } from "../../format/model.ts";
import { ropeCoordinates } from "../../reference/positions.ts";
import type { MemoryLayout } from "./memoryLayout.ts";
import { pad8 } from "./padding.ts";

/** What the rows of the residual stream stand for. An address is 0 where a table is not needed. */
export interface Rows {
  /** f32: patches that each row stands for; without it each is one */
  sizes: number;
  logSizes: number;
  /** with RoPE */
  places: number;
}

export interface BlockRows {
  entering: Rows;
  /** after the block's merge */
  mlp: Rows;
}

export interface Stream {
  /** the residual stream; a second one where tokens leave on the way */
  x: number[];
  /** by block */
  rows: BlockRows[];
  /** the pooled vector, or the class and distillation token */
  pooled: number;
  features: number;
  featureDim: number;
  /** one, or two with a distillation token; none without a head */
  logits: number[];
  classes: number;
  /** by block: attention of the class token, or the mean over all tokens' where there is none; no tokens for a block without heads */
  maps: { at: number; tokens: number }[];
}

export function planStream(manifest: Manifest, classes: number, memory: MemoryLayout): Stream {
  const { blocks, embedDim, distilled, head, projection } = manifest;
  const counts = tokenCounts(manifest);
  const streamBytes = counts[0].entering * pad8(embedDim) * 4;
  const x = [memory.take(streamBytes)];
  if (counts.some(({ mlp }) => mlp < counts[0].entering)) x.push(memory.take(streamBytes));
  const pooledBytes = distilled ? 2 * pad8(embedDim) * 4 : pad8(pooledDim(manifest)) * 4;
  const pooled = memory.take(pooledBytes);
  return {
    x,
    rows: planRows(manifest, memory),
    pooled,
    features: projection ? memory.take(pad8(projection) * 4) : pooled,
    featureDim: featureDim(manifest),
    logits: head ? Array.from({ length: distilled ? 2 : 1 }, () => memory.take(pad8(classes) * 4)) : [],
    classes: head ? classes : 0,
    maps: blocks.map(({ headDims }, i) => ({
      at: memory.take(counts[i].entering * 4),
      tokens: headDims.length && counts[i].entering,
    })),
  };
}

/** Sizes appear with the first merge; places change with each. Lists shrink before that alone, so places are known there. */
function planRows(manifest: Manifest, memory: MemoryLayout): BlockRows[] {
  const { blocks, position } = manifest;
  const counts = tokenCounts(manifest);
  const rows: BlockRows[] = [];
  let list: number[] | undefined;
  let current: Rows = { sizes: 0, logSizes: 0, places: 0 };
  blocks.forEach(({ keepIdx, merge }, i) => {
    if (position === "rope" && list?.length !== keepIdx.length)
      current = { ...current, places: memory.put(Float32Array.from(ropeCoordinates(manifest, keepIdx))) };
    list = keepIdx;
    const { mlp } = counts[i];
    const after = merge
      ? {
          sizes: memory.take(mlp * 4),
          logSizes: memory.take(pad8(mlp) * 4),
          places: position === "rope" ? memory.take(mlp * 8) : 0,
        }
      : current;
    rows.push({ entering: current, mlp: after });
    current = after;
  });
  return rows;
}
