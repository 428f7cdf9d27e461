/** The words of one block: its tokens, its heads, and where q, k and v go. */
import type { Model } from "../../format/model.ts";
import { type Activations, queryRows } from "./activations.ts";
import { putNorm } from "./constants.ts";
import * as L from "./layout.ts";
import { type MemoryLayout, toLines, type WordTable } from "./memoryLayout.ts";
import { pad8, padded } from "./padding.ts";
import type { Stream } from "./stream.ts";

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
}

/** @returns which of `stream.x` holds the tokens afterwards */
export function planBlock(request: BlockRequest): number {
  const { model, memory, stream, table, block, current } = request;
  const { blocks } = model.manifest;
  const { headDims, keepIdx } = blocks[block];
  const gather = gatherTable(blocks[block - 1]?.keepIdx ?? keepIdx, keepIdx);
  const next = gather ? 1 - current : current;
  table.set(
    {
      [L.BLOCK_TOKENS]: keepIdx.length,
      [L.BLOCK_ROWS]: queryRows(model.manifest, block),
      [L.BLOCK_GATHER]: gather ? memory.put(gather) : 0,
      [L.BLOCK_FROM]: stream.x[current],
      [L.BLOCK_X]: stream.x[next],
      [L.BLOCK_NORM1]: putNorm(model, memory, `blocks.${block}.norm1`),
      [L.BLOCK_NORM2]: putNorm(model, memory, `blocks.${block}.norm2`),
      [L.BLOCK_HEADS]: headDims.length,
      [L.BLOCK_INNER]: padded(headDims),
      [L.BLOCK_MAP]: stream.maps[block].at,
    },
    block,
  );
  planHeads(request);
  return next;
}

/** @returns where each kept token's row was, or undefined when none is dropped */
function gatherTable(before: number[], keepIdx: number[]): Int32Array | undefined {
  if (keepIdx.length === before.length) return undefined;
  const row = new Map(before.map((token, k) => [token, k]));
  return Int32Array.from(keepIdx, (token) => row.get(token)!);
}

/** Each head's queries are side by side in rows; its keys and its values have a place of their own. */
function planHeads({ model: { manifest }, memory, activations, table, block }: BlockRequest): void {
  const { headDims, keepIdx } = manifest.blocks[block];
  const tokens = keepIdx.length;
  const rows = queryRows(manifest, block);
  const inner = padded(headDims);
  const panels = inner / 8;
  const heads = memory.table(L.HEAD_WORDS, headDims.length);
  const targets = memory.table(L.TARGET_WORDS, panels * 3);
  const setTarget = (panel: number, at: number, stride: number, count: number, transposed = 0) =>
    targets.set(
      {
        [L.TARGET_POINTER]: at,
        [L.TARGET_STRIDE]: stride,
        [L.TARGET_ROWS]: count,
        [L.TARGET_TRANSPOSED]: transposed,
      },
      panel,
    );
  let keys = activations.keysValues;
  let panel = 0;
  headDims.forEach((width, h) => {
    const wide = pad8(width);
    const values = keys + wide * pad8(tokens) * 4;
    heads.set(
      {
        [L.HEAD_WIDTH]: width,
        [L.HEAD_PANELS]: wide / 8,
        [L.HEAD_OFFSET]: panel * 32,
        [L.HEAD_KEYS]: keys,
        [L.HEAD_VALUES]: values,
      },
      h,
    );
    for (let c = 0; c < wide / 8; c++, panel++) {
      setTarget(panel, activations.q + panel * 32, inner * 4, rows);
      setTarget(panels + panel, keys + c * 256, wide * 32, tokens, 1);
      setTarget(2 * panels + panel, values + c * tokens * 32, 32, tokens);
    }
    keys = toLines(values + wide * tokens * 4);
  });
  table.set({ [L.BLOCK_HEAD_TABLE]: heads.at, [L.BLOCK_TARGETS]: targets.at }, block);
}
