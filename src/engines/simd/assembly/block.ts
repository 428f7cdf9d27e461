/** One transformer block. */
import {
  ACTIVATION_NONE,
  ATTENTION_ROWS,
  BLOCK_FC1,
  BLOCK_FC2,
  BLOCK_FROM,
  BLOCK_GATHER,
  BLOCK_HEAD_TABLE,
  BLOCK_HEADS,
  BLOCK_HIDDEN_NORM,
  BLOCK_INNER,
  BLOCK_KEY_ROWS,
  BLOCK_MERGE,
  BLOCK_MLP_ROWS,
  BLOCK_MLP_X,
  BLOCK_NORM1,
  BLOCK_NORM2,
  BLOCK_PROJ,
  BLOCK_QKV,
  BLOCK_ROWS,
  BLOCK_TARGETS,
  BLOCK_TOKENS,
  BLOCK_X,
  HEAD_KEYS,
  HEAD_PANELS,
  HEAD_WORDS,
  INT8,
  LINEAR_INPUTS,
  LINEAR_KIND,
  LINEAR_PANELS,
  PLAN_ACTIVATION,
  PLAN_GATED,
  PLAN_HIDDEN,
  PLAN_MAP_ROWS,
  PLAN_MIXED,
  TARGET_POINTER,
  TARGET_ROWS,
  TARGET_STRIDE,
  TARGET_TRANSPOSED,
  TARGET_WORDS,
} from "../layout";
import { attendRows, sumMaps } from "./attention";
import { call, strips } from "./calls";
import { keyRowsPhase } from "./keys";
import { gatedPhase, linearPanel, linearPhase } from "./linear";
import { mergePhase, pairPhases } from "./merge";
import { dim, dimBytes, normed, plan, quantised, ranges } from "./model";
import { normRow, quantisedStride, quantiseKeys, quantiseRow } from "./norm";
import { transpose32 } from "./pack";
import { claim, closePhase, openPhase, share, threads } from "./sync";
import { address, word } from "./words";

export function runBlock(block: usize): void {
  const x = address(block, BLOCK_X);
  const rows = word(block, BLOCK_ROWS);
  const qkv = block + BLOCK_QKV * 4;
  const proj = block + BLOCK_PROJ * 4;
  const mixed = address(plan, PLAN_MIXED);
  const mixedBytes: usize = word(block, BLOCK_INNER) * 4;
  const gather = address(block, BLOCK_GATHER);
  normPhase(address(block, BLOCK_FROM), gather, x, word(block, BLOCK_TOKENS), address(block, BLOCK_NORM1), qkv);
  if (word(block, BLOCK_HEADS) > 0) {
    qkvPhase(block, qkv);
    if (address(block, BLOCK_KEY_ROWS)) keyRowsPhase(block);
    if (word(block, BLOCK_MERGE) > 0) pairPhases(block);
    if (isInt8(qkv)) keysPhase(block);
    attentionPhase(block, rows, proj, mixed, mixedBytes);
  }
  projectPhase(proj, mixed, mixedBytes, rows, x);
  if (word(block, BLOCK_MERGE) > 0) mergePhase(block);
  runMlp(block);
}

function runMlp(block: usize): void {
  const x = address(block, BLOCK_MLP_X);
  const rows = word(block, BLOCK_MLP_ROWS);
  const fc1 = block + BLOCK_FC1 * 4;
  const fc2 = block + BLOCK_FC2 * 4;
  const hidden = address(plan, PLAN_HIDDEN);
  const gated = word(plan, PLAN_GATED) != 0;
  const panels = word(fc1, LINEAR_PANELS);
  const hiddenBytes: usize = (gated ? panels >> 1 : panels) * 32;
  if (panels > 0) {
    normPhase(x, 0, x, rows, address(block, BLOCK_NORM2), fc1);
    takeNormed(fc1);
    call.rows = rows;
    call.dst = hidden;
    call.dstStride = hiddenBytes;
    call.residual = 0;
    call.activation = word(plan, PLAN_ACTIVATION);
    if (gated) gatedPhase(call);
    else linearPhase(call);
    const norm = address(block, BLOCK_HIDDEN_NORM);
    if (norm || isInt8(fc2)) hiddenPhase(norm, hidden, hiddenBytes, rows, fc2);
  }
  projectPhase(fc2, hidden, hiddenBytes, rows, x);
}

// @ts-ignore: decorator
@inline
function isInt8(linear: usize): bool {
  return word(linear, LINEAR_KIND) == INT8;
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
      normRow(norm, row, to, dim);
      if (int8) quantiseRow(to, dim, quantised + r * quantisedStride(dim), ranges + r * 8);
    }
  }
  closePhase(items);
}

