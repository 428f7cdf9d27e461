/** The last stage: the tokens of the last block → features, and logits if there is a head (src/reference/pooling.ts). */
import {
  ACTIVATION_NONE,
  BLOCK_MLP_LOG_SIZES,
  BLOCK_MLP_ROWS,
  BLOCK_MLP_SIZES,
  BLOCK_MLP_X,
  INT8,
  LINEAR_INPUTS,
  LINEAR_KIND,
  LINEAR_PANELS,
  PLAN_CLASS_ROWS,
  PLAN_CLASSIFIED,
  PLAN_COSINE,
  PLAN_FEATURE_DIM,
  PLAN_FEATURES,
  PLAN_HEAD,
  PLAN_HEAD2,
  PLAN_LOGITS,
  PLAN_LOGITS2,
  PLAN_POOL_ACTIVATION,
  PLAN_POOL_FC1,
  PLAN_POOL_FC2,
  PLAN_POOL_HEADS,
  PLAN_POOL_HIDDEN,
  PLAN_POOL_MIXED,
  PLAN_POOL_NORM,
  PLAN_POOL_NORMED,
  PLAN_POOL_PANELS,
  PLAN_POOL_PROJ,
  PLAN_POOL_QUERY,
  PLAN_POOL_V,
  PLAN_POOL_VALUES,
  PLAN_POOLED,
  PLAN_POOLED_DIM,
  PLAN_POOLED_NORM,
  PLAN_POOLING,
  PLAN_PREFIX,
  PLAN_PROJECTED,
  PLAN_PROJECTION,
  PLAN_SCORE_SCALE,
  PLAN_TOKEN_NORM,
  PLAN_UNIT,
  POOL_CLASS,
  POOL_CLASS_MEAN,
  POOL_MAP,
} from "../layout";
import { softmaxRow } from "./attention";
import { call, strips } from "./calls";
import { linearPanel, linearPhase } from "./linear";
import { lanesSum, LOG2_E, madd } from "./math";
import { dim, dimBytes, normed, plan, quantised, ranges } from "./model";
import { normRow, quantisedStride, quantiseRow } from "./norm";
import { claim, closePhase, openPhase, share } from "./sync";
import { address, float, word } from "./words";

export function classify(last: usize): void {
  const pooling = word(plan, PLAN_POOLING);
  const pooled = address(plan, PLAN_POOLED);
  const features = address(plan, PLAN_FEATURES);
  if (pooling == POOL_CLASS) tokensPhase(last, word(plan, PLAN_CLASS_ROWS), pooled);
  else {
    tokensPhase(last, word(last, BLOCK_MLP_ROWS), normed);
    if (pooling == POOL_MAP) attentionPool(last, pooled);
    else meanPhase(last, pooled, pooling == POOL_CLASS_MEAN);
  }
  const norm = address(plan, PLAN_POOLED_NORM);
  if (norm) vectorNormPhase(norm, pooled, pooled, word(plan, PLAN_POOLED_DIM));
  if (word(plan, PLAN_PROJECTED)) vectorPhase(plan + PLAN_PROJECTION * 4, pooled, features);
  if (word(plan, PLAN_CLASSIFIED) == 0) return;
  headPhase(plan + PLAN_HEAD * 4, features, address(plan, PLAN_LOGITS));
  const distilled = address(plan, PLAN_LOGITS2);
  if (distilled) headPhase(plan + PLAN_HEAD2 * 4, features + dimBytes, distilled);
}

/** The first tokens as inputs of the pooling, normed where the network norms tokens. */
function tokensPhase(last: usize, rows: i32, to: usize): void {
  const x = address(last, BLOCK_MLP_X);
  const norm = address(plan, PLAN_TOKEN_NORM);
  const each = share(rows, 4);
  const items = (rows + each - 1) / each;
  openPhase();
  for (let item = claim(); item < items; item = claim()) {
    const end = min(rows, (item + 1) * each);
    for (let r = item * each; r < end; r++) {
      const from = x + r * dimBytes;
      if (norm) normRow(norm, from, to + r * dimBytes, dim);
      else memory.copy(to + r * dimBytes, from, dimBytes);
    }
  }
  closePhase(items);
}

/** The mean of the patches, weighted by their sizes; beside the class token where the network pools both. */
function meanPhase(last: usize, pooled: usize, besideClass: bool): void {
  const prefix = word(plan, PLAN_PREFIX);
  const rows = word(last, BLOCK_MLP_ROWS) - prefix;
  const sizes = address(last, BLOCK_MLP_SIZES);
  openPhase();
  for (let item = claim(); item < 1; item = claim()) {
    let total: f32 = <f32>rows;
    if (sizes) {
      total = 0;
      for (let r = 0; r < rows; r++) total += load<f32>(sizes + (prefix + r) * 4);
    }
    memory.fill(strips, 0, dimBytes);
    for (let r = 0; r < rows; r++) {
      const size: f32 = sizes ? load<f32>(sizes + (prefix + r) * 4) : 1;
      addScaled(strips, normed + (prefix + r) * dimBytes, size);
    }
    scale(strips, 1 / total);
    const bytes: usize = dim * 4;
    if (besideClass) memory.copy(pooled, normed, bytes);
    memory.copy(besideClass ? pooled + bytes : pooled, strips, besideClass ? bytes : dimBytes);
  }
  closePhase(1);
}

/**
 * Each head of a constant query attends over the patches. Values are linear in the tokens, so the mean over tokens
 * comes first and the values' linear runs on one row a head: D² products in all, instead of D² for each token. Then y +
 * fc2(act(fc1(norm(y)))).
 */
