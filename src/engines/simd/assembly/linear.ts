/**
 * Linears: rows of activations times panels of 8 outputs. Threads share the work by panels, and all rows are multiplied
 * with a panel at once.
 */
import {
  ACTIVATION_GELU,
  ACTIVATION_GELU_TANH,
  ACTIVATION_NONE,
  ACTIVATION_QUICK_GELU,
  ACTIVATION_RELU,
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
import { floatRows, int8Rows } from "../generated/tiles";
import { LinearCall, strips, tile, widened } from "./calls";
import { dotSaturates, gelu, geluTanh, quickGelu, relu, silu } from "./math";
import { claim, closePhase, openPhase, share } from "./sync";
import { address, word } from "./words";

/** Whether `addPairs` is the faster product here. */
export let saturates: bool = false;

/** Finds out how this machine computes the dot product. */
export function chooseProduct(): void {
  saturates = dotSaturates();
}

/** One panel: dst[row][8]. Narrow weights are widened once a panel, not once a tile. */
export function linearPanel(call: LinearCall, panel: i32): void {
  const linear = call.linear;
  const kind = word(linear, LINEAR_KIND);
  const steps = word(linear, LINEAR_STEPS);
  const weight = address(linear, LINEAR_WEIGHT) + panel * address(linear, LINEAR_PANEL_BYTES);
  tile.x = call.x;
  tile.xStride = call.xStride;
  tile.weight = weight;
  tile.steps = steps;
  tile.bias = address(linear, LINEAR_BIAS) + panel * 32;
  tile.dst = call.dst;
  tile.dstStride = call.dstStride;
  tile.residual = call.residual;
  if (kind == INT8) {
    if (!ASC_FEATURE_RELAXED_SIMD) {
      widenInt8(weight, widened, steps);
      tile.weight = widened;
    }
    const sums = address(linear, LINEAR_SUM);
    tile.scale = address(linear, LINEAR_SCALE) + panel * 32;
    tile.sum = sums + panel * 32;
    tile.ranges = call.ranges;
    tile.pairs = saturates && load<i32>(sums + word(linear, LINEAR_PANELS) * 32 + panel * 4) != 0;
    int8Rows(tile, call.rows);
    return;
  }
  if (kind == F16) {
    widenF16(weight, widened, steps);
    tile.weight = widened;
  }
  floatRows(tile, call.rows);
}

/** A phase: a whole linear, dst[rows][out] = x Wᵀ + b, then the residual or the activation. Leaves `dst` and `residual` elsewhere. */
export function linearPhase(call: LinearCall): void {
  const panels = word(call.linear, LINEAR_PANELS);
  const dst = call.dst;
  const residual = call.residual;
  const each = share(panels, 1);
  const items = (panels + each - 1) / each;
  openPhase();
  for (let item = claim(); item < items; item = claim()) {
    const end = min(panels, (item + 1) * each);
    for (let panel = item * each; panel < end; panel++) {
      call.dst = dst + panel * 32;
      if (residual) call.residual = residual + panel * 32;
      linearPanel(call, panel);
      activateStrip(call.activation, call.dst, call.dstStride, call.rows);
    }
  }
  closePhase(items);
}

/**
 * A phase: the first linear of a SwiGLU MLP, dst[rows][out / 2] = act(gates) × values. The panels of its first half are
 * gates, those of the second half values.
 */
export function gatedPhase(call: LinearCall): void {
  const panels = word(call.linear, LINEAR_PANELS) >> 1;
  const dst = call.dst;
  const dstStride = call.dstStride;
  const each = share(panels, 1);
  const items = (panels + each - 1) / each;
  openPhase();
  for (let item = claim(); item < items; item = claim()) {
    const end = min(panels, (item + 1) * each);
    for (let panel = item * each; panel < end; panel++) {
      const gates = dst + panel * 32;
      call.dst = gates;
      call.dstStride = dstStride;
      linearPanel(call, panel);
      activateStrip(call.activation, gates, dstStride, call.rows);
      call.dst = strips;
      call.dstStride = 32;
      linearPanel(call, panels + panel);
      multiplyStrip(gates, dstStride, strips, call.rows);
    }
  }
  closePhase(items);
}

/** Applies the activation to a strip of 8 channels that was just written and is still in the first-level cache. */
export function activateStrip(activation: i32, p: usize, stride: usize, rows: i32): void {
  if (activation == ACTIVATION_NONE) return;
  if (activation == ACTIVATION_GELU) {
    for (let r = 0; r < rows; r++, p += stride) {
      v128.store(p, gelu(v128.load(p)));
      v128.store(p, gelu(v128.load(p, 16)), 16);
    }
    return;
  }
  for (let r = 0; r < rows; r++, p += stride) {
    v128.store(p, activate(activation, v128.load(p)));
    v128.store(p, activate(activation, v128.load(p, 16)), 16);
  }
}

function activate(activation: i32, x: v128): v128 {
  if (activation == ACTIVATION_GELU_TANH) return geluTanh(x);
  if (activation == ACTIVATION_QUICK_GELU) return quickGelu(x);
  return activation == ACTIVATION_RELU ? relu(x) : silu(x);
}

/** p[rows][8] ×= by[rows][8] */
function multiplyStrip(p: usize, stride: usize, by: usize, rows: i32): void {
  for (let r = 0; r < rows; r++) {
    v128.store(p, f32x4.mul(v128.load(p), v128.load(by)));
    v128.store(p, f32x4.mul(v128.load(p, 16), v128.load(by, 16)), 16);
    p += stride;
    by += 32;
  }
}

/**
 * [inputs][8] of f16 → f32, subnormals included: the bits moved into place are a float 2^112 too small. The sign is
 * extended first, so that one shift moves it to the top; its copies below are masked away.
 */
function widenF16(from: usize, to: usize, inputs: i32): void {
  const raise = f32x4.splat(reinterpret<f32>((127 + 112) << 23));
  const mask = i32x4.splat(0x8fffe000);
  for (let i = 0; i < inputs * 2; i++) {
    const moved = v128.and(i32x4.shl(v128.load_ext<i16>(from), 13), mask);
    v128.store(to, f32x4.mul(moved, raise));
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
