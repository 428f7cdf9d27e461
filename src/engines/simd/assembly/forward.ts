/**
 * The forward pass in stages: 0 embeds, 1 … blocks are the blocks, blocks + 1 is the final norm and the heads. Every
 * thread calls every stage and opens the same phases; the reference's arithmetic is in src/reference/forward.ts.
 */
import {
  ATTENTION_ROWS,
  BLOCK_FC1,
  BLOCK_FC2,
  BLOCK_FROM,
  BLOCK_GATHER,
  BLOCK_HEAD_TABLE,
  BLOCK_HEADS,
  BLOCK_INNER,
  BLOCK_NORM1,
  BLOCK_NORM2,
  BLOCK_PROJ,
  BLOCK_QKV,
  BLOCK_ROWS,
  BLOCK_TARGETS,
  BLOCK_TOKENS,
  BLOCK_WORDS,
  BLOCK_X,
  HEAD_KEYS,
  HEAD_PANELS,
  HEAD_WORDS,
  INT8,
  LINEAR_INPUTS,
  LINEAR_KIND,
  LINEAR_PANELS,
  PLAN_BLOCK_TABLE,
  PLAN_BLOCKS,
  PLAN_DIM,
  PLAN_DIM_BYTES,
  PLAN_EMBED,
  PLAN_EPS,
  PLAN_FEATURES,
  PLAN_HEAD,
  PLAN_HEAD2,
  PLAN_HEIGHT,
  PLAN_HIDDEN,
  PLAN_LOGITS,
  PLAN_LOGITS2,
  PLAN_MIXED,
  PLAN_NORM,
  PLAN_NORMED,
  PLAN_PATCH,
  PLAN_PATCH_ROWS,
  PLAN_PATCH_TABLE,
  PLAN_PATCHES,
  PLAN_PIXELS,
  PLAN_PREFIX,
  PLAN_QUANTISED,
  PLAN_RANGES,
  PLAN_START,
  PLAN_WIDTH,
  PLAN_X,
  TARGET_POINTER,
  TARGET_ROWS,
  TARGET_STRIDE,
  TARGET_TRANSPOSED,
  TARGET_WORDS,
} from "../layout";
import { attendRows } from "./attention";
import { call, strips, takeScratch } from "./calls";
import { linearPanel, linearPhase } from "./linear";
import { layerNorm, quantisedStride, quantiseKeys, quantiseRow } from "./norm";
import { transpose32 } from "./pack";
import { claim, closePhase, openPhase, share, thread, threads } from "./sync";

let plan: usize = 0;
let dim: i32 = 0;
let dimBytes: usize = 0;
let eps: f32 = 0;
let normed: usize = 0;
let quantised: usize = 0;
let ranges: usize = 0;

/** After joinThreads. */
export function readPlan(at: usize): void {
  plan = at;
  dim = load<i32>(plan, PLAN_DIM * 4);
  dimBytes = load<i32>(plan, PLAN_DIM_BYTES * 4);
  eps = load<f32>(plan, PLAN_EPS * 4);
  takeScratch(plan, thread);
  normed = load<i32>(plan, PLAN_NORMED * 4);
  quantised = load<i32>(plan, PLAN_QUANTISED * 4);
  ranges = load<i32>(plan, PLAN_RANGES * 4);
}

export function runStage(stage: i32): void {
  const blocks = load<i32>(plan, PLAN_BLOCKS * 4);
  if (stage == 0) embed();
  else if (stage <= blocks) runBlock(load<i32>(plan, PLAN_BLOCK_TABLE * 4) + (stage - 1) * BLOCK_WORDS * 4);
  else classify();
}

/** Kept patches only; rows of `x` are tokens of the first block, the prefix first. */
function embed(): void {
  const patches = load<i32>(plan, PLAN_PATCHES * 4);
  const size = load<i32>(plan, PLAN_PATCH * 4);
  const table: usize = load<i32>(plan, PLAN_PATCH_TABLE * 4);
  const rows: usize = load<i32>(plan, PLAN_PATCH_ROWS * 4);
  const x: usize = load<i32>(plan, PLAN_X * 4);
  const start: usize = load<i32>(plan, PLAN_START * 4);
  const prefix: usize = load<i32>(plan, PLAN_PREFIX * 4) * dimBytes;
  const rowBytes: usize = size * size * 12;
  const each = share(patches, 4);
  const items = (patches + each - 1) / each;
  openPhase();
  for (let item = claim(); item <= items; item = claim()) {
    if (item == items) memory.copy(x, start, prefix);
    const end = min(patches, (item + 1) * each);
    for (let i = item * each; i < end; i++) unfold(load<i32>(table + i * 4), rows + i * rowBytes, size);
  }
  closePhase(items + 1);
  call.linear = plan + PLAN_EMBED * 4;
  call.x = rows;
  call.xStride = rowBytes;
  call.rows = patches;
  call.dst = x + prefix;
  call.dstStride = dimBytes;
  call.residual = start + prefix;
  call.withGelu = false;
  linearPhase(call);
}

