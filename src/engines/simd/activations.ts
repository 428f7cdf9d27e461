/** Where activations lie. Those that are never in use at once lie over each other. */
import type { BlockShape, Manifest } from "../../format/model.ts";
import * as L from "./layout.ts";
import type { LinearPlanner } from "./linears.ts";
import { LINE, type MemoryLayout, toLines } from "./memoryLayout.ts";
import { pad8, padded } from "./padding.ts";

export interface Activations {
  pixels: number;
  patchRows: number;
  normed: number;
  quantised: number;
  ranges: number;
  q: number;
  mixed: number;
  /** of all heads of a block */
  keysValues: number;
  hidden: number;
  /** room for tensors on their way to panels: the activations', which nobody uses yet */
  staging: { at: number; bytes: number };
}

/** Rows of a block whose queries, `proj` and MLP are needed: in the last one, those of the prefix tokens. */
export function queryRows({ blocks, prefixTokens }: Manifest, block: number): number {
  return block === blocks.length - 1 ? prefixTokens : blocks[block].keepIdx.length;
}

export function planActivations(manifest: Manifest, memory: MemoryLayout, linears: LinearPlanner): Activations {
  const { blocks, embedDim, patchSize, prefixTokens, imageSize } = manifest;
  const tokens = blocks[0].keepIdx.length;
  const most = (bytes: (block: BlockShape, rows: number) => number) =>
    Math.max(...blocks.map((block, i) => bytes(block, queryRows(manifest, i))));

  // The image and its patches are gone before the first of the others is written.
  const start = memory.end;
  const pixels = memory.take(3 * imageSize[0] * imageSize[1] * 4);
  const patchRows = memory.take((tokens - prefixTokens) * 3 * patchSize ** 2 * 4);
  const imageEnd = memory.end;

  memory.end = start;
  const normed = memory.take(tokens * pad8(embedDim) * 4);
  const widestInput = (block: BlockShape) => Math.max(padded(block.headDims), block.mlpHidden);
  const quantised = memory.take(
    Math.max(
      tokens * linears.quantisedBytes(embedDim),
      most((block, rows) => rows * linears.quantisedBytes(widestInput(block))),
    ),
  );
  const ranges = memory.take(tokens * 8);
  const innerBytes = most(({ headDims }, rows) => rows * padded(headDims) * 4);
  const q = memory.take(innerBytes);
  const mixed = memory.take(innerBytes);
  const keysValues = memory.take(
    most(
      ({ headDims, keepIdx: { length } }) =>
        padded(headDims) * 4 * (pad8(length) + length) + 2 * LINE * headDims.length,
    ),
  );

  // The hidden units come when attention is over.
  const hiddenEnd = q + most(({ mlpHidden }, rows) => rows * pad8(mlpHidden) * 4);
  memory.end = toLines(Math.max(memory.end, hiddenEnd, imageEnd, start + 8 * linears.longestRow));
  const staging = { at: start, bytes: memory.end - start };
  return { pixels, patchRows, normed, quantised, ranges, q, mixed, keysValues, hidden: q, staging };
}

export interface Scratch {
  at: number;
  /** of each thread */
  bytes: number;
  /** offset of the room for one widened panel */
  panel: number;
}

/** What each thread has to itself: its two calls, a few rows of scores, one widened panel. */
export function planScratch(
  { blocks }: Manifest,
  memory: MemoryLayout,
  linears: LinearPlanner,
  threads: number,
): Scratch {
  const tokens = blocks[0].keepIdx.length;
  const widestHead = Math.max(0, ...blocks.map(({ headDims }) => Math.max(0, ...headDims)));
  const queryBytes = L.ATTENTION_ROWS * (8 + linears.quantisedBytes(widestHead)); // int8: of one head, and their ranges
  const scoreBytes = (L.ATTENTION_ROWS * (pad8(tokens) + 1) + 16) * 4 + queryBytes;
  const panel = toLines(2 * L.CALL_BYTES + scoreBytes);
  const bytes = 2 * LINE * Math.ceil((panel + linears.widest) / (2 * LINE));
  return { at: memory.take(bytes * threads), bytes, panel };
}
