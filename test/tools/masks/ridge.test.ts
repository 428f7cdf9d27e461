/** Least squares in closed form, against plain sums over the samples. */
import { describe, expect, test } from "vitest";
import { chooseKept, type Moments, rowVariance, solveForKept, statisticsOf } from "../../../tools/masks/ridge.ts";
import { expectClose, randomValues } from "../../helpers.ts";

const SIZE = 6;
const OUT = 3;
const SAMPLES = 200;

/** Inputs that go together, so that what is removed can partly be had from the others. */
function samplesOf(seed: number, samples = SAMPLES): Float64Array[] {
  const values = randomValues(samples * SIZE, seed);
  const mix = randomValues(SIZE * SIZE, seed + 1);
  return Array.from({ length: samples }, (_, n) =>
    Float64Array.from({ length: SIZE }, (_, i) => {
      let sum = 0.3 * i;
      for (let j = 0; j < SIZE; j++) sum += mix[i * SIZE + j] * values[n * SIZE + j];
      return sum;
    }),
  );
}

function momentsOf(xs: Float64Array[], ys?: Float64Array[]): Moments {
  const stride = SIZE + 1;
  const inputs = new Float64Array(stride * stride);
  const targets = new Float64Array(stride * OUT);
  xs.forEach((x, n) => {
    const with1 = [...x, 1];
    with1.forEach((a, i) => {
      with1.forEach((b, j) => void (inputs[i * stride + j] += a * b));
      ys?.[n].forEach((y, o) => void (targets[i * OUT + o] += a * y));
    });
  });
  return { inputs, size: SIZE, ...(ys && { targets }) };
}

const linear = (weight: ArrayLike<number>, bias: ArrayLike<number>, x: ArrayLike<number>): Float64Array =>
  Float64Array.from(bias, (b, o) => {
    let sum = b;
    for (let i = 0; i < x.length; i++) sum += weight[o * x.length + i] * x[i];
    return sum;
  });

const meanOf = (values: number[]) => values.reduce((a, b) => a + b, 0) / values.length;
const pick = (x: ArrayLike<number>, keep: number[]) => keep.map((i) => x[i]);

/** Mean squared error of the outputs. */
function errorOf(
  solved: { weight: Float32Array; bias: Float32Array },
  keep: number[],
  xs: Float64Array[],
  ys: Float64Array[],
) {
  return meanOf(
    xs.map((x, n) => {
      const y = linear(solved.weight, solved.bias, pick(x, keep));
      return y.reduce((sum, value, o) => sum + (value - ys[n][o]) ** 2, 0);
    }),
  );
}

const weight = randomValues(OUT * SIZE, 7);
const bias = randomValues(OUT, 8);
const xs = samplesOf(1);
const ys = xs.map((x) => linear(weight, bias, x));

test("mean and covariance are those of the samples", () => {
  const { mean, covariance } = statisticsOf(momentsOf(xs));
  const means = Array.from({ length: SIZE }, (_, i) => meanOf(xs.map((x) => x[i])));
  expectClose(mean, means, 1e-9);
  const plain = means.flatMap((a, i) => means.map((b, j) => meanOf(xs.map((x) => (x[i] - a) * (x[j] - b)))));
  expectClose(covariance, plain, 1e-9);
});

test("the variance of a row's output is that over the samples", () => {
  const { covariance } = statisticsOf(momentsOf(xs));
  for (let o = 0; o < OUT; o++) {
    const outputs = ys.map((y) => y[o]);
    const mean = meanOf(outputs);
    expect(rowVariance(weight, o, covariance)).toBeCloseTo(meanOf(outputs.map((y) => (y - mean) ** 2)), 6);
  }
});

