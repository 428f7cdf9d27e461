/**
 * The arguments of the matrix products: records in memory, one of each for each thread, whose fields are set by name.
 */
import { CALL_BYTES, PLAN_SCRATCH, PLAN_SCRATCH_BYTES, PLAN_SCRATCH_PANEL } from "../layout";

/** Some rows times one panel of 8 outputs: dst[row][8] = x[row] Wᵀ + bias + residual[row]. */
@unmanaged
export class TileCall {
  x: usize;
  xStride: usize; // bytes, as are the strides below
  weight: usize; // the panel
  steps: i32; // groups of inputs in it: of 1 input (f32), of 4 or 2 (int8)
  bias: usize; // [8]
  dst: usize;
  dstStride: usize;
  residual: usize; // 0 for none; its stride is dst's, and it may be dst itself
  scale: usize; // int8 alone, as are those below: [8], of each output's weights
  sum: usize; // [8]: scale × the sum of each output's weights
  ranges: usize; // [rows][scale, min] of x
  pairs: bool; // whether sums of 16 bits hold the panel's products (pack.ts)
}

/** Some rows times a linear. The host's benchmark writes one, too: LINEAR_CALL_ in layout.ts names the fields in this order. */
@unmanaged
export class LinearCall {
  linear: usize; // its LINEAR_ words
  x: usize; // [rows][inputs], quantised already where the linear is int8
  xStride: usize;
  ranges: usize; // [rows][scale, min] of an int8 linear's x
  rows: i32;
  dst: usize;
  dstStride: usize;
  residual: usize; // 0 for none; its stride is dst's
  activation: i32; // one of ACTIVATION_
}

/** This thread's records, and the two parts of its scratch behind them. */
export let tile: TileCall = changetype<TileCall>(0);
export let call: LinearCall = changetype<LinearCall>(0);
export let strips: usize = 0; // attention's scores, or rows of one panel's outputs on their way elsewhere
export let widened: usize = 0; // one panel of narrow weights as they are multiplied

/** Sets this thread's addresses. Each thread has CALL_BYTES twice, then its scratch. */
export function takeScratch(plan: usize, thread: i32): void {
  const at = load<i32>(plan, PLAN_SCRATCH * 4) + thread * load<i32>(plan, PLAN_SCRATCH_BYTES * 4);
  tile = changetype<TileCall>(at);
  call = changetype<LinearCall>(at + CALL_BYTES);
  strips = at + 2 * CALL_BYTES;
  widened = at + load<i32>(plan, PLAN_SCRATCH_PANEL * 4);
}
