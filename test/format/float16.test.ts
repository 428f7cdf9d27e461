import { expect, test } from "vitest";
import { decodeFloat16, encodeFloat16, fromFloat16, toFloat16 } from "../../src/format/float16.ts";

const isNaN16 = (half: number) => (half & 0x7fff) > 0x7c00;

/** As the standard words it, for comparison. */
function value(half: number): number {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >> 10) & 31;
  const fraction = (half & 1023) / 1024;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (exponent ? (1 + fraction) * 2 ** (exponent - 15) : fraction * 2 ** -14);
}

const halves = Array.from({ length: 65_536 }, (_, half) => half);

test("all 65,536 halves have the value of IEEE 754", () => {
  expect(halves.filter((half) => !Object.is(fromFloat16(half), value(half)))).toEqual([]);
});

test("all 65,536 halves come back as they were, NaN as some NaN", () => {
  const wrong = halves.filter((half) => {
    const back = toFloat16(fromFloat16(half));
    return isNaN16(half) ? !isNaN16(back) : back !== half;
  });
  expect(wrong).toEqual([]);
});

test("between neighbours the nearest is taken, and the even one from the middle", () => {
  const wrong = halves.slice(0, 0x7bff).filter((low) => {
    const [a, b] = [fromFloat16(low), fromFloat16(low + 1)];
    const middle = (a + b) / 2; // exact in f32
    const step = middle * 2 ** -20;
    const even = low % 2 ? low + 1 : low;
    return toFloat16(middle - step) !== low || toFloat16(middle + step) !== low + 1 || toFloat16(middle) !== even;
  });
  expect(wrong).toEqual([]);
});

test.each([
  [65_504, 0x7bff],
  [65_519.99609375, 0x7bff],
  [65_520, 0x7c00],
  [1e30, 0x7c00],
  [-65_520, 0xfc00],
  [2 ** -25, 0],
  [2 ** -25 * 1.0001, 1],
  [-(2 ** -26), 0x8000],
  [1e-40, 0],
  [-0, 0x8000],
])("%d is 0x%s", (number, half) => {
  expect(toFloat16(number)).toBe(half);
});

test("arrays are converted element by element", () => {
  const values = Float32Array.of(0, 1, -2, 0.333251953125, 65_504);
  expect(decodeFloat16(encodeFloat16(values))).toEqual(values);
});
