/**
 * Merging tokens: chooses the pairs and computes the remaining rows, as src/reference/merge.ts does. Patches at even
 * positions of a block are set B, those at odd positions are set A, so both are strided rows. Similarities use the tiles
 * of the linears: A's keys are activations, and B's are packed into panels.
 */
import {
  ATTENTION_ROWS,
  BLOCK_FORCED,
  BLOCK_INNER,
  BLOCK_KEY_ROWS,
  BLOCK_MERGE,
  BLOCK_MLP_LOG_SIZES,
  BLOCK_MLP_PLACES,
  BLOCK_MLP_ROWS,
  BLOCK_MLP_SIZES,
  BLOCK_MLP_X,
  BLOCK_PARTNERS,
  BLOCK_PLACES,
  BLOCK_SIZES,
  BLOCK_TOKENS,
  BLOCK_X,
  PLAN_LOGS,
  PLAN_MERGE_NEXT,
  PLAN_MERGE_PANELS,
  PLAN_MERGE_ROWS,
  PLAN_PREFIX,
  PLAN_SIMILARITIES,
  PLAN_ZEROS,
} from "../layout";
import { floatRows } from "../generated/tiles";
import { strips, tile } from "./calls";
import { lanesMax, lanesSum, madd } from "./math";
import { dimBytes, plan } from "./model";
import { transpose32 } from "./pack";
import { claim, closePhase, openPhase, share } from "./sync";
import { address, word } from "./words";

const NEVER: f32 = -1e30;

let tokens: i32 = 0;
let prefix: i32 = 0;
let countA: i32 = 0;
let countB: i32 = 0;
let keyBytes: usize = 0; // of a row of keys
let panelCount: i32 = 0; // of B's keys
let firstA: usize = 0; // A's first row of keys; the others are two rows on
let firstB: usize = 0;

function readBlock(block: usize): void {
  tokens = word(block, BLOCK_TOKENS);
  prefix = word(plan, PLAN_PREFIX);
  countA = (tokens - prefix) >> 1;
  countB = tokens - prefix - countA;
  keyBytes = word(block, BLOCK_INNER) * 4;
  panelCount = (countB + 7) >> 3;
  firstB = address(block, BLOCK_KEY_ROWS) + prefix * keyBytes;
  firstA = firstB + keyBytes;
}

/** Chooses which tokens merge by the keys of this block. The keys of B are divided by their length in place. */
export function pairPhases(block: usize): void {
  readBlock(block);
  if (word(block, BLOCK_FORCED) == 0) {
    packPhase();
    comparePhase(block);
  }
  openPhase();
  for (let item = claim(); item < 1; item = claim()) {
    if (word(block, BLOCK_FORCED) == 0) choosePairs(block);
    orderRows(block);
  }
  closePhase(1);
}

/** B's keys, each divided by its length, in panels of 8. */
function packPhase(): void {
  const panels = address(plan, PLAN_MERGE_PANELS);
  const each = share(panelCount, 1);
  const items = (panelCount + each - 1) / each;
  openPhase();
  for (let item = claim(); item < items; item = claim()) {
    const end = min(panelCount, (item + 1) * each);
    for (let panel = item * each; panel < end; panel++) {
      const rows = firstB + panel * 16 * keyBytes;
      for (let r = 0; r < min(8, countB - panel * 8); r++) makeUnit(rows + r * 2 * keyBytes);
      transpose32(rows, 2 * keyBytes, panels + panel * 8 * keyBytes, <i32>(keyBytes >> 2));
    }
  }
  closePhase(items);
}

/**
 * Divided, not multiplied by 1 / length: keys that are multiples of each other then have a similarity of exactly 1.
 * Zeros stay zeros.
 */
function makeUnit(row: usize): void {
  const length = lengthOf(row);
  if (length == 0) return;
  const lengths = f32x4.splat(length);
  for (let i: usize = 0; i < keyBytes; i += 16) v128.store(row + i, f32x4.div(v128.load(row + i), lengths));
}

