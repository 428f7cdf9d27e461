/** What is done a row at a time: LayerNorm and the quantisation of activations. */
import { lanesMax, lanesMin, lanesSum, madd, ROUND } from "./math";

/**
 * @param x [dim], zeros up to the next multiple of 8
 * @param y the same, weight and bias being padded with zeros
 */
export function layerNorm(x: usize, y: usize, dim: i32, eps: f32, weight: usize, bias: usize): void {
  const whole: usize = (dim & ~3) * 4;
  const bytes: usize = dim * 4;
  const padded: usize = ((dim + 7) & ~7) * 4;
  let sums = f32x4.splat(0);
  for (let i: usize = 0; i < padded; i += 16) sums = f32x4.add(sums, v128.load(x + i));
  const mean = lanesSum(sums) / <f32>dim;
  const means = f32x4.splat(mean);
  sums = f32x4.splat(0);
  for (let i: usize = 0; i < whole; i += 16) {
    const d = f32x4.sub(v128.load(x + i), means);
    sums = madd(d, d, sums);
  }
  let variance = lanesSum(sums);
  for (let i = whole; i < bytes; i += 4) {
    const d = load<f32>(x + i) - mean;
    variance += d * d;
  }
  const inverse = f32x4.splat(1 / sqrt<f32>(variance / <f32>dim + eps));
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
