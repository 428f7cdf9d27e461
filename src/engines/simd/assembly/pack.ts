/** Weights [out, in] → panels [out / 8][in][8] (f32, f16), [out / 8][in / 4][8][4] or [out / 8][in / 2][8][2] (int8). */
import { F32, INT8, LINEAR_PANEL_BYTES, LINEAR_PANELS, LINEAR_SCALE, LINEAR_STEPS, LINEAR_SUM, LINEAR_WEIGHT } from "../layout";
import { MOST_OF_ONE_SIGN, STEP_COLUMNS } from "../../../format/pairSums";

/**
 * @param from [8 × panels, rowBytes], the first of `inputs` columns
 * @param to the place of that column in the first panel; what the columns do not fill stays as it is
 */
export function pack(kind: i32, from: usize, rowBytes: usize, panels: i32, to: usize, panelBytes: usize, inputs: i32): void {
  for (let p = 0; p < panels; p++) {
    if (kind == F32) transpose32(from, rowBytes, to, inputs);
    else if (kind == INT8) packInt8(from, rowBytes, to, inputs);
    else transpose16(from, rowBytes, to, inputs);
    from += rowBytes * 8;
    to += panelBytes;
  }
}

function packInt8(from: usize, rowBytes: usize, to: usize, inputs: i32): void {
  const deep = ASC_FEATURE_RELAXED_SIMD ? STEP_COLUMNS : 2;
  const groups = inputs / deep;
  if (ASC_FEATURE_RELAXED_SIMD) transpose32(from, rowBytes, to, groups);
  else transpose16(from, rowBytes, to, groups);
  for (let i = groups * deep; i < inputs; i++) {
    for (let r = 0; r < 8; r++) {
      store<i8>(to + groups * deep * 8 + r * deep + (i - groups * deep), load<i8>(from + r * rowBytes + i));
    }
  }
}

/** 8 rows of `count` 32-bit words → [count][8] */
export function transpose32(from: usize, rowBytes: usize, to: usize, count: i32): void {
  let i = 0;
  for (; i + 4 <= count; i += 4) {
    half32(from + i * 4, rowBytes, to + i * 32);
    half32(from + 4 * rowBytes + i * 4, rowBytes, to + i * 32 + 16);
  }
  for (; i < count; i++) {
    for (let r = 0; r < 8; r++) store<i32>(to + i * 32 + r * 4, load<i32>(from + r * rowBytes + i * 4));
  }
}

// @ts-ignore: decorator
@inline
function half32(from: usize, rowBytes: usize, to: usize): void {
  const a = v128.load(from);
  const b = v128.load(from + rowBytes);
  const c = v128.load(from + 2 * rowBytes);
  const d = v128.load(from + 3 * rowBytes);
  const ab0 = v128.shuffle<i32>(a, b, 0, 4, 1, 5);
  const ab1 = v128.shuffle<i32>(a, b, 2, 6, 3, 7);
  const cd0 = v128.shuffle<i32>(c, d, 0, 4, 1, 5);
  const cd1 = v128.shuffle<i32>(c, d, 2, 6, 3, 7);
  v128.store(to, v128.shuffle<i64>(ab0, cd0, 0, 2));
  v128.store(to, v128.shuffle<i64>(ab0, cd0, 1, 3), 32);
  v128.store(to, v128.shuffle<i64>(ab1, cd1, 0, 2), 64);
  v128.store(to, v128.shuffle<i64>(ab1, cd1, 1, 3), 96);
}

/** 8 rows of `count` 16-bit words → [count][8] */
function transpose16(from: usize, rowBytes: usize, to: usize, count: i32): void {
  let i = 0;
  for (; i + 4 <= count; i += 4) {
    const low = pairs16(from + i * 2, rowBytes);
    const low2 = pairs16(from + 2 * rowBytes + i * 2, rowBytes);
    const high = pairs16(from + 4 * rowBytes + i * 2, rowBytes);
    const high2 = pairs16(from + 6 * rowBytes + i * 2, rowBytes);
    const a = v128.shuffle<i32>(low, low2, 0, 4, 1, 5); // inputs 0 and 1 of rows 0 to 3
    const b = v128.shuffle<i32>(low, low2, 2, 6, 3, 7);
    const c = v128.shuffle<i32>(high, high2, 0, 4, 1, 5);
    const d = v128.shuffle<i32>(high, high2, 2, 6, 3, 7);
    const p = to + i * 16;
    v128.store(p, v128.shuffle<i64>(a, c, 0, 2));
    v128.store(p, v128.shuffle<i64>(a, c, 1, 3), 16);
    v128.store(p, v128.shuffle<i64>(b, d, 0, 2), 32);
    v128.store(p, v128.shuffle<i64>(b, d, 1, 3), 48);
  }
  for (; i < count; i++) {
    for (let r = 0; r < 8; r++) store<i16>(to + i * 16 + r * 2, load<i16>(from + r * rowBytes + i * 2));
  }
}

