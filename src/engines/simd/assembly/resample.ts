/**
 * Resampling of RGBA bytes in Pillow's fixed point, in a binary of its own with its own memory (host:
 * src/image/resampleWasm.ts). A weight w is stored as two words, w = 2¹⁵ high + low, so that the 16-bit dot product
 * multiplies two taps at a time. All arithmetic is modulo 2³², as in the plain form, whose sums fit into 32 bits.
 */

const HALF: i32 = 1 << 21;
const FRACTION_BITS: i32 = 22;
const LOW_BITS: i32 = 15;

/**
 * @param from [rows, fromBytes], the source's pixels
 * @param to [rows, 4 × columns]
 * @param table for each column: byte offset of its first tap, then for every 4 taps the lower words of two and two, the
 * higher words of two and two. Taps past a column's last weigh 0.
 */
export function across(from: usize, fromBytes: usize, rows: i32, to: usize, columns: i32, table: usize, groups: i32): void {
  for (let row = 0; row < rows; row++) {
    let entry = table;
    for (let column = 0; column < columns; column++) {
      let at = from + load<i32>(entry);
      entry += 4;
      let low = i32x4.splat(HALF);
      let high = i32x4.splat(0);
      for (let i = groups; i > 0; i--) {
        const pixels = v128.load(at);
        const pairs = i8x16.shuffle(pixels, pixels, 0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
        const first = i16x8.extend_low_i8x16_u(pairs);
        const second = i16x8.extend_high_i8x16_u(pairs);
        low = i32x4.add(low, i32x4.dot_i16x8_s(first, v128.load32_splat(entry)));
        high = i32x4.add(high, i32x4.dot_i16x8_s(first, v128.load32_splat(entry, 8)));
        low = i32x4.add(low, i32x4.dot_i16x8_s(second, v128.load32_splat(entry, 4)));
        high = i32x4.add(high, i32x4.dot_i16x8_s(second, v128.load32_splat(entry, 12)));
        at += 16;
        entry += 16;
      }
      const sum = total(low, high);
      const words = i16x8.narrow_i32x4_s(sum, sum);
      v128.store_lane<i32>(to, i8x16.narrow_i16x8_u(words, words), 0);
      to += 4;
    }
    from += fromBytes;
  }
}

/**
 * @param from [.., bytes], the rows that `across` made
 * @param to [rows, bytes], opaque
 * @param bytes of a row, a multiple of 16
 * @param table for each row: byte offset of its first tap, then for every 2 taps the lower words, the higher words
 */
export function down(from: usize, to: usize, rows: i32, bytes: usize, table: usize, pairs: i32): void {
  const entryBytes: usize = 4 + pairs * 8;
  const opaque = i32x4.splat(0xff000000);
  for (let row = 0; row < rows; row++) {
    const first = from + load<i32>(table);
    for (let i: usize = 0; i < bytes; i += 16) {
      let entry = table + 4;
      let at = first + i;
      let low0 = i32x4.splat(HALF), low1 = low0, low2 = low0, low3 = low0;
      let high0 = i32x4.splat(0), high1 = high0, high2 = high0, high3 = high0;
      for (let k = pairs; k > 0; k--) {
        const upper = v128.load(at);
        const lower = v128.load(at + bytes);
        const left = i8x16.shuffle(upper, lower, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        const right = i8x16.shuffle(upper, lower, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        const lows = v128.load32_splat(entry);
        const highs = v128.load32_splat(entry, 4);
        let x = i16x8.extend_low_i8x16_u(left);
        low0 = i32x4.add(low0, i32x4.dot_i16x8_s(x, lows));
        high0 = i32x4.add(high0, i32x4.dot_i16x8_s(x, highs));
        x = i16x8.extend_high_i8x16_u(left);
        low1 = i32x4.add(low1, i32x4.dot_i16x8_s(x, lows));
        high1 = i32x4.add(high1, i32x4.dot_i16x8_s(x, highs));
        x = i16x8.extend_low_i8x16_u(right);
        low2 = i32x4.add(low2, i32x4.dot_i16x8_s(x, lows));
        high2 = i32x4.add(high2, i32x4.dot_i16x8_s(x, highs));
        x = i16x8.extend_high_i8x16_u(right);
        low3 = i32x4.add(low3, i32x4.dot_i16x8_s(x, lows));
        high3 = i32x4.add(high3, i32x4.dot_i16x8_s(x, highs));
        at += 2 * bytes;
        entry += 8;
      }
      const words0 = i16x8.narrow_i32x4_s(total(low0, high0), total(low1, high1));
      const words1 = i16x8.narrow_i32x4_s(total(low2, high2), total(low3, high3));
      v128.store(to + i, v128.or(i8x16.narrow_i16x8_u(words0, words1), opaque));
    }
    to += bytes;
    table += entryBytes;
  }
}

// @ts-ignore: decorator
@inline
function total(low: v128, high: v128): v128 {
  return i32x4.shr_s(i32x4.add(low, i32x4.shl(high, LOW_BITS)), FRACTION_BITS);
}