/** One patch's pixels as a row: [3, size, size]. */
function unfold(first: usize, to: usize, size: i32): void {
  const width = load<i32>(plan, PLAN_WIDTH * 4);
  const area = load<i32>(plan, PLAN_HEIGHT * 4) * width;
  const pixels: usize = load<i32>(plan, PLAN_PIXELS * 4) + first;
  for (let c = 0; c < 3; c++) {
    for (let y = 0; y < size; y++) {
      const from = pixels + (c * area + y * width) * 4;
      let i = 0;
      for (; i + 4 <= size; i += 4) v128.store(to + i * 4, v128.load(from + i * 4));
      for (; i < size; i++) store<f32>(to + i * 4, load<f32>(from + i * 4));
      to += size * 4;
    }
  }
}

function runBlock(block: usize): void {
  const tokens = load<i32>(block, BLOCK_TOKENS * 4);
  const rows = load<i32>(block, BLOCK_ROWS * 4);
  const heads = load<i32>(block, BLOCK_HEADS * 4);
  const x: usize = load<i32>(block, BLOCK_X * 4);
  const qkv = block + BLOCK_QKV * 4;
  const proj = block + BLOCK_PROJ * 4;
  const fc1 = block + BLOCK_FC1 * 4;
  const fc2 = block + BLOCK_FC2 * 4;
  const mixed: usize = load<i32>(plan, PLAN_MIXED * 4);
  const mixedBytes: usize = load<i32>(block, BLOCK_INNER * 4) * 4;
  const hidden: usize = load<i32>(plan, PLAN_HIDDEN * 4);
  const hiddenBytes: usize = load<i32>(fc1, LINEAR_PANELS * 4) * 32;

  const from: usize = load<i32>(block, BLOCK_FROM * 4);
  normPhase(from, load<i32>(block, BLOCK_GATHER * 4), x, tokens, load<i32>(block, BLOCK_NORM1 * 4), qkv);
  if (heads > 0) {
    qkvPhase(block, qkv);
    if (isInt8(qkv)) keysPhase(block, tokens, heads);
    attentionPhase(block, rows, proj, mixed, mixedBytes);
  }
  projectPhase(proj, mixed, mixedBytes, rows, x);
  if (load<i32>(fc1, LINEAR_PANELS * 4) > 0) {
    normPhase(x, 0, x, rows, load<i32>(block, BLOCK_NORM2 * 4), fc1);
    takeNormed(fc1);
    call.rows = rows;
    call.dst = hidden;
    call.dstStride = hiddenBytes;
    call.residual = 0;
    call.withGelu = true;
    linearPhase(call);
    if (isInt8(fc2)) quantisePhase(hidden, hiddenBytes, load<i32>(fc2, LINEAR_INPUTS * 4), rows);
  }
  projectPhase(fc2, hidden, hiddenBytes, rows, x);
}

// @ts-ignore: decorator
@inline
function isInt8(linear: usize): bool {
  return load<i32>(linear, LINEAR_KIND * 4) == INT8;
}

/** Normalises rows for `next`, quantised if it is int8. With a gather, rows are first copied from `from` to `x`. */
function normPhase(from: usize, gather: usize, x: usize, rows: i32, norm: usize, next: usize): void {
  const int8 = isInt8(next);
  const each = share(rows, 4);
  const items = (rows + each - 1) / each;
  openPhase();
  for (let item = claim(); item < items; item = claim()) {
    const end = min(rows, (item + 1) * each);
    for (let r = item * each; r < end; r++) {
      const row = x + r * dimBytes;
      if (gather) memory.copy(row, from + load<i32>(gather + r * 4) * dimBytes, dimBytes);
      const to = normed + r * dimBytes;
      layerNorm(row, to, dim, eps, norm, norm + dimBytes);
      if (int8) quantiseRow(to, dim, quantised + r * quantisedStride(dim), ranges + r * 8);
    }
  }
  closePhase(items);
}

/** Sets what a linear that follows a norm reads: the normed rows, or the same quantised. */
function takeNormed(linear: usize): void {
  const int8 = isInt8(linear);
  call.linear = linear;
  call.x = int8 ? quantised : normed;
  call.xStride = int8 ? quantisedStride(dim) : dimBytes;
  call.ranges = ranges;
}

/** Each panel of q, k and v goes where attention wants it: q in rows, k transposed, v in panels. */
function qkvPhase(block: usize, qkv: usize): void {
  const panels = load<i32>(qkv, LINEAR_PANELS * 4);
  const each = share(panels, 1);
  const items = (panels + each - 1) / each;
  takeNormed(qkv);
  call.residual = 0;
  openPhase();
  for (let item = claim(); item < items; item = claim()) {
    const end = min(panels, (item + 1) * each);
    for (let p = item * each; p < end; p++) {
      const target: usize = load<i32>(block, BLOCK_TARGETS * 4) + p * TARGET_WORDS * 4;
      const rows = load<i32>(target, TARGET_ROWS * 4);
      const to: usize = load<i32>(target, TARGET_POINTER * 4);
      const toStride: usize = load<i32>(target, TARGET_STRIDE * 4);
      const transposed = load<i32>(target, TARGET_TRANSPOSED * 4) != 0;
      call.rows = rows;
      call.dst = transposed ? strips : to;
      call.dstStride = transposed ? 32 : toStride;
      linearPanel(call, p);
      if (transposed) {
        for (let r = 0; r < rows; r += 8) transpose32(strips + r * 32, 32, to + (r >> 3) * toStride, 8);
      }
    }
  }
  closePhase(items);
}

