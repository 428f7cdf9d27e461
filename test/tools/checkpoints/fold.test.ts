/** Each fold of import computes what it folds. */
import * as fc from "fast-check";
import { expect, test } from "vitest";
import { attention, layerNorm, linear } from "../../../src/reference/ops.ts";
import {
  adjacentPairs,
  concat,
  concatColumns,
  foldNorm,
  foldProbe,
  project,
  scaleRows,
  transpose,
} from "../../../tools/checkpoints/fold.ts";
import { mixedFrequencies, relativeTable, ropeFrequencies, ropeGrid } from "../../../tools/checkpoints/positions.ts";
import { random } from "../../../tools/shared/random.ts";
import { expectClose } from "../../helpers.ts";

/** Numbers in ±1 from a seed. */
function numbers(seed: number): (count: number) => Float32Array {
  const next = random(seed);
  return (count) => Float32Array.from({ length: count }, () => 2 * next() - 1);
}

const seeds = fc.integer({ min: 1, max: 1e6 });
const size = fc.integer({ min: 1, max: 6 });

test("rows that are scaled scale the output", () => {
  fc.assert(
    fc.property(seeds, size, size, (seed, out, input) => {
      const of = numbers(seed);
      const [weight, bias, x, gamma] = [of(out * input), of(out), of(3 * input), of(out)];
      const scaled = linear(x, scaleRows(weight, gamma), scaleRows(bias, gamma), 3);
      expectClose(
        scaled,
        linear(x, weight, bias, 3).map((v, k) => v * gamma[k % out]),
        1e-5,
      );
    }),
  );
});

test("a norm's affine part moves into the linear behind it", () => {
  fc.assert(
    fc.property(seeds, size, fc.integer({ min: 2, max: 8 }), (seed, out, input) => {
      const of = numbers(seed);
      const [weight, bias, x] = [of(out * input), of(out), of(2 * input).map((v, k) => v + (k % input))];
      const norm = { weight: of(input), bias: of(input) };
      const folded = foldNorm(weight, bias, norm);
      const plain = layerNorm(x, new Float32Array(input).fill(1), new Float32Array(input), 1e-6);
      expectClose(
        linear(plain, folded.weight, folded.bias, 2),
        linear(layerNorm(x, norm.weight, norm.bias, 1e-6), weight, bias, 2),
        1e-4,
      );
    }),
  );
});

test("linears side by side add up", () => {
  fc.assert(
    fc.property(seeds, size, size, size, (seed, out, a, b) => {
      const of = numbers(seed);
      const [left, right, x, y] = [of(out * a), of(out * b), of(a), of(b)];
      const zeros = new Float32Array(out);
      const [one, two] = [linear(x, left, zeros, 1), linear(y, right, zeros, 1)];
      expectClose(
        linear(concat([x, y]), concatColumns([left, right], out), zeros, 1),
        one.map((v, k) => v + two[k]),
        1e-5,
      );
    }),
  );
});

test("queries and keys of adjacent pairs, turned, score as half-split ones do", () => {
  fc.assert(
    fc.property(seeds, fc.integer({ min: 1, max: 3 }), fc.constantFrom(4, 8), (seed, heads, headDim) => {
      const of = numbers(seed);
      const [q, k, angles] = [of(heads * headDim), of(heads * headDim), of(headDim / 2)];
      const turn = (x: Float32Array, first: (i: number) => number, second: (i: number) => number, sign: number) => {
        const out = Float32Array.from(x);
        for (let head = 0; head < heads; head++) {
          angles.forEach((angle, i) => {
            const [a, b] = [head * headDim + first(i), head * headDim + second(i)];
            const [cos, sin] = [Math.cos(sign * angle), Math.sin(sign * angle)];
            [out[a], out[b]] = [x[a] * cos - x[b] * sin, x[a] * sin + x[b] * cos];
          });
        }
        return out;
      };
      const dots = (a: Float32Array, b: Float32Array) =>
        Array.from({ length: heads }, (_, h) =>
          a.subarray(h * headDim, (h + 1) * headDim).reduce((sum, v, c) => sum + v * b[h * headDim + c], 0),
        );
      const half = (x: Float32Array, sign: number) =>
        turn(
          x,
          (i) => i,
          (i) => i + headDim / 2,
          sign,
        );
      const pairs = (x: Float32Array, sign: number) =>
        turn(
          adjacentPairs(x, heads, headDim, 1),
          (i) => 2 * i,
          (i) => 2 * i + 1,
          sign,
        );
      expectClose(Float32Array.from(dots(pairs(q, 1), pairs(k, -2))), dots(half(q, 1), half(k, -2)), 1e-5);
    }),
  );
});

