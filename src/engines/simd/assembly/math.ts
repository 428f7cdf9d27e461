/** Vector arithmetic with the same names in both binaries. */

/** a × b + c; fused where the binary may. */
// @ts-ignore: decorator
@inline
export function madd(a: v128, b: v128, c: v128): v128 {
  if (ASC_FEATURE_RELAXED_SIMD) return f32x4.relaxed_madd(a, b, c);
  return f32x4.add(f32x4.mul(a, b), c);
}

/**
 * c + the products of 8 outputs' weights and one row's activations, summed in the lanes of 4 outputs:
 * 4 × i8 by 4 × u7 a lane (relaxed), 2 × i16 by 2 × i16 (plain). Neither can overflow.
 */
// @ts-ignore: decorator
@inline
export function dot(weights: v128, activations: v128, c: v128): v128 {
  if (ASC_FEATURE_RELAXED_SIMD) return i32x4.relaxed_dot_i8x16_i7x16_add_s(weights, activations, c);
  return i32x4.add(c, i32x4.dot_i16x8_s(weights, activations));
}

/**
 * c + two steps' worth of the above, their sums meeting in 16 bits (relaxed only).
 * @param ones i16x8, kept in a register by the caller
 */
// @ts-ignore: decorator
@inline
export function addPairs(w0: v128, a0: v128, w1: v128, a1: v128, ones: v128, c: v128): v128 {
  const sums = i16x8.add(i16x8.relaxed_dot_i8x16_i7x16_s(w0, a0), i16x8.relaxed_dot_i8x16_i7x16_s(w1, a1));
  return i32x4.add(c, i32x4.dot_i16x8_s(sums, ones));
}

/**
 * Whether `dot` consists of 16-bit sums here, as on x86 without VNNI. V8 then needs five instructions, so
 * `addPairs` is faster. An operand beyond 7 bits shows it: 16-bit sums saturate, a dot product in one instruction does not.
 */
export function dotSaturates(): bool {
  if (!ASC_FEATURE_RELAXED_SIMD) return false;
  const at = TABLE + 23 * 16; // behind the constants: through memory, or the compiler would answer
  store<i32>(at, 0x7f7f7f7f);
  store<i32>(at, -1, 4);
  return i32x4.extract_lane(dot(v128.load32_splat(at), v128.load32_splat(at, 4), i32x4.splat(0)), 0) == 2 * 32767;
}

/** Adding it rounds to a whole number, which then sits in the low bits: 1.5 × 2²³. */
export const ROUND: f32 = 12582912.0;

// Constants of exp2 and gelu lie in memory, below the plan: V8 builds a constant vector in three instructions at each
// use, but reads one in none.
const TABLE: usize = 64;

export function writeConstants(): void {
  // 2^f on ±½, minimax (our own fit), relative error 7.5e-8
  put(0, ROUND);
  put(1, -126);
  put(2, 0.001327646680004744);
  put(3, 0.009675541293020616);
  put(4, 0.05550713289560171);
  put(5, 0.2402211972487138);
  put(6, 0.6931469670549255);
  put(7, 1.0000000716543644);
  // P and Q of Φ(x) = ½ + x P(x²) / Q(x²), minimax on ±5.4 (our own fit), error 5e-9
  put(8, 2.3386776838659665e-8);
  put(9, 0.000006359963367894461);
  put(10, 0.0001643181537443285);
  put(11, 0.004650829118367025);
  put(12, 0.033371916718992096);
  put(13, 0.3989422453894222);
  put(14, 0.0000012165880453036116);
  put(15, 0.00007239888173986265);
  put(16, 0.0018589615284998336);
  put(17, 0.02837850138333281);
  put(18, 0.2503170793020412);
  put(19, 1);
  put(20, 0.5);
  put(21, 5.4);
  put(22, -5.4);
}

function put(index: i32, value: f32): void {
  v128.store(TABLE + index * 16, f32x4.splat(value));
}

// @ts-ignore: decorator
@inline
function constant(index: i32): v128 {
  return v128.load(TABLE + index * 16);
}