function attentionPool(last: usize, pooled: usize): void {
  const heads = word(plan, PLAN_POOL_HEADS);
  const mixed = address(plan, PLAN_POOL_MIXED);
  const values = address(plan, PLAN_POOL_VALUES);
  const between = address(plan, PLAN_POOL_NORMED);
  const hidden = address(plan, PLAN_POOL_HIDDEN);
  openPhase();
  for (let head = claim(); head < heads; head = claim()) poolHead(last, head, mixed + head * dimBytes);
  closePhase(heads);
  poolValuesPhase(mixed, values);
  vectorPhase(plan + PLAN_POOL_PROJ * 4, values, pooled);
  vectorNormPhase(address(plan, PLAN_POOL_NORM), pooled, between, dim);
  vectorPhase(plan + PLAN_POOL_FC1 * 4, between, hidden, 0, word(plan, PLAN_POOL_ACTIVATION));
  vectorPhase(plan + PLAN_POOL_FC2 * 4, hidden, pooled, pooled);
}

function poolHead(last: usize, head: i32, to: usize): void {
  const prefix = word(plan, PLAN_PREFIX);
  const rows = word(last, BLOCK_MLP_ROWS) - prefix;
  const logs = address(last, BLOCK_MLP_LOG_SIZES);
  const query = address(plan, PLAN_POOL_QUERY) + head * dimBytes;
  const x = normed + prefix * dimBytes;
  const padded = (rows + 7) & ~7;
  for (let r = 0; r < rows; r++) {
    let sums = f32x4.splat(0);
    for (let i: usize = 0; i < dimBytes; i += 16) {
      sums = madd(v128.load(x + r * dimBytes + i), v128.load(query + i), sums);
    }
    let score = lanesSum(sums);
    if (logs) score += load<f32>(logs + (prefix + r) * 4) * float(plan, PLAN_SCORE_SCALE);
    store<f32>(strips + r * 4, score);
  }
  for (let r = rows; r < padded; r++) store<f32>(strips + r * 4, -1e30);
  const total = softmaxRow(strips, padded * 4, LOG2_E);
  memory.fill(to, 0, dimBytes);
  for (let r = 0; r < rows; r++) addScaled(to, x + r * dimBytes, load<f32>(strips + r * 4));
  scale(to, 1 / total);
}

/** Computes each panel of values from its head's mean of tokens. */
function poolValuesPhase(mixed: usize, values: usize): void {
  const linear = plan + PLAN_POOL_V * 4;
  const panels = word(linear, LINEAR_PANELS);
  const ofHead = word(plan, PLAN_POOL_PANELS);
  call.linear = linear;
  call.xStride = 0;
  call.rows = 1;
  call.dstStride = 0;
  call.residual = 0;
  openPhase();
  for (let panel = claim(); panel < panels; panel = claim()) {
    call.x = mixed + (panel / ofHead) * dimBytes;
    call.dst = values + panel * 32;
    linearPanel(call, panel);
  }
  closePhase(panels);
}

function vectorNormPhase(norm: usize, from: usize, to: usize, width: i32): void {
  openPhase();
  for (let item = claim(); item < 1; item = claim()) normRow(norm, from, to, width);
  closePhase(1);
}

/** A linear of one row, which is quantised first where the linear is int8. */
function vectorPhase(linear: usize, from: usize, to: usize, residual: usize = 0, activation: i32 = ACTIVATION_NONE): void {
  const int8 = word(linear, LINEAR_KIND) == INT8;
  if (int8) {
    openPhase();
    for (let item = claim(); item < 1; item = claim()) quantiseRow(from, word(linear, LINEAR_INPUTS), quantised, ranges);
    closePhase(1);
  }
  call.linear = linear;
  call.x = int8 ? quantised : from;
  call.xStride = 0;
  call.ranges = ranges;
  call.rows = 1;
  call.dst = to;
  call.dstStride = 0;
  call.residual = residual;
  call.activation = activation;
  linearPhase(call);
}

/** With a cosine head the features are divided by their length first. */
function headPhase(head: usize, features: usize, logits: usize): void {
  if (word(plan, PLAN_COSINE) == 0) {
    vectorPhase(head, features, logits);
    return;
  }
  const unit = address(plan, PLAN_UNIT);
  const bytes: usize = ((word(plan, PLAN_FEATURE_DIM) + 7) & ~7) * 4;
  openPhase();
  for (let item = claim(); item < 1; item = claim()) {
    let sums = f32x4.splat(0);
    for (let i: usize = 0; i < bytes; i += 16) sums = madd(v128.load(features + i), v128.load(features + i), sums);
    const length = f32x4.splat(max<f32>(sqrt<f32>(lanesSum(sums)), 1e-12));
    for (let i: usize = 0; i < bytes; i += 16) v128.store(unit + i, f32x4.div(v128.load(features + i), length));
  }
  closePhase(1);
  vectorPhase(head, unit, logits);
}

/** to += factor × from, rows of dim */
function addScaled(to: usize, from: usize, factor: f32): void {
  const factors = f32x4.splat(factor);
  for (let i: usize = 0; i < dimBytes; i += 16) {
    v128.store(to + i, madd(v128.load(from + i), factors, v128.load(to + i)));
  }
}

function scale(row: usize, by: f32): void {
  const factors = f32x4.splat(by);
  for (let i: usize = 0; i < dimBytes; i += 16) v128.store(row + i, f32x4.mul(v128.load(row + i), factors));
}
