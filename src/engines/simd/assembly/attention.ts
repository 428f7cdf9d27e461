/** Attention of a few query rows over all heads. Two matrix products a head, by the same tiles as the linears. */
import {
  ATTENTION_ROWS,
  BLOCK_HEAD_TABLE,
  BLOCK_HEADS,
  BLOCK_INNER,
  BLOCK_MAP,
  BLOCK_TOKENS,
  HEAD_KEYS,
  HEAD_OFFSET,
  HEAD_PANELS,
  HEAD_VALUES,
  HEAD_WIDTH,
  HEAD_WORDS,
  PLAN_MIXED,
  PLAN_Q,
  PLAN_SCORE_SCALE,
  PLAN_ZEROS,
} from "../layout";
import { floatRows, int8Rows } from "../generated/tiles";
import { strips, tile } from "./calls";
import { saturates } from "./linear";
import { exp2, lanesMax, lanesSum } from "./math";
import { quantisedKeys, quantisedStride, quantiseRow } from "./norm";

/**
 * In this thread's scratch: scores [rows, tokens padded to 8], 1 / their totals; for int8 the queries of one head and their ranges.
 *
 * @param first of the query rows
 * @param int8 whether the keys are quantised (quantiseKeys)
 */
export function attendRows(plan: usize, block: usize, first: i32, rows: i32, int8: bool): void {
  const scores = strips;
  const tokens = load<i32>(block, BLOCK_TOKENS * 4);
  const heads = load<i32>(block, BLOCK_HEADS * 4);
  const rowBytes: usize = load<i32>(block, BLOCK_INNER * 4) * 4;
  tile.bias = load<i32>(plan, PLAN_ZEROS * 4);
  tile.residual = 0;
  tile.pairs = saturates;
  const map: usize = load<i32>(block, BLOCK_MAP * 4);
  // exp(s × scale) = 2^(s × scale × log₂ e)
  const scale: f32 = load<f32>(plan, PLAN_SCORE_SCALE * 4) * 1.4426950408889634;
  const tokenPanels = (tokens + 7) >> 3;
  const scoreBytes: usize = tokenPanels * 32;
  const ranges: usize = (scores + ATTENTION_ROWS * (scoreBytes + 4) + 15) & ~15;
  const queries: usize = ranges + ATTENTION_ROWS * 8;
  let head: usize = load<i32>(block, BLOCK_HEAD_TABLE * 4);
  if (first == 0) memory.fill(map, 0, tokens * 4);

  for (let h = 0; h < heads; h++) {
    const panels = load<i32>(head, HEAD_PANELS * 4);
    const at: usize = first * rowBytes + load<i32>(head, HEAD_OFFSET * 4);
    const q: usize = load<i32>(plan, PLAN_Q * 4) + at;
    const mixed: usize = load<i32>(plan, PLAN_MIXED * 4) + at;
    const width = load<i32>(head, HEAD_WIDTH * 4);
    let keys: usize = load<i32>(head, HEAD_KEYS * 4);
    tile.dstStride = scoreBytes;
    if (int8) {
      const stride = quantisedStride(width);
      for (let r = 0; r < rows; r++) quantiseRow(q + r * rowBytes, width, queries + r * stride, ranges + r * 8);
      const keyBytes = quantisedKeys(panels * 8);
      tile.xStride = stride;
      tile.steps = <i32>(keyBytes >> 5);
      for (let j = 0; j < tokenPanels; j++) {
        tile.x = queries;
        tile.weight = keys;
        tile.dst = scores + j * 32;
        tile.scale = keys + keyBytes;
        tile.sum = tile.scale + 32;
        tile.ranges = ranges;
        int8Rows(tile, rows);
        keys += panels * 256;
      }
    } else {
      tile.xStride = rowBytes;
      tile.steps = width;
      for (let j = 0; j < tokenPanels; j++) {
        tile.x = q;
        tile.weight = keys;
        tile.dst = scores + j * 32;
        floatRows(tile, rows);
        keys += panels * 256;
      }
    }
    for (let r = 0; r < rows; r++) {
      const row = scores + r * scoreBytes;
      // Sums of the tile's padding: keys of no token. As scores they weigh 2^-126.
      for (let t = tokens; t < tokenPanels * 8; t++) store<f32>(row + t * 4, -1e30);
      const total = softmaxRow(row, scoreBytes, scale);
      store<f32>(scores + rows * scoreBytes + r * 4, 1 / total);
      if (first + r == 0) addMap(map, row, tokens, 1 / (total * <f32>heads));
    }
    let values: usize = load<i32>(head, HEAD_VALUES * 4);
    tile.xStride = scoreBytes;
    tile.steps = tokens;
    tile.dstStride = rowBytes;
    for (let c = 0; c < panels; c++) {
      tile.x = scores;
      tile.weight = values;
      tile.dst = mixed + c * 32;
      floatRows(tile, rows);
      values += tokens * 32;
    }
    // Divided by the totals here, where there are fewer numbers than scores.
    for (let r = 0; r < rows; r++) {
      const inverse = v128.load32_splat(scores + rows * scoreBytes + r * 4);
      const row = mixed + r * rowBytes;
      for (let i: usize = 0; i < <usize>panels * 32; i += 16) {
        v128.store(row + i, f32x4.mul(v128.load(row + i), inverse));
      }
    }
    head += HEAD_WORDS * 4;
  }
}

/** Scores → 2^(scale × (score − max)), not yet divided by the total it returns. */
function softmaxRow(row: usize, bytes: usize, scale: f32): f32 {
  let most = f32x4.splat(-1e30);
  for (let i: usize = 0; i < bytes; i += 32) {
    most = f32x4.pmax(most, f32x4.pmax(v128.load(row + i), v128.load(row + i, 16)));
  }
  const max = f32x4.splat(lanesMax(most));
  const factor = f32x4.splat(scale);
  let total = f32x4.splat(0);
  for (let i: usize = 0; i < bytes; i += 32) {
    const a = exp2(f32x4.mul(f32x4.sub(v128.load(row + i), max), factor));
    const b = exp2(f32x4.mul(f32x4.sub(v128.load(row + i, 16), max), factor));
    v128.store(row + i, a);
    v128.store(row + i, b, 16);
    total = f32x4.add(total, f32x4.add(a, b));
  }
  return lanesSum(total);
}

function addMap(map: usize, row: usize, tokens: i32, factor: f32): void {
  for (let t: usize = 0; t < <usize>tokens * 4; t += 4) {
    store<f32>(map + t, load<f32>(map + t) + load<f32>(row + t) * factor);
  }
}