/** 2^t for t ≤ 0. The exponent is added as bits; below −126 the result is 2^-126. */
// @ts-ignore: decorator
@inline
export function exp2(t: v128): v128 {
  t = f32x4.pmax(constant(1), t);
  const whole = f32x4.add(t, constant(0));
  const f = f32x4.sub(t, f32x4.sub(whole, constant(0)));
  let p = madd(f, constant(2), constant(3));
  p = madd(p, f, constant(4));
  p = madd(p, f, constant(5));
  p = madd(p, f, constant(6));
  p = madd(p, f, constant(7));
  return i32x4.add(p, i32x4.shl(whole, 23));
}

/** x Φ(x), Φ being 0 or 1 within 4e-8 beyond ±5.4. */
// @ts-ignore: decorator
@inline
export function gelu(x: v128): v128 {
  const c = f32x4.pmax(constant(22), f32x4.pmin(constant(21), x));
  const u = f32x4.mul(c, c);
  let p = madd(u, constant(8), constant(9));
  let q = madd(u, constant(14), constant(15));
  p = madd(p, u, constant(10));
  q = madd(q, u, constant(16));
  p = madd(p, u, constant(11));
  q = madd(q, u, constant(17));
  p = madd(p, u, constant(12));
  q = madd(q, u, constant(18));
  p = madd(p, u, constant(13));
  q = madd(q, u, constant(19));
  return f32x4.mul(x, madd(c, f32x4.div(p, q), constant(20)));
}

/** x / (1 + 2^t) for any t: x × the logistic function of −t ln 2. */
// @ts-ignore: decorator
@inline
function logistic(x: v128, t: v128): v128 {
  return f32x4.div(x, f32x4.add(exp2(f32x4.pmin(f32x4.splat(126), t)), f32x4.splat(1)));
}

export const LOG2_E: f32 = 1.4426950408889634;

// @ts-ignore: decorator
@inline
export function silu(x: v128): v128 {
  return logistic(x, f32x4.mul(x, f32x4.splat(-LOG2_E)));
}

// @ts-ignore: decorator
@inline
export function quickGelu(x: v128): v128 {
  return logistic(x, f32x4.mul(x, f32x4.splat(-1.702 * LOG2_E)));
}

/** ½ x (1 + tanh(√(2/π) (x + 0.044715 x³))) = x × the logistic function of twice the tanh's argument. */
// @ts-ignore: decorator
@inline
export function geluTanh(x: v128): v128 {
  const cube = madd(f32x4.mul(x, x), f32x4.splat(0.044715), f32x4.splat(1));
  return logistic(x, f32x4.mul(f32x4.mul(x, cube), f32x4.splat(-2 * 0.7978845608028654 * LOG2_E)));
}

// @ts-ignore: decorator
@inline
export function relu(x: v128): v128 {
  return f32x4.pmax(f32x4.splat(0), x);
}

// @ts-ignore: decorator
@inline
export function lanesMax(v: v128): f32 {
  v = f32x4.pmax(v, v128.shuffle<i32>(v, v, 2, 3, 0, 1));
  v = f32x4.pmax(v, v128.shuffle<i32>(v, v, 1, 0, 3, 2));
  return f32x4.extract_lane(v, 0);
}

// @ts-ignore: decorator
@inline
export function lanesMin(v: v128): f32 {
  v = f32x4.pmin(v, v128.shuffle<i32>(v, v, 2, 3, 0, 1));
  v = f32x4.pmin(v, v128.shuffle<i32>(v, v, 1, 0, 3, 2));
  return f32x4.extract_lane(v, 0);
}

// @ts-ignore: decorator
@inline
export function lanesSum(v: v128): f32 {
  v = f32x4.add(v, v128.shuffle<i32>(v, v, 2, 3, 0, 1));
  v = f32x4.add(v, v128.shuffle<i32>(v, v, 1, 0, 3, 2));
  return f32x4.extract_lane(v, 0);
}
