/** Linears: rows of activations times panels of 8 outputs. Panels are what threads share; all rows meet each panel once. */
import {
  F16,
  INT8,
  LINEAR_BIAS,
  LINEAR_KIND,
  LINEAR_PANEL_BYTES,
  LINEAR_PANELS,
  LINEAR_SCALE,
  LINEAR_STEPS,
  LINEAR_SUM,
  LINEAR_WEIGHT,
} from "../layout";
import { dotSaturates, gelu } from "./math";
import { claim, closePhase, openPhase, share } from "./sync";
import { floatRows, int8Rows } from "./tiles";

/** Whether `addPairs` is the faster product here. */
export let saturates: bool = false;

/** Asks what this machine's dot product is made of. */
export function chooseProduct(): void {
  saturates = dotSaturates();
}

/**
 * One panel: dst[row][8] from x[row][inputs].
 * @param ranges [rows][scale, min] of an int8 linear's x
 * @param scratch room for one widened panel: narrow weights are widened once a panel, not once a tile
 */
export function linearPanel(
  linear: usize,
  panel: i32,
  x: usize,
  xStride: usize,
  ranges: usize,
  rows: i32,
  dst: usize,
  dstStride: usize,
  residual: usize,
  scratch: usize,
): void {
  const kind = load<i32>(linear, LINEAR_KIND * 4);
  const steps = load<i32>(linear, LINEAR_STEPS * 4);
  let weight: usize = load<i32>(linear, LINEAR_WEIGHT * 4) + panel * load<i32>(linear, LINEAR_PANEL_BYTES * 4);
  const bias: usize = load<i32>(linear, LINEAR_BIAS * 4) + panel * 32;
  if (kind == INT8) {
    if (!ASC_FEATURE_RELAXED_SIMD) {
      widenInt8(weight, scratch, steps);
      weight = scratch;
    }
    const scale: usize = load<i32>(linear, LINEAR_SCALE * 4) + panel * 32;
    const sums: usize = load<i32>(linear, LINEAR_SUM * 4);
    const sum = sums + panel * 32;
    const pairs = saturates && load<i32>(sums + load<i32>(linear, LINEAR_PANELS * 4) * 32 + panel * 4) != 0;
    int8Rows(x, xStride, weight, steps, bias, dst, dstStride, residual, rows, scale, sum, ranges, pairs);
    return;
  }
  if (kind == F16) {
    widenF16(weight, scratch, steps);
    weight = scratch;
  }
  floatRows(x, xStride, weight, steps, bias, dst, dstStride, residual, rows);
}

/** A phase: a whole linear, dst[rows][out] = x Wᵀ + b, then the residual or GELU. */
export function linearPhase(
  linear: usize,
  x: usize,
  xStride: usize,
  ranges: usize,
  rows: i32,
  dst: usize,
  dstStride: usize,
  residual: usize,
  withGelu: bool,
  scratch: usize,
): void {
  const panels = load<i32>(linear, LINEAR_PANELS * 4);
  const each = share(panels, 1);
  const items = (panels + each - 1) / each;
  openPhase();
  for (let item = claim(); item < items; item = claim()) {
    const end = min(panels, (item + 1) * each);
    for (let panel = item * each; panel < end; panel++) {
      const to = dst + panel * 32;
      linearPanel(linear, panel, x, xStride, ranges, rows, to, dstStride, residual && residual + panel * 32, scratch);
      if (withGelu) geluStrip(to, dstStride, rows);
    }
  }
  closePhase(items);
}

/** GELU of a strip of 8 channels that has just been written, so is still in the first cache. */
function geluStrip(p: usize, stride: usize, rows: i32): void {
  for (let r = 0; r < rows; r++) {
    v128.store(p, gelu(v128.load(p)));
    v128.store(p, gelu(v128.load(p, 16)), 16);
    p += stride;
  }
}

/** [inputs][8] of f16 → f32, subnormals included: the bits moved into place are a float 2^112 too small. */
function widenF16(from: usize, to: usize, inputs: i32): void {
  const raise = f32x4.splat(reinterpret<f32>((127 + 112) << 23));
  for (let i = 0; i < inputs * 2; i++) {
    const half = v128.load_ext<u16>(from);
    const sign = i32x4.shl(v128.and(half, i32x4.splat(0x8000)), 16);
    const rest = f32x4.mul(i32x4.shl(v128.and(half, i32x4.splat(0x7fff)), 13), raise);
    v128.store(to, v128.or(rest, sign));
    from += 8;
    to += 16;
  }
}

/** [inputs / 2][8][2] of i8 → i16 */
function widenInt8(from: usize, to: usize, steps: i32): void {
  for (let i = 0; i < steps * 2; i++) {
    v128.store(to, v128.load_ext<i8>(from));
    from += 8;
    to += 16;
  }
}
