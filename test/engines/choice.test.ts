import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { choose, predictMs, type Timed, worthHaving } from "../../src/engines/family/choice.ts";
import type { Variant } from "../../src/format/model.ts";

const variant = (name: string, macs: number, top1?: number) =>
  ({ name, macs, metrics: top1 === undefined ? {} : { accuracy: [{ top1, n: 100 }] } }) as unknown as Variant;
const FOUR = [variant("a", 25, 0.5), variant("b", 50, 0.6), variant("c", 75, 0.7), variant("d", 100, 0.8)];

/** Measures by a rule. @returns what was chosen, and what was measured on the way */
async function chosen(
  budget: number,
  msOf: (variant: Variant) => number,
  variants = FOUR,
  known = new Map<string, Timed>(),
) {
  const measured: string[] = [];
  const choice = await choose(
    variants,
    budget,
    async (name) => {
      measured.push(name);
      const ms = msOf(variants.find((one) => one.name === name)!);
      return Number.isFinite(ms) ? { ms } : { ms, fault: "too large" };
    },
    known,
  );
  return { ...choice, measured };
}

describe("which variant meets a budget", () => {
  test("the most accurate does where there is time, after two measurements", async () => {
    expect(await chosen(100, ({ macs }) => macs / 10)).toMatchObject({ name: "d", meets: true, measured: ["a", "d"] });
  });

  test("one between: no other is measured than those that may be it", async () => {
    const found = await chosen(6, ({ macs }) => macs / 10);
    expect(found).toMatchObject({ name: "b", meets: true });
    expect(found.measured[0]).toBe("a");
    expect(found.reason).toMatch(/the most accurate within 6 ms: "b" takes 5\.00 ms here/);
  });

  test("where none meets it the fastest is taken, and the reason says so", async () => {
    const found = await chosen(1, ({ macs }) => macs / 10);
    expect(found).toMatchObject({ name: "a", meets: false, measured: ["a"] });
    expect(found.reason).toMatch(/no variant takes at most 1 ms; the fastest, "a" takes 2\.50 ms/);
  });

  test("one that does not run is passed over, with its fault in the reason", async () => {
    const found = await chosen(100, ({ macs }) => (macs > 60 ? Number.POSITIVE_INFINITY : macs / 10));
    expect(found).toMatchObject({ name: "b", meets: true });
    expect(found.reason).toContain("too large");
  });

  test("what is known is not measured again", async () => {
    const known = new Map([
      ["a", { ms: 2 }],
      ["d", { ms: 9 }],
    ]);
    expect(await chosen(10, () => Number.NaN, FOUR, known)).toMatchObject({ name: "d", measured: [] });
  });

  test("one that is predicted to take a quarter more than the budget is still tried", async () => {
    const ms: Record<string, number> = { a: 2.5, b: 5, c: 6, d: 20 }; // of c 7.5 is predicted
    expect(await chosen(6, ({ name }) => ms[name])).toMatchObject({ name: "c", meets: true });
  });

  test("no more than five are measured, however wrong the predictions are", async () => {
    const many = Array.from({ length: 12 }, (_, k) => variant(`v${k}`, 10 * (k + 1), k / 20));
    const found = await chosen(100, ({ name }) => (name === "v0" ? 1 : 1000), many);
    expect(found).toMatchObject({ name: "v0", meets: true });
    expect(found.measured).toHaveLength(5);
  });

  test("of several that are too slow the fastest is taken, which need not be the smallest", async () => {
    const known = new Map([
      ["a", { ms: 5 }],
      ["b", { ms: 3 }],
      ["c", { ms: 4 }],
    ]);
    const found = await chosen(1, () => Number.NaN, FOUR, known);
    expect(found).toMatchObject({ name: "b", meets: false, measured: [] });
    expect(found.reason).toMatch(/the fastest, "b" takes 3\.00 ms/);
  });

  test("on any device the answer meets the budget, and is near the best that does", async () => {
    const times = fc.array(fc.integer({ min: 1, max: 100 }), { minLength: 4, maxLength: 4 });
    await fc.assert(
      fc.asyncProperty(times, fc.integer({ min: 1, max: 100 }), async (ms, budget) => {
        const sorted = [...ms].sort((a, b) => a - b);
        const { name, meets } = await chosen(budget, (one) => sorted[FOUR.indexOf(one)]);
        const index = FOUR.findIndex((one) => one.name === name);
        expect(meets).toBe(sorted[0] <= budget);
        if (meets) expect(sorted[index]).toBeLessThanOrEqual(budget);
      }),
    );
  });
});

test("a variant that is no more accurate than a cheaper one is never worth having; without figures all are", () => {
  const names = (variants: Variant[]) => worthHaving(variants).map(({ name }) => name);
  expect(names([variant("d", 100, 0.8), variant("b", 50, 0.8), variant("a", 25, 0.5)])).toEqual(["a", "b"]);
  expect(names([variant("d", 100), variant("b", 50, 0.8), variant("a", 25, 0.5)])).toEqual(["a", "b", "d"]);
});

test("of several measurements of a variant the one on the most pictures counts", () => {
  const measured = (name: string, macs: number, ...entries: [top1: number, n: number][]) =>
    ({ name, macs, metrics: { accuracy: entries.map(([top1, n]) => ({ top1, n })) } }) as unknown as Variant;
  const a = measured("a", 25, [0.7, 1000]);
  for (const entries of [
    [[0.9, 10], [0.6, 1000]], // biome-ignore format: pairs
    [[0.6, 1000], [0.9, 10]], // biome-ignore format: pairs
  ] as [number, number][][])
    expect(worthHaving([a, measured("b", 50, ...entries)]).map(({ name }) => name)).toEqual(["a"]);
});

test("a prediction is never below what is measured of a smaller one, and not above the proportion to one", () => {
  expect(predictMs(FOUR, [{ ms: 7 }, { ms: 5 }, undefined, undefined], 3)).toBe(5); // that b took less than a is noise
  expect(predictMs(FOUR, [{ ms: 5 }, undefined, undefined, { ms: 100 }], 1)).toBe(10); // d alone is slow
});

test("times are predicted in proportion to the MACs, on a line once two are known", () => {
  expect(predictMs(FOUR, [{ ms: 5 }, undefined, undefined, undefined], 3)).toBe(20);
  expect(predictMs(FOUR, [{ ms: 5 }, { ms: 7 }, undefined, undefined], 3)).toBeCloseTo(11);
});
