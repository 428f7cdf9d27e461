/** Embeddings → a head. The judge is scikit-learn, by test/fixtures/taught/make-taught.py. */
import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Taught, TaughtHead } from "../../src/protocol.ts";
import { headLogits, nearestCosine, softmax } from "../../src/reference/scores.ts";
import { covarianceOf, solverFor } from "../../src/teach/covariance.ts";
import { foldsOf, GRID, surenessOf } from "../../src/teach/crossValidate.ts";
import { emptyWeights, Regression } from "../../src/teach/regression.ts";
import { placed } from "../../src/teach/taught.ts";
import { teachHead } from "../../src/teach/teach.ts";
import { expectClose, randomValues } from "../helpers.ts";

interface Fixture {
  embeddings: number[][];
  classes: number[];
  new: number[][];
  fits: { c: number; weight: number[][]; probabilities: number[][] }[];
}

const fixture: Fixture = JSON.parse(readFileSync(new URL("../fixtures/taught/taught.json", import.meta.url), "utf8"));
const DIM = fixture.embeddings[0].length;
const taughtOf = (embeddings: number[][], classes: number[]): Taught => ({
  names: [...new Set(classes)].map((kind) => `class ${kind}`),
  classOf: Int32Array.from(classes),
  embeddings: Float32Array.from(embeddings.flat()),
});
const known = taughtOf(fixture.embeddings, fixture.classes);
const bestOf = (head: TaughtHead, features: Float32Array) => {
  const logits = headLogits(head, features);
  return logits.indexOf(Math.max(...logits));
};
const rowOf = ({ embeddings }: Taught, row: number) => embeddings.slice(row * DIM, (row + 1) * DIM);

describe.each(fixture.fits)("with C $c", ({ c, weight, probabilities }) => {
  test("weights and probabilities are scikit-learn's", async () => {
    const { head } = await teachHead(known, DIM, { c });
    expectClose(head.weight, Float32Array.from(weight.flat()), 1e-4);
    const scores = fixture.new.flatMap((row) => [...softmax(headLogits(head, Float32Array.from(row)))]);
    expectClose(Float32Array.from(scores), Float32Array.from(probabilities.flat()), 1e-5);
  });
});

describe("the fit", () => {
  test("has the loss's own gradient, by finite differences", () => {
    const { samples } = placed(known, DIM);
    const loss = new Regression(samples, 0.1, () => {});
    const at = Float64Array.from(randomValues(emptyWeights(samples).length, 3), (v) => v / 2);
    const gradient = new Float64Array(at.length);
    loss.evaluate(at, gradient);
    const other = new Float64Array(at.length);
    for (const place of [0, 1, 5, 67, 70, 4 * DIM, 4 * (DIM + 1)]) {
      const valueAt = (step: number) =>
        loss.evaluate(
          Float64Array.from(at, (v, i) => (i === place ? v + step : v)),
          other,
        );
      expect((valueAt(1e-5) - valueAt(-1e-5)) / 2e-5).toBeCloseTo(gradient[place], 6);
    }
  });

  test("its preconditioner is the inverse that it says", () => {
    const { samples } = placed(known, DIM);
    const covariance = covarianceOf(samples)!;
    const solve = solverFor(covariance, samples, 0.3, 0.2);
    const values = Float64Array.from(randomValues(emptyWeights(samples).length, 5));
    const solved = values.slice();
    solve(solved);
    const full = (i: number, j: number) => covariance[Math.max(i, j) * DIM + Math.min(i, j)];
    for (let i = 0; i < DIM; i++) {
      let sum = 0.3 * solved[4 * i];
      for (let j = 0; j < DIM; j++) sum += 0.2 * full(i, j) * solved[4 * j];
      expect(sum).toBeCloseTo(values[4 * i], 9);
    }
  });

  test("is the same each time, and reports its progress to the end", async () => {
    const seen: number[] = [];
    const first = await teachHead(known, DIM, { onProgress: (done) => seen.push(done) });
    expect(await teachHead(known, DIM)).toEqual(first);
    expect(seen.at(-1)).toBe(1);
    expect(seen.every((done, i) => done > 0 && done <= 1 && (i === 0 || done >= seen[i - 1]))).toBe(true);
  });

  test("ends with what a pause throws", async () => {
    let pauses = 0;
    const pause = async () => {
      if (++pauses === 3) throw new Error("stopped");
    };
    await expect(teachHead(known, DIM, { pause })).rejects.toThrow("stopped");
    expect(pauses).toBe(3);
  });

  test("takes pictures that are all the same, and classes that one number tells apart", async () => {
    const same = taughtOf(Array(8).fill([1, 2, 3]), [0, 0, 0, 0, 1, 1, 1, 1]);
    const { head } = await teachHead(same, 3);
    expectClose(softmax(headLogits(head, Float32Array.from([1, 2, 3]))), Float64Array.from([0.5, 0.5]), 1e-3);
    const apart = taughtOf([[0, 1], [0.1, 1], [1, 1], [1.1, 1]], [0, 0, 1, 1]); // biome-ignore format: a table
    const fitted = await teachHead(apart, 2);
    expect(fitted.info).toMatchObject({ accuracy: 1, n: 4, folds: 2, pictures: [2, 2] });
    expect(bestOf(fitted.head, Float32Array.from([0.05, 1]))).toBe(0);
  });
});

