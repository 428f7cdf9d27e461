/** The words of one block: its tokens, its heads, and where q, k and v go. */
import { type Model, patchGrid, tokenCounts } from "../../format/model.ts";
import { float32 } from "../../format/read.ts";
import { type Activations, hasKeyRows, queryRows } from "./activations.ts";
import { panelOrder, type WeightsArea } from "./area.ts";
import { putNorm, putTokenNorm } from "./constants.ts";
import * as L from "./layout.ts";
import { type MemoryLayout, toLines, type Word, type WordTable } from "./memoryLayout.ts";
import { pad8, padded } from "./padding.ts";
import type { Rows, Stream } from "./stream.ts";

export interface BlockRequest {
  model: Model;
  memory: MemoryLayout;
  activations: Activations;
  stream: Stream;
  /** of all blocks */
  table: WordTable;
  block: number;
  /** which of `stream.x` holds the tokens */
  current: number;
  /** of weights that several variants share */
  area?: WeightsArea;
}

export interface PlannedBlock {
  /** which of `stream.x` holds the tokens afterwards */
  current: number;
  /** of BLOCK_PARTNERS; 0 in a block that merges nothing */
  partners: number;
}

export function planBlock(request: BlockRequest): PlannedBlock {
  const { model, memory, stream, table, block, current } = request;
  const { blocks, prefixTokens } = model.manifest;
  const { headDims, keepIdx, merge } = blocks[block];
  const { entering, mlp } = tokenCounts(model.manifest)[block];
  const queries = queryRows(model.manifest, block);
  const gather = gatherTable(blocks[block - 1]?.keepIdx ?? keepIdx, keepIdx);
  const own = gather ? 1 - current : current;
  const next = merge ? 1 - own : own;
  const partners = merge ? memory.take(((entering - prefixTokens) >> 1) * 4) : 0;
  table.set(
    [
      [L.BLOCK_TOKENS, entering],
      [L.BLOCK_ROWS, queries],
      [L.BLOCK_GATHER, gather ? memory.put(gather) : 0],
      [L.BLOCK_FROM, stream.x[current]],
      [L.BLOCK_X, stream.x[own]],
      [L.BLOCK_NORM1, putTokenNorm(model, memory, `blocks.${block}.norm1`)],
      [L.BLOCK_NORM2, putTokenNorm(model, memory, `blocks.${block}.norm2`)],
      [L.BLOCK_HEADS, headDims.length],
      [L.BLOCK_INNER, padded(headDims)],
      [L.BLOCK_MAP, stream.maps[block].at],
      [L.BLOCK_MLP_ROWS, Math.min(queries, mlp)],
      [L.BLOCK_MLP_X, stream.x[next]],
      [L.BLOCK_MERGE, merge],
      [L.BLOCK_PARTNERS, partners],
      ...rowWords(stream.rows[block].entering, stream.rows[block].mlp),
    ],
    block,
  );
  planHeads(request);
  planFamily(request);
  return { current: next, partners };
}

function rowWords(entering: Rows, mlp: Rows): Word[] {
  return [
    [L.BLOCK_SIZES, entering.sizes],
    [L.BLOCK_LOG_SIZES, entering.logSizes],
    [L.BLOCK_PLACES, entering.places],
    [L.BLOCK_MLP_SIZES, mlp.sizes],
    [L.BLOCK_MLP_LOG_SIZES, mlp.logSizes],
    [L.BLOCK_MLP_PLACES, mlp.places],
  ];
}

/** @returns where each kept token's row was, or undefined when none is dropped */
function gatherTable(before: number[], keepIdx: number[]): Int32Array | undefined {
  if (keepIdx.length === before.length) return undefined;
  const row = new Map(before.map((token, k) => [token, k]));
  return Int32Array.from(keepIdx, (token) => row.get(token)!);
}

/**
 * Plans the heads. Queries of all heads lie side by side in rows; each head's keys and values have memory of their own.
 */