test("a probe's folded query attends as the probe does, whatever the key's bias", () => {
  fc.assert(
    fc.property(seeds, fc.constantFrom(1, 2, 4), size, (seed, heads, tokens) => {
      const of = numbers(seed);
      const dim = 8;
      const [probe, x] = [of(dim), of(tokens * dim)];
      const [wq, wk, wv, bq, bk, bv] = [of(64), of(64), of(64), of(dim), of(dim), of(dim)];
      const q = project(wq, bq, probe);
      const [k, v] = [linear(x, wk, bk, tokens), linear(x, wv, bv, tokens)];
      // The probe is one more token, whose own key and value nobody may see: its score is −∞.
      const rows = [...Array(tokens + 1).keys()].flatMap((row) => {
        const part = (values: Float32Array) => Array.from(values.subarray((row - 1) * dim, row * dim));
        return row ? [...Array(dim).fill(0), ...part(k), ...part(v)] : [...q, ...Array(2 * dim).fill(0)];
      });
      const bias = (_head: number, _query: number, key: number) => (key ? 0 : Number.NEGATIVE_INFINITY);
      const wanted = attention(
        Float32Array.from(rows),
        Array(heads).fill(dim / heads),
        Math.sqrt(heads / dim),
        tokens + 1,
        { bias },
      );
      const query = foldProbe(q, wk, heads);
      const mixed = new Float32Array(dim);
      for (let h = 0; h < heads; h++) {
        const scores = Array.from({ length: tokens }, (_, t) =>
          x.subarray(t * dim, (t + 1) * dim).reduce((sum, value, i) => sum + value * query[h * dim + i], 0),
        );
        const weights = scores.map((score) => Math.exp(score));
        const total = weights.reduce((a, b) => a + b, 0);
        for (let c = (h * dim) / heads; c < ((h + 1) * dim) / heads; c++)
          mixed[c] = weights.reduce((sum, w, t) => sum + (w / total) * v[t * dim + c], 0);
      }
      expectClose(mixed, wanted.subarray(0, dim), 1e-5);
    }),
  );
});

test("a matrix that is transposed twice is itself", () => {
  fc.assert(
    fc.property(seeds, size, size, (seed, rows, columns) => {
      const values = numbers(seed)(rows * columns);
      const turned = transpose(values, rows, columns);
      expect(turned[0]).toBe(values[0]);
      if (rows > 1) expect(turned[1]).toBe(values[columns]);
      expect(transpose(turned, columns, rows)).toEqual(values);
    }),
  );
});

test("rotary coordinates: DINOv3's run from −1 to 1 at the patches' centres, EVA's are stretched to its training grid", () => {
  const centred = { grid: "centred", temperature: 100, offset: 0, columnsFirst: false, half: true } as const;
  const index = { grid: "index", temperature: 10000, offset: 1, reference: [16, 16], columnsFirst: true, half: false };
  const lies = ([start, step]: [number, number], patch: number) => start + step * patch;
  const { rows, columns } = ropeGrid(centred, [4, 5]);
  expect([0, 3].map((patch) => lies(rows, patch))).toEqual([-0.75, 0.75]);
  expect([0, 2].map((patch) => lies(columns, patch))).toEqual([-0.8, 0]);
  const eva = ropeGrid(index as never, [8, 4]);
  expect([lies(eva.rows, 0), lies(eva.rows, 7), lies(eva.columns, 3)]).toEqual([2, 16, 16]);
});

test("rotary frequencies: rows and columns have half of the pairs each, in the order of the rule", () => {
  const rule = { grid: "index", temperature: 16, offset: 0, columnsFirst: false, half: false } as const;
  expectClose(ropeFrequencies(rule, 8), [1, 0.25, 0, 0, 0, 0, 1, 0.25], 1e-6);
  expectClose(ropeFrequencies({ ...rule, columnsFirst: true }, 8), [0, 0, 1, 0.25, 1, 0.25, 0, 0], 1e-6);
  const learned = Float32Array.from({ length: 2 * 3 * 2 }, (_, k) => k); // [2, 3 blocks, 2]
  expect([...mixedFrequencies(learned, 3, 1, false)]).toEqual([2, 3, 8, 9]);
  expect([...mixedFrequencies(learned, 3, 1, true)]).toEqual([8, 9, 2, 3]);
});

test("a table of relative positions is transposed, and its prefix entries come last or are zeros", () => {
  const table = Float32Array.from({ length: (3 * 3 + 3) * 2 }, (_, k) => k);
  const out = relativeTable(table, 2, [2, 2], [2, 2]);
  expect([...out.subarray(0, 12)]).toEqual(Array.from({ length: 12 }, (_, k) => 2 * k));
  const without = relativeTable(table.subarray(0, 18), 2, [2, 2], [2, 2]);
  expect([...without.subarray(12)]).toEqual([...Array.from({ length: 9 }, (_, k) => 2 * k + 1), 0, 0, 0]);
  const constant = relativeTable(new Float32Array(9).fill(3), 1, [2, 2], [3, 4]);
  expectClose(constant.subarray(0, 35), Array(35).fill(3), 1e-5);
});
