/**
 * Row operations: LayerNorm, the quantisation of activations, and the packing of keys, which are the weights of a
 * product.
 */
import { NORM_BYTES, NORM_DENSE_DIM, NORM_EPS, NORM_WEIGHTS } from "../layout";
import { lanesMax, lanesMin, lanesSum, madd, ROUND } from "./math";
import { address, float, word } from "./words";

/**
 * LayerNorm of one row, or of a part of it.
 *
 * @param norm its NORM_ words
 * @param x [dim], zeros up to the next multiple of 8
 * @param y the same; it may be x
 * @param dim channels that are left
 * @param offset of the part's weights, in bytes
 */
export function normRow(norm: usize, x: usize, y: usize, dim: i32, offset: usize = 0): void {
  const dense = <f32>word(norm, NORM_DENSE_DIM);
  const weight = norm + NORM_WEIGHTS * 4 + offset;
  const bias = weight + address(norm, NORM_BYTES);
  const whole: usize = (dim & ~3) * 4;
  const bytes: usize = dim * 4;
  const padded: usize = ((dim + 7) & ~7) * 4;
  let sums = f32x4.splat(0);
  for (let i: usize = 0; i < padded; i += 16) sums = f32x4.add(sums, v128.load(x + i));
  const mean = lanesSum(sums) / dense;
  const means = f32x4.splat(mean);
  sums = f32x4.splat(0);
  for (let i: usize = 0; i < whole; i += 16) {
    const d = f32x4.sub(v128.load(x + i), means);
    sums = madd(d, d, sums);
  }
  let variance = lanesSum(sums) + (dense - <f32>dim) * mean * mean; // channels that were cut are zeros
  for (let i = whole; i < bytes; i += 4) {
    const d = load<f32>(x + i) - mean;
    variance += d * d;
  }
  const inverse = f32x4.splat(1 / sqrt<f32>(variance / dense + float(norm, NORM_EPS)));
  for (let i: usize = 0; i < padded; i += 16) {
    const d = f32x4.mul(f32x4.sub(v128.load(x + i), means), inverse);
    v128.store(y + i, madd(d, v128.load(weight + i), v128.load(bias + i)));
  }
}

/**
 * x ≈ scale × q + min with q in 0..127: seven bits, because the relaxed dot product is only defined for those. The range
 * runs from the row's least value to its greatest (0 included), so GELU's outputs, hardly ever negative, use all of it.
 *
 * @param x [inputs, padded to 8 with zeros]
 * @param q u8 (relaxed) or i16 (plain)
 * @param range receives scale, min
 */
export function quantiseRow(x: usize, inputs: i32, q: usize, range: usize): void {
  const padded: usize = ((inputs + 7) & ~7) * 4;
  let most = f32x4.splat(0);
  let least = f32x4.splat(0);
  for (let i: usize = 0; i < padded; i += 16) {
    const v = v128.load(x + i);
    most = f32x4.pmax(most, v);
    least = f32x4.pmin(least, v);
  }
  const min = lanesMin(least);
  const width = lanesMax(most) - min;
  const inverse: f32 = width > 1e-30 ? 127 / width : 0;
  store<f32>(range, width / 127);
  store<f32>(range, min, 4);
  const factor = f32x4.splat(inverse);
  const offset = f32x4.splat(-min * inverse);
  const round = f32x4.splat(ROUND);
  const bits = i32x4.splat(reinterpret<i32>(ROUND));
  for (let i: usize = 0; i < padded; i += 32) {
    const low = i32x4.sub(f32x4.add(madd(v128.load(x + i), factor, offset), round), bits);
    const high = i32x4.sub(f32x4.add(madd(v128.load(x + i, 16), factor, offset), round), bits);
    const words = i16x8.narrow_i32x4_s(low, high);
    if (ASC_FEATURE_RELAXED_SIMD) {
      v128.store_lane<i64>(q, i8x16.narrow_i16x8_u(words, words), 0);
      q += 8;
    } else {
      v128.store(q, words);
      q += 16;
    }
  }
}

