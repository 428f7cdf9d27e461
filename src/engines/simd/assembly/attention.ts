/** Attention of a few query rows over all heads: two matrix products for each head, on the same tiles as the linears. */
import {
  ATTENTION_ROWS,
  BLOCK_GRID,
  BLOCK_HEAD_TABLE,
  BLOCK_HEADS,
  BLOCK_INNER,
  BLOCK_LOG_SIZES,
  BLOCK_MAP,
  BLOCK_ROWS,
  BLOCK_TOKENS,
  HEAD_KEYS,
  HEAD_OFFSET,
  HEAD_PANELS,
  HEAD_RELATIVE,
  HEAD_VALUES,
  HEAD_WIDTH,
  HEAD_WORDS,
  PLAN_MAP_ROWS,
  PLAN_MIXED,
  PLAN_PART_MAPS,
  PLAN_PREFIX,
  PLAN_Q,
  PLAN_RELATIVE_CENTRE,
  PLAN_RELATIVE_PREFIX,
  PLAN_SCORE_SCALE,
  PLAN_ZEROS,
} from "../layout";
import { floatRows, int8Rows } from "../generated/tiles";
import { strips, tile } from "./calls";
import { saturates } from "./linear";
import { exp2, lanesMax, lanesSum } from "./math";
import { plan } from "./model";
import { quantisedKeys, quantisedStride, quantiseRow } from "./norm";
import { address, float, word } from "./words";

/**
 * Attention of some query rows. This thread's scratch holds scores [rows, tokens padded to 8] and 1 / their totals; for
 * int8 also the queries of one head and their ranges. Biases are added before the scores are scaled, so they are stored
 * divided by the scale.
 *
 * @param first of the query rows
 * @param task which of the attention's tasks this is
 * @param int8 whether the keys are quantised (quantiseKeys)
 */
export function attendRows(block: usize, first: i32, rows: i32, task: i32, int8: bool): void {
  const tokens = word(block, BLOCK_TOKENS);
  const heads = word(block, BLOCK_HEADS);
  const rowBytes: usize = word(block, BLOCK_INNER) * 4;
  // exp(s × scale) = 2^(s × scale × log₂ e)
  const scale: f32 = float(plan, PLAN_SCORE_SCALE) * 1.4426950408889634;
  const tokenPanels = (tokens + 7) >> 3;
  const scoreBytes: usize = tokenPanels * 32;
  const zeros = address(plan, PLAN_ZEROS);
  const mapRows = word(plan, PLAN_MAP_ROWS);
  const map = mapRows > 1 ? address(plan, PLAN_PART_MAPS) + task * tokens * 4 : address(block, BLOCK_MAP);
  if (first < mapRows) memory.fill(map, 0, tokens * 4);
  let head = address(block, BLOCK_HEAD_TABLE);
  for (let h = 0; h < heads; h++, head += HEAD_WORDS * 4) {
    const panels = word(head, HEAD_PANELS);
    const at: usize = first * rowBytes + address(head, HEAD_OFFSET);
    const mixed = address(plan, PLAN_MIXED) + at;
    scoreHead(block, head, address(plan, PLAN_Q) + at, first, rows, int8);
    for (let r = 0; r < rows; r++) {
      const row = strips + r * scoreBytes;
      // The tile's padding has sums of keys without a token. As scores they weigh 2^-126.
      for (let t = tokens; t < tokenPanels * 8; t++) store<f32>(row + t * 4, -1e30);
      const total = softmaxRow(row, scoreBytes, scale);
      store<f32>(strips + rows * scoreBytes + r * 4, 1 / total);
      if (first + r < mapRows) addMap(map, row, tokens, 1 / (total * <f32>heads));
    }
    let values = address(head, HEAD_VALUES);
    tile.xStride = scoreBytes;
    tile.steps = tokens;
    tile.bias = zeros;
    tile.dstStride = rowBytes;
    tile.residual = 0;
    for (let c = 0; c < panels; c++) {
      tile.x = strips;
      tile.weight = values;
      tile.dst = mixed + c * 32;
      floatRows(tile, rows);
      values += tokens * 32;
    }
    // The division by the totals comes here, because the outputs are fewer than the scores.
    for (let r = 0; r < rows; r++) {
      const inverse = v128.load32_splat(strips + rows * scoreBytes + r * 4);
      const row = mixed + r * rowBytes;
      for (let i: usize = 0; i < <usize>panels * 32; i += 16) {
        v128.store(row + i, f32x4.mul(v128.load(row + i), inverse));
      }
    }
  }
}

