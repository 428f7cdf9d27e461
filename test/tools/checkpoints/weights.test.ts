/** The tensors of a checkpoint: every float type widened to f32, each used once. */
import { expect, test } from "vitest";
import type { StoredTensor } from "../../../src/format/safetensors.ts";
import { Weights } from "../../../tools/checkpoints/weights.ts";

const weightsOf = (tensors: Record<string, StoredTensor>) => new Weights(new Map(Object.entries(tensors)), "source");
const stored = (dtype: StoredTensor["dtype"], data: StoredTensor["data"], shape = [data.length]) => ({
  ...{ dtype, shape, data },
});

test.each<[StoredTensor["dtype"], StoredTensor["data"], number[]]>([
  ["F32", Float32Array.of(1, -2.5, 0.1), [1, -2.5, Math.fround(0.1)]],
  ["F64", Float64Array.of(1, -2.5, 0.1), [1, -2.5, Math.fround(0.1)]],
  ["F16", Uint16Array.of(0x3c00, 0xc100, 0x0001), [1, -2.5, 2 ** -24]],
  ["BF16", Uint16Array.of(0x3f80, 0xc020, 0x4049), [1, -2.5, 3.140625]],
])("%s is read", (dtype, data, expected) => {
  const { data: found, shape } = weightsOf({ x: stored(dtype, data) }).take("x", [3]);
  expect(found).toEqual(Float32Array.from(expected));
  expect(shape).toEqual([3]);
});

test("a tensor can be taken once, and what nobody takes is left", () => {
  const weights = weightsOf({ a: stored("F32", Float32Array.of(1)), b: stored("F32", Float32Array.of(2)) });
  weights.take("a");
  expect(weights.names()).toEqual(["b"]);
  expect(() => weights.take("a")).toThrow(/source: tensor "a" is missing/);
});

test("what does not fit is refused: another shape, another rank, NaN, integers", () => {
  const weights = weightsOf({
    square: stored("F32", new Float32Array(4), [2, 2]),
    broken: stored("F32", Float32Array.of(1, Number.NaN)),
    endless: stored("F16", Uint16Array.of(0x7c00)),
    whole: stored("I64" as never, new BigInt64Array(1) as never),
  });
  expect(() => weights.take("square", [4])).toThrow(/"square" has shape \[2,2\], expected \[4\]/);
  expect(() => weights.shape("square", 1)).toThrow(/"square" has shape \[2,2\], expected 1 dimensions/);
  expect(() => weights.take("broken")).toThrow(/"broken" holds NaN or Inf/);
  expect(() => weights.take("endless")).toThrow(/"endless" holds NaN or Inf/);
  expect(() => weights.take("whole")).toThrow(/"whole" has dtype I64; expected a float type/);
  expect(weights.takeOrZeros("none", [2, 3])).toEqual(new Float32Array(6));
});