/** Bytes from one quantised row to the next. */
// @ts-ignore: decorator
@inline
export function quantisedStride(inputs: i32): usize {
  return ASC_FEATURE_RELAXED_SIMD ? (inputs + 7) & ~7 : ((inputs + 7) & ~7) * 2;
}

/** Levels of a key on either side of 0: four of one sign are within what `addPairs` can take, so any keys are. */
const KEY_LEVELS: f32 = 64;

/**
 * Quantises a panel of keys, [wide][8 tokens] of f32, in place to the layout of an int8 linear's panel: [wide /
 * 4][8][4] of i8 (relaxed) or [wide / 2][8][2] of i16 (plain), then each token's scale, then scale × the sum of its
 * numbers.
 *
 * @param wide channels of the head, padded to 8 with zeros
 */
export function quantiseKeys(panel: usize, wide: i32): void {
  const end: usize = panel + wide * 32;
  let most0 = f32x4.splat(0);
  let most1 = most0;
  for (let at = panel; at < end; at += 32) {
    most0 = f32x4.pmax(most0, f32x4.abs(v128.load(at)));
    most1 = f32x4.pmax(most1, f32x4.abs(v128.load(at, 16)));
  }
  const steps = f32x4.splat(KEY_LEVELS);
  const least = f32x4.splat(1e-30);
  const inverse0 = f32x4.div(steps, f32x4.pmax(least, most0));
  const inverse1 = f32x4.div(steps, f32x4.pmax(least, most1));
  let sum0 = i32x4.splat(0);
  let sum1 = sum0;
  let to = panel;
  for (let at = panel; at < end; to += 32) {
    const a0 = whole(at, inverse0), a1 = whole(at + 16, inverse1);
    const b0 = whole(at + 32, inverse0), b1 = whole(at + 48, inverse1);
    sum0 = i32x4.add(sum0, i32x4.add(a0, b0));
    sum1 = i32x4.add(sum1, i32x4.add(a1, b1));
    if (ASC_FEATURE_RELAXED_SIMD) {
      const c0 = whole(at + 64, inverse0), c1 = whole(at + 80, inverse1);
      const d0 = whole(at + 96, inverse0), d1 = whole(at + 112, inverse1);
      sum0 = i32x4.add(sum0, i32x4.add(c0, d0));
      sum1 = i32x4.add(sum1, i32x4.add(c1, d1));
      v128.store(to, bytes(a0, b0, c0, d0));
      v128.store(to, bytes(a1, b1, c1, d1), 16);
      at += 128;
    } else {
      v128.store(to, words(a0, b0));
      v128.store(to, words(a1, b1), 16);
      at += 64;
    }
  }
  const scale0 = f32x4.div(most0, steps);
  const scale1 = f32x4.div(most1, steps);
  v128.store(to, scale0);
  v128.store(to, scale1, 16);
  v128.store(to, f32x4.mul(f32x4.convert_i32x4_s(sum0), scale0), 32);
  v128.store(to, f32x4.mul(f32x4.convert_i32x4_s(sum1), scale1), 48);
}

/** Bytes of a panel of quantised keys, the scales after them left out. */
// @ts-ignore: decorator
@inline
export function quantisedKeys(wide: i32): usize {
  return wide * (ASC_FEATURE_RELAXED_SIMD ? 8 : 16);
}

// @ts-ignore: decorator
@inline
function whole(at: usize, inverse: v128): v128 {
  const rounded = f32x4.add(f32x4.mul(v128.load(at), inverse), f32x4.splat(ROUND));
  return i32x4.sub(rounded, i32x4.splat(reinterpret<i32>(ROUND)));
}

// @ts-ignore: decorator
@inline
function words(a: v128, b: v128): v128 {
  return v128.or(v128.and(a, i32x4.splat(0xffff)), i32x4.shl(b, 16));
}

// @ts-ignore: decorator
@inline
function bytes(a: v128, b: v128, c: v128, d: v128): v128 {
  const low = i32x4.splat(0xff);
  const lower = v128.or(v128.and(a, low), i32x4.shl(v128.and(b, low), 8));
  return v128.or(lower, i32x4.shl(v128.or(v128.and(c, low), i32x4.shl(d, 8)), 16));
}