describe("a linear solved again for some of its inputs", () => {
  const keep = [0, 2, 3, 5];

  test("gives the same outputs where the others follow from them", () => {
    const bound = xs.map((x) => Float64Array.from(x, (v, i) => (i === 1 ? x[0] - 2 * x[3] + 1 : i === 4 ? 0.5 : v)));
    const wanted = bound.map((x) => linear(weight, bias, x));
    const solved = solveForKept(weight, bias, momentsOf(bound), keep);
    const spread = errorOf({ weight: new Float32Array(OUT * keep.length), bias }, keep, bound, wanted);
    expect(errorOf(solved, keep, bound, wanted)).toBeLessThan(1e-4 * spread);
  });

  test("keeps the weights of an input that was never seen", () => {
    const unseen = xs.map((x) => Float64Array.from(x, (v, i) => (i === 2 ? 0 : v)));
    const solved = solveForKept(weight, bias, momentsOf(unseen), keep);
    for (let o = 0; o < OUT; o++)
      expect(solved.weight[o * keep.length + keep.indexOf(2)]).toBeCloseTo(weight[o * SIZE + 2], 5);
  });

  test.each([
    ["its own outputs", ys],
    ["given targets", samplesOf(5).map((x) => x.subarray(0, OUT))],
  ])("has the least error against %s: no change of a weight or a bias lowers it", (_, wanted) => {
    const solved = solveForKept(weight, bias, momentsOf(xs, wanted === ys ? undefined : wanted), keep);
    const least = errorOf(solved, keep, xs, wanted);
    const cut = {
      weight: Float32Array.from(
        { length: OUT * keep.length },
        (_, k) => weight[Math.floor(k / keep.length) * SIZE + keep[k % keep.length]],
      ),
      bias,
    };
    expect(least).toBeLessThan(errorOf(cut, keep, xs, wanted));
    for (const part of ["weight", "bias"] as const)
      for (let k = 0; k < solved[part].length; k++)
        for (const by of [-0.05, 0.05]) {
          const moved = { ...solved, [part]: Float32Array.from(solved[part], (v, i) => (i === k ? v + by : v)) };
          expect(errorOf(moved, keep, xs, wanted)).toBeGreaterThan(least);
        }
  });
});

describe("inputs are removed where the others stand in for them best", () => {
  /** The error without some inputs, all others solved again. */
  const errorWithout = (removed: number[], own = weight) => {
    const keep = Array.from({ length: SIZE }, (_, i) => i).filter((i) => !removed.includes(i));
    const wanted = xs.map((x) => linear(own, bias, x));
    return errorOf(solveForKept(own, bias, momentsOf(xs), keep), keep, xs, wanted);
  };
  const removedOf = (kept: boolean[]) => kept.flatMap((stays, i) => (stays ? [] : [i]));
  const leastOf = (groups: number[][], own: Float32Array) =>
    groups.reduce((a, b) => (errorWithout(b, own) < errorWithout(a, own) ? b : a));

  test.each([11, 12, 13, 14])("one by one (seed %i)", (seed) => {
    const own = randomValues(OUT * SIZE, seed);
    const singles = Array.from({ length: SIZE }, (_, i) => [i]);
    const first = leastOf(singles, own);
    expect(removedOf(chooseKept(own, momentsOf(xs), SIZE - 1))).toEqual(first);
    const second = leastOf(
      singles.filter(([i]) => i !== first[0]).map(([i]) => [first[0], i]),
      own,
    );
    expect(removedOf(chooseKept(own, momentsOf(xs), SIZE - 2))).toEqual(second.toSorted((a, b) => a - b));
  });

  test("in groups that stay together", () => {
    const kept = chooseKept(weight, momentsOf(xs), SIZE - 2, undefined, 2);
    const [first] = removedOf(kept);
    expect(first % 2).toBe(0);
    expect(removedOf(kept)).toEqual([first, first + 1]);
  });

  test("a further loss keeps an input", () => {
    const [first] = removedOf(chooseKept(weight, momentsOf(xs), SIZE - 1));
    const extra = Array.from({ length: SIZE }, (_, i) => (i === first ? 10 : 0));
    expect(removedOf(chooseKept(weight, momentsOf(xs), SIZE - 1, extra))).not.toEqual([first]);
  });
});