/** Where q, k and v come out of an int8 linear, the scores are an int8 product as well. */
function keysPhase(block: usize, tokens: i32, heads: i32): void {
  const table: usize = load<i32>(block, BLOCK_HEAD_TABLE * 4);
  const panels = (tokens + 7) >> 3;
  const each = share(heads * panels, 4);
  const items = (heads * panels + each - 1) / each;
  openPhase();
  for (let item = claim(); item < items; item = claim()) {
    const end = min(heads * panels, (item + 1) * each);
    for (let p = item * each; p < end; p++) {
      const head = table + (p / panels) * HEAD_WORDS * 4;
      const wide = load<i32>(head, HEAD_PANELS * 4) * 8;
      quantiseKeys(load<i32>(head, HEAD_KEYS * 4) + (p % panels) * wide * 32, wide);
    }
  }
  closePhase(items);
}

function attentionPhase(block: usize, rows: i32, proj: usize, mixed: usize, mixedBytes: usize): void {
  const int8 = isInt8(proj);
  const inputs = load<i32>(proj, LINEAR_INPUTS * 4);
  const each = threads == 1 ? ATTENTION_ROWS : ATTENTION_ROWS / 2;
  const items = (rows + each - 1) / each;
  openPhase();
  for (let item = claim(); item < items; item = claim()) {
    const first = item * each;
    const end = min(rows, first + each);
    attendRows(plan, block, first, end - first, isInt8(block + BLOCK_QKV * 4));
    if (int8) {
      for (let r = first; r < end; r++) {
        quantiseRow(mixed + r * mixedBytes, inputs, quantised + r * quantisedStride(inputs), ranges + r * 8);
      }
    }
  }
  closePhase(items);
}

function quantisePhase(from: usize, fromBytes: usize, inputs: i32, rows: i32): void {
  const each = share(rows, 4);
  const items = (rows + each - 1) / each;
  openPhase();
  for (let item = claim(); item < items; item = claim()) {
    const end = min(rows, (item + 1) * each);
    for (let r = item * each; r < end; r++) {
      quantiseRow(from + r * fromBytes, inputs, quantised + r * quantisedStride(inputs), ranges + r * 8);
    }
  }
  closePhase(items);
}

/** x += linear(from), `from` being quantised already where the linear is int8. */
function projectPhase(linear: usize, from: usize, fromBytes: usize, rows: i32, x: usize): void {
  const int8 = isInt8(linear);
  call.linear = linear;
  call.x = int8 ? quantised : from;
  call.xStride = int8 ? quantisedStride(load<i32>(linear, LINEAR_INPUTS * 4)) : fromBytes;
  call.ranges = ranges;
  call.rows = rows;
  call.dst = x;
  call.dstStride = dimBytes;
  call.residual = x;
  call.withGelu = false;
  linearPhase(call);
}

function classify(): void {
  const last: usize = load<i32>(plan, PLAN_BLOCK_TABLE * 4) + (load<i32>(plan, PLAN_BLOCKS * 4) - 1) * BLOCK_WORDS * 4;
  const x: usize = load<i32>(last, BLOCK_X * 4);
  const norm: usize = load<i32>(plan, PLAN_NORM * 4);
  const features: usize = load<i32>(plan, PLAN_FEATURES * 4);
  const prefix = load<i32>(plan, PLAN_PREFIX * 4);
  openPhase();
  for (let r = claim(); r < prefix; r = claim()) {
    const row = features + r * dimBytes;
    layerNorm(x + r * dimBytes, row, dim, eps, norm, norm + dimBytes);
    quantiseRow(row, dim, quantised + r * quantisedStride(dim), ranges + r * 8);
  }
  closePhase(prefix);
  headPhase(plan + PLAN_HEAD * 4, features, 0, load<i32>(plan, PLAN_LOGITS * 4));
  if (prefix == 2) headPhase(plan + PLAN_HEAD2 * 4, features + dimBytes, 1, load<i32>(plan, PLAN_LOGITS2 * 4));
}

function headPhase(head: usize, features: usize, row: i32, logits: usize): void {
  call.linear = head;
  call.x = isInt8(head) ? quantised + row * quantisedStride(dim) : features;
  call.ranges = ranges + row * 8;
  call.rows = 1;
  call.dst = logits;
  call.residual = 0;
  call.withGelu = false;
  linearPhase(call);
}