/** 4 words of a row and of the next, interleaved */
// @ts-ignore: decorator
@inline
function pairs16(from: usize, rowBytes: usize): v128 {
  const a = v128.load_zero<u64>(from);
  const b = v128.load_zero<u64>(from + rowBytes);
  return v128.shuffle<i16>(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
}

/** Multiplies the weights of an f32 linear, levels of int8 so far, by LINEAR_SCALE. */
export function scaleWeights(linear: usize): void {
  const panels = load<i32>(linear, LINEAR_PANELS * 4);
  const steps = load<i32>(linear, LINEAR_STEPS * 4);
  let at: usize = load<i32>(linear, LINEAR_WEIGHT * 4);
  let scales: usize = load<i32>(linear, LINEAR_SCALE * 4);
  for (let p = 0; p < panels; p++) {
    const low = v128.load(scales);
    const high = v128.load(scales, 16);
    for (let i = 0; i < steps; i++) {
      v128.store(at, f32x4.mul(v128.load(at), low));
      v128.store(at, f32x4.mul(v128.load(at, 16), high), 16);
      at += 32;
    }
    scales += 32;
  }
}

/** Fills LINEAR_SUM of an int8 linear: each output's sum, and of each panel whether `addPairs` may multiply it. */
export function sumWeights(linear: usize): void {
  const panels = load<i32>(linear, LINEAR_PANELS * 4);
  const steps = load<i32>(linear, LINEAR_STEPS * 4);
  const panelBytes: usize = load<i32>(linear, LINEAR_PANEL_BYTES * 4);
  const weight: usize = load<i32>(linear, LINEAR_WEIGHT * 4);
  const scales: usize = load<i32>(linear, LINEAR_SCALE * 4);
  const sums: usize = load<i32>(linear, LINEAR_SUM * 4);
  const deep: usize = ASC_FEATURE_RELAXED_SIMD ? STEP_COLUMNS : 2;
  for (let p: usize = 0; p < <usize>panels; p++) {
    let low = i32x4.splat(0);
    let high = i32x4.splat(0);
    let at = weight + p * panelBytes;
    let most = i16x8.splat(0);
    for (let i = 0; i < steps; i++) {
      if (ASC_FEATURE_RELAXED_SIMD) {
        low = i32x4.add(low, i32x4.extadd_pairwise_i16x8_s(i16x8.extadd_pairwise_i8x16_s(v128.load(at))));
        high = i32x4.add(high, i32x4.extadd_pairwise_i16x8_s(i16x8.extadd_pairwise_i8x16_s(v128.load(at, 16))));
        if (i & 1) most = i16x8.max_s(most, i16x8.max_s(mostPairs(at), mostPairs(at + 16)));
      } else {
        const pair = i16x8.extadd_pairwise_i8x16_s(v128.load(at));
        low = i32x4.add(low, i32x4.extend_low_i16x8_s(pair));
        high = i32x4.add(high, i32x4.extend_high_i16x8_s(pair));
      }
      at += deep * 8;
    }
    v128.store(sums + p * 32, f32x4.mul(f32x4.convert_i32x4_s(low), v128.load(scales + p * 32)));
    v128.store(sums + p * 32, f32x4.mul(f32x4.convert_i32x4_s(high), v128.load(scales + p * 32, 16)), 16);
    store<i32>(sums + panels * 32 + p * 4, !v128.any_true(i16x8.gt_s(most, i16x8.splat(<i16>MOST_OF_ONE_SIGN))));
  }
}

/**
 * `addPairs` adds the weights at `at` and one step before. Gives the sum of the positive ones or of the negative ones,
 * whichever is greater.
 */
// @ts-ignore: decorator
@inline
function mostPairs(at: usize): v128 {
  const a = v128.load(at - 32);
  const b = v128.load(at);
  const none = i8x16.splat(0);
  const up = i16x8.add(
    i16x8.extadd_pairwise_i8x16_s(i8x16.max_s(a, none)),
    i16x8.extadd_pairwise_i8x16_s(i8x16.max_s(b, none)),
  );
  const down = i16x8.add(
    i16x8.extadd_pairwise_i8x16_s(i8x16.min_s(a, none)),
    i16x8.extadd_pairwise_i8x16_s(i8x16.min_s(b, none)),
  );
  return i16x8.max_s(up, i16x8.neg(down));
}