/** One head's scores, before their scale. @param q the first query row's part */
function scoreHead(block: usize, head: usize, q: usize, first: i32, rows: i32, int8: bool): void {
  const panels = word(head, HEAD_PANELS);
  const width = word(head, HEAD_WIDTH);
  const rowBytes: usize = word(block, BLOCK_INNER) * 4;
  const tokenPanels = (word(block, BLOCK_TOKENS) + 7) >> 3;
  const scoreBytes: usize = tokenPanels * 32;
  const logSizes = address(block, BLOCK_LOG_SIZES);
  const relative = address(head, HEAD_RELATIVE);
  let keys = address(head, HEAD_KEYS);
  if (relative) for (let r = 0; r < rows; r++) relativeRow(block, relative, first + r, strips + r * scoreBytes);
  const ranges: usize = (strips + ATTENTION_ROWS * (scoreBytes + 4) + 15) & ~15;
  const queries: usize = ranges + ATTENTION_ROWS * 8;
  const keyBytes = quantisedKeys(panels * 8);
  if (int8) {
    const stride = quantisedStride(width);
    for (let r = 0; r < rows; r++) quantiseRow(q + r * rowBytes, width, queries + r * stride, ranges + r * 8);
    tile.xStride = stride;
    tile.steps = <i32>(keyBytes >> 5);
    tile.pairs = saturates;
  } else {
    tile.xStride = rowBytes;
    tile.steps = width;
  }
  tile.dstStride = scoreBytes;
  for (let j = 0; j < tokenPanels; j++) {
    tile.x = int8 ? queries : q;
    tile.weight = keys;
    tile.bias = logSizes ? logSizes + j * 32 : address(plan, PLAN_ZEROS);
    tile.dst = strips + j * 32;
    tile.residual = relative ? tile.dst : 0;
    if (int8) {
      tile.scale = keys + keyBytes;
      tile.sum = tile.scale + 32;
      tile.ranges = ranges;
      int8Rows(tile, rows);
    } else floatRows(tile, rows);
    keys += panels * 256;
  }
}

/**
 * The biases of one query on each key. The table is indexed by the difference of places; three entries for prefix
 * tokens follow.
 */
function relativeRow(block: usize, table: usize, query: i32, to: usize): void {
  const tokens = word(block, BLOCK_TOKENS);
  const prefix = word(plan, PLAN_PREFIX);
  const grid = address(block, BLOCK_GRID);
  const ofPrefix = table + word(plan, PLAN_RELATIVE_PREFIX) * 4;
  const toPrefix = load<f32>(ofPrefix + (query < prefix ? 8 : 4));
  for (let t = 0; t < prefix; t++) store<f32>(to + t * 4, toPrefix);
  if (query < prefix) {
    const onPatch = load<f32>(ofPrefix);
    for (let t = prefix; t < tokens; t++) store<f32>(to + t * 4, onPatch);
    return;
  }
  const own = table + (word(plan, PLAN_RELATIVE_CENTRE) + load<i32>(grid + query * 4)) * 4;
  for (let t = prefix; t < tokens; t++) store<f32>(to + t * 4, load<f32>(own - load<i32>(grid + t * 4) * 4));
}

/** Scores → 2^(scale × (score − max)), not yet divided by the total it returns. */
export function softmaxRow(row: usize, bytes: usize, scale: f32): f32 {
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

/** The mean attention over all queries, from the sums of the attention's tasks. */
export function sumMaps(block: usize, tasks: i32): void {
  const tokens = word(block, BLOCK_TOKENS);
  const map = address(block, BLOCK_MAP);
  const parts = address(plan, PLAN_PART_MAPS);
  const share: f32 = 1 / <f32>word(block, BLOCK_ROWS);
  memory.fill(map, 0, tokens * 4);
  for (let task = 0; task < tasks; task++) addMap(map, parts + task * tokens * 4, tokens, share);
}
