/** Vector arithmetic that the two binaries share by name. */

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

/** Adding it rounds to a whole number, which then sits in the low bits: 1.5 × 2²³. */
export const ROUND: f32 = 12582912.0;

/**
 * 2^t for t ≤ 0, relative error 1e-7. Minimax polynomial on ±½ (our own fit), exponent added as bits.
 * Below −126 the result is 2^-126.
 */
// @ts-ignore: decorator
@inline
export function exp2(t: v128): v128 {
  t = f32x4.max(t, f32x4.splat(-126));
  const whole = f32x4.add(t, f32x4.splat(ROUND));
  const f = f32x4.sub(t, f32x4.sub(whole, f32x4.splat(ROUND)));
  let p = madd(f, f32x4.splat(0.001327646680004744), f32x4.splat(0.009675541293020616));
  p = madd(p, f, f32x4.splat(0.05550713289560171));
  p = madd(p, f, f32x4.splat(0.2402211972487138));
  p = madd(p, f, f32x4.splat(0.6931469670549255));
  p = madd(p, f, f32x4.splat(1.0000000716543644));
  return i32x4.add(p, i32x4.shl(whole, 23));
}

/**
 * x Φ(x) with Φ(x) = ½ + x P(x²) / Q(x²) up to |x| = 5.4, where Φ is 0 or 1 within 4e-8: minimax (our own fit), error
 * of Φ 5e-9 before rounding.
 */
// @ts-ignore: decorator
@inline
export function gelu(x: v128): v128 {
  const c = f32x4.max(f32x4.min(x, f32x4.splat(5.4)), f32x4.splat(-5.4));
  const u = f32x4.mul(c, c);
  let p = madd(u, f32x4.splat(2.3386776838659665e-8), f32x4.splat(0.000006359963367894461));
  let q = madd(u, f32x4.splat(0.0000012165880453036116), f32x4.splat(0.00007239888173986265));
  p = madd(p, u, f32x4.splat(0.0001643181537443285));
  q = madd(q, u, f32x4.splat(0.0018589615284998336));
  p = madd(p, u, f32x4.splat(0.004650829118367025));
  q = madd(q, u, f32x4.splat(0.02837850138333281));
  p = madd(p, u, f32x4.splat(0.033371916718992096));
  q = madd(q, u, f32x4.splat(0.2503170793020412));
  p = madd(p, u, f32x4.splat(0.3989422453894222));
  q = madd(q, u, f32x4.splat(1));
  const phi = madd(c, f32x4.div(p, q), f32x4.splat(0.5));
  return f32x4.mul(x, phi);
}

// @ts-ignore: decorator
@inline
export function lanesMax(v: v128): f32 {
  v = f32x4.max(v, v128.shuffle<i32>(v, v, 2, 3, 0, 1));
  v = f32x4.max(v, v128.shuffle<i32>(v, v, 1, 0, 3, 2));
  return f32x4.extract_lane(v, 0);
}

// @ts-ignore: decorator
@inline
export function lanesMin(v: v128): f32 {
  v = f32x4.min(v, v128.shuffle<i32>(v, v, 2, 3, 0, 1));
  v = f32x4.min(v, v128.shuffle<i32>(v, v, 1, 0, 3, 2));
  return f32x4.extract_lane(v, 0);
}

// @ts-ignore: decorator
@inline
export function lanesSum(v: v128): f32 {
  v = f32x4.add(v, v128.shuffle<i32>(v, v, 2, 3, 0, 1));
  v = f32x4.add(v, v128.shuffle<i32>(v, v, 1, 0, 3, 2));
  return f32x4.extract_lane(v, 0);
}