function planHeads({ model: { manifest, tensors }, memory, activations, table, block, area }: BlockRequest): void {
  const { headDims } = manifest.blocks[block];
  const tokens = tokenCounts(manifest)[block].entering;
  const queries = queryRows(manifest, block);
  const inner = padded(headDims);
  const panels = inner / 8;
  const heads = memory.table(L.HEAD_WORDS, headDims.length);
  const targets = memory.table(L.TARGET_WORDS, panels * 3);
  const inRows = hasKeyRows(manifest, manifest.blocks[block]);
  const relative =
    manifest.position === "relative" && headDims.length
      ? memory.put(scaledTables(float32(tensors, `blocks.${block}.attn.rel_bias`), manifest.headDim))
      : 0;
  const tableBytes = 4 * relativeEntries(patchGrid(manifest));
  const order = area && panelOrder(headDims, area.widths[block]);
  const placeOf = order && new Map(order.map((panel, k) => [panel, k]));
  const setTarget = (words: Word[], natural: number) => targets.set(words, placeOf?.get(natural) ?? natural);
  let keys = activations.keysValues;
  let panel = 0;
  headDims.forEach((width, h) => {
    const wide = pad8(width);
    const values = keys + wide * pad8(tokens) * 4;
    heads.set(
      [
        [L.HEAD_WIDTH, width],
        [L.HEAD_PANELS, wide / 8],
        [L.HEAD_OFFSET, panel * 32],
        [L.HEAD_KEYS, keys],
        [L.HEAD_VALUES, values],
        [L.HEAD_RELATIVE, relative && relative + h * tableBytes],
      ],
      h,
    );
    for (let c = 0; c < wide / 8; c++, panel++) {
      setTarget(rowTarget(activations.q + panel * 32, inner * 4, queries), panel);
      const ofKeys = inRows
        ? rowTarget(activations.keyRows + panel * 32, inner * 4, tokens)
        : rowTarget(keys + c * 256, wide * 32, tokens, 1);
      setTarget(ofKeys, panels + panel);
      setTarget(rowTarget(values + c * tokens * 32, 32, tokens), 2 * panels + panel);
    }
    keys = toLines(values + wide * tokens * 4);
  });
  const keyRows = inRows ? activations.keyRows : 0;
  table.set(
    [
      [L.BLOCK_HEAD_TABLE, heads.at],
      [L.BLOCK_TARGETS, targets.at],
      [L.BLOCK_KEY_ROWS, keyRows],
    ],
    block,
  );
}

function rowTarget(pointer: number, stride: number, rows: number, transposed = 0): Word[] {
  return [
    [L.TARGET_POINTER, pointer],
    [L.TARGET_STRIDE, stride],
    [L.TARGET_ROWS, rows],
    [L.TARGET_TRANSPOSED, transposed],
  ];
}

/** Differences of places, and the three entries of prefix tokens. */
export function relativeEntries([rows, columns]: [number, number]): number {
  return (2 * rows - 1) * (2 * columns - 1) + 3;
}

/** Scores are scaled after the bias is added. */
function scaledTables(tables: Float32Array, headDim: number): Float32Array {
  return tables.map((v) => v * Math.sqrt(headDim));
}

/** Plans what a block has beyond a plain DeiT's. */
function planFamily({ model, memory, table, block }: BlockRequest): void {
  const { manifest, tensors } = model;
  const { headDim, normEps, qkNorm, position, hiddenNorm, prefixTokens } = manifest;
  const { headDims, mlpHidden, keepIdx } = manifest.blocks[block];
  const key = (name: string) => `blocks.${block}.${name}`;
  const set = (word: number, value: number) => table.set([[word, value]], block);
  if (qkNorm && headDims.length) {
    const request = { widths: headDims, eps: normEps?.qk, denseDim: headDim };
    set(L.BLOCK_Q_NORM, putNorm(model, memory, { key: key("attn.q_norm"), ...request }));
    set(L.BLOCK_K_NORM, putNorm(model, memory, { key: key("attn.k_norm"), ...request }));
  }
  if (position === "rope" && headDims.length) {
    const frequencies = float32(tensors, key("attn.rope_freqs"));
    set(L.BLOCK_FREQUENCIES, memory.put(turnsOf(frequencies, headDims)));
  }
  if (position === "relative") {
    const columns = patchGrid(manifest)[1];
    const places = keepIdx.map((token) => Math.max(0, token - prefixTokens));
    const grid = places.map((patch) => Math.floor(patch / columns) * (2 * columns - 1) + (patch % columns));
    set(L.BLOCK_GRID, memory.put(Int32Array.from(grid)));
  }
  if (hiddenNorm && mlpHidden) {
    const request = { widths: [mlpHidden], eps: normEps?.hidden, denseDim: hiddenNorm };
    set(L.BLOCK_HIDDEN_NORM, putNorm(model, memory, { key: key("mlp.norm"), ...request }));
  }
}

/** [2, pairs] in radians → [2, pairs of padded heads] in whole turns. */
function turnsOf(frequencies: Float32Array, headDims: number[]): Float32Array {
  const pairs = padded(headDims) / 2;
  const out = new Float32Array(2 * pairs);
  for (const axis of [0, 1]) {
    const own = frequencies.subarray((axis * frequencies.length) / 2, ((axis + 1) * frequencies.length) / 2);
    let from = 0;
    let to = axis * pairs;
    for (const width of headDims) {
      for (let i = 0; i < width / 2; i++) out[to + i] = own[from + i] / (2 * Math.PI);
      from += width / 2;
      to += pad8(width) / 2;
    }
  }
  return out;
}