function lengthOf(row: usize): f32 {
  let sums0 = f32x4.splat(0);
  let sums1 = sums0;
  for (let i: usize = 0; i < keyBytes; i += 32) {
    const a = v128.load(row + i);
    const b = v128.load(row + i, 16);
    sums0 = madd(a, a, sums0);
    sums1 = madd(b, b, sums1);
  }
  return sqrt<f32>(lanesSum(f32x4.add(sums0, sums1)));
}

/** Finds for each row of A its best partner in B and their similarity. */
function comparePhase(block: usize): void {
  const panels = address(plan, PLAN_MERGE_PANELS);
  const similarities = address(plan, PLAN_SIMILARITIES);
  const partners = address(block, BLOCK_PARTNERS);
  const rowBytes: usize = panelCount * 32;
  const items = (countA + ATTENTION_ROWS - 1) / ATTENTION_ROWS;
  openPhase();
  for (let item = claim(); item < items; item = claim()) {
    const first = item * ATTENTION_ROWS;
    const rows = min(ATTENTION_ROWS, countA - first);
    tile.xStride = 2 * keyBytes;
    tile.steps = <i32>(keyBytes >> 2);
    tile.bias = address(plan, PLAN_ZEROS);
    tile.dstStride = rowBytes;
    tile.residual = 0;
    for (let panel = 0; panel < panelCount; panel++) {
      tile.x = firstA + first * 2 * keyBytes;
      tile.weight = panels + panel * 8 * keyBytes;
      tile.dst = strips + panel * 32;
      floatRows(tile, rows);
    }
    for (let r = 0; r < rows; r++) {
      const row = strips + r * rowBytes;
      for (let b = countB; b < panelCount * 8; b++) store<f32>(row + b * 4, NEVER);
      const best = bestOf(row, rowBytes);
      const length = lengthOf(firstA + (first + r) * 2 * keyBytes);
      const a: usize = (first + r) * 4;
      store<f32>(similarities + a, length == 0 ? 0 : load<f32>(row + best * 4) / length);
      store<i32>(partners + a, prefix + 2 * best);
    }
  }
  closePhase(items);
}

/** Index of the greatest number; the first one among equals. */
function bestOf(row: usize, bytes: usize): i32 {
  let most = f32x4.splat(NEVER);
  for (let i: usize = 0; i < bytes; i += 32) {
    most = f32x4.pmax(most, f32x4.pmax(v128.load(row + i), v128.load(row + i, 16)));
  }
  const greatest = lanesMax(most);
  const all = f32x4.splat(greatest);
  let i: usize = 0;
  while (i < bytes && !v128.any_true(f32x4.eq(v128.load(row + i), all))) i += 16;
  for (; i < bytes; i += 4) if (load<f32>(row + i) == greatest) return <i32>(i >> 2);
  return 0; // no element equals the greatest where scores are NaN
}

/** Keeps the partner of the most similar pairs only; the first ones among equals. */
function choosePairs(block: usize): void {
  const similarities = address(plan, PLAN_SIMILARITIES);
  const partners = address(block, BLOCK_PARTNERS);
  for (let left = word(block, BLOCK_MERGE); left > 0; left--) {
    let best = -1;
    let greatest: f32 = NEVER;
    for (let a = 0; a < countA; a++) {
      const similarity = load<f32>(similarities + a * 4);
      if (similarity > greatest) {
        greatest = similarity;
        best = a;
      }
    }
    if (best < 0) best = firstAbove(similarities); // no numbers
    store<f32>(similarities + best * 4, 2 * NEVER); // chosen
  }
  for (let a = 0; a < countA; a++) {
    if (load<f32>(similarities + a * 4) != 2 * NEVER) store<i32>(partners + a * 4, -1);
  }
}

function firstAbove(similarities: usize): i32 {
  let a = 0;
  while (a < countA - 1 && load<f32>(similarities + a * 4) == 2 * NEVER) a++;
  return a;
}

/**
 * The order after the merge: prefix tokens, those of A that are left, then B. PLAN_MERGE_ROWS has the row that each comes
 * from; PLAN_MERGE_NEXT leads from a row of B through those of A that go into it, in their order.
 */