describe("cross-validation", () => {
  test("gives the accuracy that fits without each fold's pictures have", async () => {
    const { info } = await teachHead(known, DIM);
    const { samples } = placed(known, DIM);
    const { folds, foldOf } = foldsOf(samples);
    expect({ folds: info.folds, n: info.n }).toEqual({ folds, n: 45 });
    expect(GRID).toContain(info.c);
    let right = 0;
    for (let fold = 0; fold < folds; fold++) {
      const rows = [...foldOf.keys()].filter((row) => foldOf[row] !== fold);
      const others = taughtOf(rows.map((row) => [...rowOf(known, row)]), rows.map((row) => fixture.classes[row])); // biome-ignore format: one line
      const { placement } = placed(others, DIM);
      const scale = placed(known, DIM).placement.scale / placement.scale; // C is of inputs of one scale, here that of all
      const { head } = await teachHead(others, DIM, { c: info.c / scale ** 2 });
      for (const row of foldOf.keys())
        if (foldOf[row] === fold && bestOf(head, rowOf(known, row)) === fixture.classes[row]) right++;
    }
    expect(info.accuracy).toBeCloseTo(right / 45, 10);
    expect(info.accuracy).toBeGreaterThan(0.5);
    expect(info.accuracy).toBeLessThan(1); // it is no accuracy on what was fitted
  });

  test("spreads each class's pictures over all folds, in runs of neighbours", () => {
    const sizes = fc.array(fc.integer({ min: 2, max: 23 }), { minLength: 2, maxLength: 6 });
    fc.assert(
      fc.property(sizes, (counts) => {
        const y = Int32Array.from(counts.flatMap((count, kind) => Array<number>(count).fill(kind)));
        const { folds, foldOf } = foldsOf({
          x: new Float64Array(),
          y,
          count: y.length,
          dim: 0,
          classes: counts.length,
        });
        expect(folds).toBe(Math.min(5, ...counts));
        counts.forEach((count, kind) => {
          const own = [...foldOf].filter((_, row) => y[row] === kind);
          const perFold = Array.from({ length: folds }, (_, fold) => own.filter((f) => f === fold).length);
          expect(Math.min(...perFold)).toBeGreaterThanOrEqual(1);
          expect(Math.max(...perFold) - Math.min(...perFold)).toBeLessThanOrEqual(1);
          expect(own.filter((fold, i) => i > 0 && fold !== own[i - 1]).length).toBe(folds - 1);
          expect(count).toBe(own.length);
        });
      }),
    );
  });

  test("scales logits to be as sure as they are right", () => {
    const { samples } = placed(known, DIM);
    const logits = new Float64Array(45 * 5);
    for (let row = 0; row < 45; row++) logits[row * 5 + (row % 9 ? samples.y[row] : (samples.y[row] + 1) % 5)] = 0.01;
    const { sureness } = surenessOf(logits, samples);
    // 8 of 9 pictures are right, so the score of the best class should be 8/9 less what the others share.
    const score = softmax(Float64Array.from([0.01 * sureness, 0, 0, 0, 0]))[0];
    expect(score).toBeCloseTo(8 / 9, 2);
  });
});

describe("the rule for unknown pictures", () => {
  test("calls about the accepted share of new pictures of its classes unknown, and nearly all others", async () => {
    const dim = 24;
    const draw = (kind: number, seed: number) =>
      randomValues(dim, 1000 + kind).map((v, i) => 2 * v + randomValues(dim, 7000 + seed)[i]);
    const rows = Array.from({ length: 300 }, (_, i) => ({ kind: i % 3, values: [...draw(i % 3, i)] }));
    const taught = taughtOf(rows.map(({ values }) => values), rows.map(({ kind }) => kind)); // biome-ignore format: one line
    const { head } = await teachHead(taught, dim, { falseRejection: 0.1 });
    const { threshold, falseRejection, n } = head.unknown;
    expect(n).toBe(300);
    expect(falseRejection).toBeGreaterThan(0.05);
    expect(falseRejection).toBeLessThan(0.15);
    const share = (kinds: number[], seed: number) => {
      const cosines = Array.from({ length: 300 }, (_, i) =>
        nearestCosine(draw(kinds[i % kinds.length], seed + i), head.means),
      );
      return cosines.filter((cosine) => cosine < threshold).length / 300;
    };
    expect(share([0, 1, 2], 5000)).toBeCloseTo(0.1, 1);
    expect(share([7, 8, 9], 9000)).toBeGreaterThan(0.95);
  });

  test("accepts every taught picture where none may be called unknown", async () => {
    const { head } = await teachHead(known, DIM, { falseRejection: 0 });
    for (let row = 0; row < 45; row++)
      expect(nearestCosine(rowOf(known, row), head.means)).toBeGreaterThanOrEqual(head.unknown.threshold);
  });
});

test.each<[string, Taught, object, RegExp]>([
  ["one class", taughtOf([[1], [2]], [0, 0]), {}, /"class 0" alone.*Teach two or more/],
  ["a class of one picture", taughtOf([[1], [2], [3]], [0, 0, 1]), {}, /"class 1" has 1 picture; expected at least 2/],
  ["no picture", { ...taughtOf([], []), names: ["a", "b"] }, {}, /"a" has no pictures/],
  ["NaN", taughtOf([[1], [Number.NaN], [3], [4]], [0, 0, 1, 1]), {}, /all of them finite/],
  [
    "a share above 1",
    taughtOf([[1], [2], [3], [4]], [0, 0, 1, 1]),
    { falseRejection: 5 },
    /falseRejection is 5; expected/,
  ],
])("%s is refused", async (_, taught, options, message) => {
  await expect(teachHead(taught, 1, options)).rejects.toThrow(message);
});
