/** The addresses of the activations. Activations that are never in use at the same time share memory. */
import {
  type BlockShape,
  featureDim,
  lastRows,
  type Manifest,
  type TokenCount,
  tokenCounts,
} from "../../format/model.ts";
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
  /** at the address of the mixed values, which are written later */
  keyRows: number;
  /** of all heads of a block */
  keysValues: number;
  hidden: number;
  merging: Merging;
  /** maps of the attention's tasks, where the maps are of all queries */
  partMaps: number;
  /** memory for tensors on their way to panels. It belongs to the activations, which are not used yet */
  staging: { at: number; bytes: number };
}

/** Memory for choosing which tokens merge. */
export interface Merging {
  similarities: number;
  panels: number;
  rows: number;
  next: number;
}

/** The sizes of a block that its activations depend on. */
interface SizedBlock extends BlockShape, TokenCount {
  /** tokens with a query, and with an MLP */
  queries: number;
  mlpRows: number;
}

/** Rows of a block whose queries and `proj` are needed: in the last one, those that the pooling reads. */
export function queryRows(manifest: Manifest, block: number): number {
  return block === manifest.blocks.length - 1 ? lastRows(manifest) : tokenCounts(manifest)[block].entering;
}

/** Whether keys are first written as rows, because they are normed, turned or compared before they are used. */
export function hasKeyRows({ qkNorm, position }: Manifest, { headDims, merge }: BlockShape): boolean {
  return headDims.length > 0 && (qkNorm || position === "rope" || merge > 0);
}

export function planActivations(manifest: Manifest, memory: MemoryLayout, linears: LinearPlanner): Activations {
  const { embedDim, patchSize, prefixTokens, imageSize } = manifest;
  const blocks = sizedBlocks(manifest);
  const most = (bytes: (block: SizedBlock) => number) => Math.max(0, ...blocks.map(bytes));
  const tokens = blocks[0].entering;

  // The image and its patches are gone before the first of the others is written.
  const start = memory.end;
  const pixels = memory.take(3 * imageSize[0] * imageSize[1] * 4);
  const patchRows = memory.take((tokens - prefixTokens) * 3 * patchSize ** 2 * 4);
  const imageEnd = memory.end;

  memory.end = start;
  const normed = memory.take(tokens * pad8(embedDim) * 4);
  const quantised = memory.take(quantisedBytes(manifest, blocks, linears));
  const ranges = memory.take(tokens * 8);
  const q = memory.take(most(({ headDims, queries }) => queries * padded(headDims) * 4));
  const mixed = memory.take(
    most((block) => (hasKeyRows(manifest, block) ? block.entering : block.queries) * padded(block.headDims) * 4),
  );
  const keysValues = memory.take(
    most(({ headDims, entering: n }) => padded(headDims) * 4 * (pad8(n) + n) + 2 * LINE * headDims.length),
  );
  const merging = planMerging(blocks, memory);
  const partMaps = manifest.classToken
    ? 0
    : memory.take(most(({ queries, entering }) => Math.ceil(queries / (L.ATTENTION_ROWS / 2)) * entering * 4));

  // The hidden units may overwrite attention's memory.
  const hiddenEnd = q + most(({ mlpHidden, mlpRows }) => mlpRows * pad8(mlpHidden) * 4);
  memory.end = toLines(Math.max(memory.end, hiddenEnd, imageEnd, start + 8 * linears.longestRow));
  const staging = { at: start, bytes: memory.end - start };
  const hidden = q;
  const keyRows = mixed;
  return {
    pixels,
    patchRows,
    normed,
    quantised,
    ranges,
    q,
    mixed,
    keyRows,
    keysValues,
    hidden,
    merging,
    partMaps,
    staging,
  };
}

function sizedBlocks(manifest: Manifest): SizedBlock[] {
  const counts = tokenCounts(manifest);
  return manifest.blocks.map((block, i) => {
    const queries = queryRows(manifest, i);
    return { ...block, ...counts[i], queries, mlpRows: Math.min(queries, counts[i].mlp) };
  });
}

/** Quantised activations that an int8 linear reads: one of a block's four, or the head. */
function quantisedBytes(manifest: Manifest, blocks: SizedBlock[], linears: LinearPlanner): number {
  const bytes = blocks.map(({ headDims, mlpHidden, entering, queries, mlpRows }) =>
    Math.max(
      entering * linears.quantisedBytes(manifest.embedDim),
      queries * linears.quantisedBytes(padded(headDims)),
      mlpRows * linears.quantisedBytes(mlpHidden),
    ),
  );
  return Math.max(...bytes, linears.quantisedBytes(featureDim(manifest)));
}

function planMerging(blocks: SizedBlock[], memory: MemoryLayout): Merging {
  const merging = blocks.filter(({ merge }) => merge > 0);
  if (!merging.length) return { similarities: 0, panels: 0, rows: 0, next: 0 };
  const tokens = Math.max(...merging.map(({ entering }) => entering));
  const panelBytes = merging.map(({ headDims, entering }) => pad8(Math.ceil(entering / 2)) * padded(headDims) * 4);
  return {
    similarities: memory.take(Math.ceil(tokens / 2) * 4),
    panels: memory.take(Math.max(...panelBytes)),
    rows: memory.take(tokens * 4),
    next: memory.take(tokens * 4),
  };
}

export interface Scratch {
  at: number;
  /** of each thread */
  bytes: number;
  /** offset of the room for one widened panel */
  panel: number;
}

/** Plans each thread's private memory: its two calls, a few rows of scores or a strip of outputs, one widened panel. */
export function planScratch(
  manifest: Manifest,
  memory: MemoryLayout,
  linears: LinearPlanner,
  threads: number,
): Scratch {
  const tokens = tokenCounts(manifest)[0].entering;
  const widestHead = Math.max(0, ...manifest.blocks.map(({ headDims }) => Math.max(0, ...headDims)));
  const queryBytes = L.ATTENTION_ROWS * (8 + linears.quantisedBytes(widestHead)); // int8: queries and their ranges
  const scoreBytes = (L.ATTENTION_ROWS * (pad8(tokens) + 1) + 16) * 4 + queryBytes;
  const stripBytes = Math.max(scoreBytes, pad8(manifest.embedDim) * 4);
  const panel = toLines(2 * L.CALL_BYTES + stripBytes);
  const bytes = 2 * LINE * Math.ceil((panel + linears.widest) / (2 * LINE));
  return { at: memory.take(bytes * threads), bytes, panel };
}
