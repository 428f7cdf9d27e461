/** Stage 0: pixels → the tokens of the first block. */
import {
  ACTIVATION_NONE,
  PLAN_EMBED,
  PLAN_HEIGHT,
  PLAN_PATCH,
  PLAN_PATCH_ROWS,
  PLAN_PATCH_TABLE,
  PLAN_PATCHES,
  PLAN_PIXELS,
  PLAN_PRE_NORM,
  PLAN_PREFIX,
  PLAN_START,
  PLAN_WIDTH,
  PLAN_X,
} from "../layout";
import { call } from "./calls";
import { linearPhase } from "./linear";
import { dim, dimBytes, plan } from "./model";
import { normRow } from "./norm";
import { claim, closePhase, openPhase, share } from "./sync";
import { address, word } from "./words";

/** Kept patches only; rows of `x` are tokens of the first block, the prefix first. */
export function embed(): void {
  const patches = word(plan, PLAN_PATCHES);
  const rows = address(plan, PLAN_PATCH_ROWS);
  const size = word(plan, PLAN_PATCH);
  const x = address(plan, PLAN_X);
  const start = address(plan, PLAN_START);
  const prefix: usize = word(plan, PLAN_PREFIX) * dimBytes;
  unfoldPhase(patches, rows, x, start, prefix);
  call.linear = plan + PLAN_EMBED * 4;
  call.x = rows;
  call.xStride = size * size * 12;
  call.rows = patches;
  call.dst = x + prefix;
  call.dstStride = dimBytes;
  call.residual = start + prefix;
  call.activation = ACTIVATION_NONE;
  linearPhase(call);
  const norm = address(plan, PLAN_PRE_NORM);
  if (norm) normPatchesPhase(norm, x + prefix, patches);
}

function unfoldPhase(patches: i32, rows: usize, x: usize, start: usize, prefix: usize): void {
  const size = word(plan, PLAN_PATCH);
  const table = address(plan, PLAN_PATCH_TABLE);
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
}

/** One patch's pixels as a row: [3, size, size]. */
function unfold(first: usize, to: usize, size: i32): void {
  const width = word(plan, PLAN_WIDTH);
  const area = word(plan, PLAN_HEIGHT) * width;
  const pixels = address(plan, PLAN_PIXELS) + first;
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

function normPatchesPhase(norm: usize, x: usize, rows: i32): void {
  const each = share(rows, 4);
  const items = (rows + each - 1) / each;
  openPhase();
  for (let item = claim(); item < items; item = claim()) {
    const end = min(rows, (item + 1) * each);
    for (let r = item * each; r < end; r++) normRow(norm, x + r * dimBytes, x + r * dimBytes, dim);
  }
  closePhase(items);
}