function orderRows(block: usize): void {
  const partners = address(block, BLOCK_PARTNERS);
  const rows = address(plan, PLAN_MERGE_ROWS);
  const next = address(plan, PLAN_MERGE_NEXT);
  memory.fill(next, 0, tokens * 4);
  let at = rows;
  for (let token = 0; token < prefix; token++, at += 4) store<i32>(at, token);
  for (let a = 0; a < countA; a++) {
    if (load<i32>(partners + a * 4) >= 0) continue;
    store<i32>(at, prefix + 2 * a + 1);
    at += 4;
  }
  for (let b = 0; b < countB; b++, at += 4) store<i32>(at, prefix + 2 * b);
  for (let a = countA - 1; a >= 0; a--) {
    const partner = load<i32>(partners + a * 4);
    if (partner < 0) continue;
    const row = prefix + 2 * a + 1;
    store<i32>(next + row * 4, load<i32>(next + partner * 4));
    store<i32>(next + partner * 4, row);
  }
}

/** The residual stream, sizes and places of the tokens that are left. */
export function mergePhase(block: usize): void {
  const rows = word(block, BLOCK_MLP_ROWS);
  const each = share(rows, 4);
  const items = (rows + each - 1) / each;
  openPhase();
  for (let item = claim(); item < items; item = claim()) {
    const end = min(rows, (item + 1) * each);
    for (let r = item * each; r < end; r++) mergeRow(block, r);
  }
  closePhase(items);
}

/** The mean of the rows that merge into a row, weighted by their sizes. */
function mergeRow(block: usize, row: i32): void {
  const source = load<i32>(address(plan, PLAN_MERGE_ROWS) + row * 4);
  const next = address(plan, PLAN_MERGE_NEXT);
  const sizes = address(block, BLOCK_SIZES);
  const x = address(block, BLOCK_X);
  const to = address(block, BLOCK_MLP_X) + row * dimBytes;
  const places = address(block, BLOCK_PLACES);
  let total = sizeOf(sizes, source);
  let down: f32 = 0;
  let across: f32 = 0;
  if (places) {
    down = total * load<f32>(places + source * 8);
    across = total * load<f32>(places + source * 8, 4);
  }
  const first = load<i32>(next + source * 4);
  if (first == 0) memory.copy(to, x + source * dimBytes, dimBytes);
  else addScaled(to, x + source * dimBytes, total, true);
  for (let a = first; a != 0; a = load<i32>(next + a * 4)) {
    const size = sizeOf(sizes, a);
    addScaled(to, x + a * dimBytes, size, false);
    if (places) {
      down += size * load<f32>(places + a * 8);
      across += size * load<f32>(places + a * 8, 4);
    }
    total += size;
  }
  if (first != 0) divide(to, total);
  store<f32>(address(block, BLOCK_MLP_SIZES) + row * 4, total);
  store<f32>(address(block, BLOCK_MLP_LOG_SIZES) + row * 4, load<f32>(address(plan, PLAN_LOGS) + <i32>total * 4));
  if (places) {
    const place = address(block, BLOCK_MLP_PLACES) + row * 8;
    store<f32>(place, down / total);
    store<f32>(place, across / total, 4);
  }
}

// @ts-ignore: decorator
@inline
function sizeOf(sizes: usize, token: i32): f32 {
  return sizes ? load<f32>(sizes + token * 4) : 1;
}

/** to = factor × from, or to += factor × from */
function addScaled(to: usize, from: usize, factor: f32, isFirst: bool): void {
  const factors = f32x4.splat(factor);
  const none = f32x4.splat(0);
  for (let i: usize = 0; i < dimBytes; i += 16) {
    v128.store(to + i, madd(v128.load(from + i), factors, isFirst ? none : v128.load(to + i)));
  }
}

function divide(row: usize, by: f32): void {
  const divisor = f32x4.splat(by);
  for (let i: usize = 0; i < dimBytes; i += 16) v128.store(row + i, f32x4.div(v128.load(row + i), divisor));
}