/** Sets the input of a linear that follows a norm: the normed rows, quantised for an int8 linear. */
function takeNormed(linear: usize): void {
  const int8 = isInt8(linear);
  call.linear = linear;
  call.x = int8 ? quantised : normed;
  call.xStride = int8 ? quantisedStride(dim) : dimBytes;
  call.ranges = ranges;
}

/** Writes each panel of q, k and v in the layout that attention reads: q in rows, k transposed, v in panels. */
function qkvPhase(block: usize, qkv: usize): void {
  const panels = word(qkv, LINEAR_PANELS);
  const each = share(panels, 1);
  const items = (panels + each - 1) / each;
  takeNormed(qkv);
  call.residual = 0;
  openPhase();
  for (let item = claim(); item < items; item = claim()) {
    const end = min(panels, (item + 1) * each);
    for (let p = item * each; p < end; p++) {
      const target = address(block, BLOCK_TARGETS) + p * TARGET_WORDS * 4;
      const rows = word(target, TARGET_ROWS);
      const to = address(target, TARGET_POINTER);
      const toStride = address(target, TARGET_STRIDE);
      const transposed = word(target, TARGET_TRANSPOSED) != 0;
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

/** Prepares the keys. Where q, k and v come from an int8 linear, the scores are an int8 product as well. */
function keysPhase(block: usize): void {
  const heads = word(block, BLOCK_HEADS);
  const table = address(block, BLOCK_HEAD_TABLE);
  const panels = (word(block, BLOCK_TOKENS) + 7) >> 3;
  const each = share(heads * panels, 4);
  const items = (heads * panels + each - 1) / each;
  openPhase();
  for (let item = claim(); item < items; item = claim()) {
    const end = min(heads * panels, (item + 1) * each);
    for (let p = item * each; p < end; p++) {
      const head = table + (p / panels) * HEAD_WORDS * 4;
      const wide = word(head, HEAD_PANELS) * 8;
      quantiseKeys(address(head, HEAD_KEYS) + (p % panels) * wide * 32, wide);
    }
  }
  closePhase(items);
}

function attentionPhase(block: usize, rows: i32, proj: usize, mixed: usize, mixedBytes: usize): void {
  const int8 = isInt8(proj);
  const inputs = word(proj, LINEAR_INPUTS);
  const each = threads == 1 ? ATTENTION_ROWS : ATTENTION_ROWS / 2;
  const items = (rows + each - 1) / each;
  openPhase();
  for (let item = claim(); item < items; item = claim()) {
    const first = item * each;
    const end = min(rows, first + each);
    attendRows(block, first, end - first, item, isInt8(block + BLOCK_QKV * 4));
    if (int8) {
      for (let r = first; r < end; r++) {
        quantiseRow(mixed + r * mixedBytes, inputs, quantised + r * quantisedStride(inputs), ranges + r * 8);
      }
    }
  }
  closePhase(items);
  if (word(plan, PLAN_MAP_ROWS) <= 1) return;
  openPhase();
  for (let item = claim(); item < 1; item = claim()) sumMaps(block, items);
  closePhase(1);
}

/** The hidden units' own norm, and their quantisation. */
function hiddenPhase(norm: usize, hidden: usize, bytes: usize, rows: i32, next: usize): void {
  const inputs = word(next, LINEAR_INPUTS);
  const int8 = isInt8(next);
  const each = share(rows, 4);
  const items = (rows + each - 1) / each;
  openPhase();
  for (let item = claim(); item < items; item = claim()) {
    const end = min(rows, (item + 1) * each);
    for (let r = item * each; r < end; r++) {
      const row = hidden + r * bytes;
      if (norm) normRow(norm, row, row, inputs);
      if (int8) quantiseRow(row, inputs, quantised + r * quantisedStride(inputs), ranges + r * 8);
    }
  }
  closePhase(items);
}

/** x += linear(from), `from` being quantised already where the linear is int8. */
function projectPhase(linear: usize, from: usize, fromBytes: usize, rows: i32, x: usize): void {
  const int8 = isInt8(linear);
  call.linear = linear;
  call.x = int8 ? quantised : from;
  call.xStride = int8 ? quantisedStride(word(linear, LINEAR_INPUTS)) : fromBytes;
  call.ranges = ranges;
  call.rows = rows;
  call.dst = x;
  call.dstStride = dimBytes;
  call.residual = x;
  call.activation = ACTIVATION_NONE;
  linearPhase(call);
}
