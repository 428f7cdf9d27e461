/** The search among a set's members, on devices that are functions. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { type Choice, choose, MARGIN, MAX_MEASURED, type Measured, predictMs } from "../../src/page/setChoice.ts";

const members = (...macs: number[]) => macs.map((m) => ({ folder: `m${m}`, macs: m }));

interface Run extends Choice {
  /** indices, in the order of their measurement */
  asked: number[];
}

async function run(
  macs: number[],
  budgetMs: number,
  device: (macs: number) => number,
  known: (Measured | undefined)[] = macs.map(() => undefined),
): Promise<Run> {
  const asked: number[] = [];
  const measure = async (index: number): Promise<Measured> => {
    asked.push(index);
    return { ms: device(macs[index]), when: "now" };
  };
  return { ...(await choose(members(...macs), budgetMs, measure, known)), asked };
}

const proportional = (macs: number) => macs / 10;

describe("the search measures", () => {
  test("the cheapest and, as predicted, the dearest where all meet the budget", async () => {
    const { index, meets, asked, reason } = await run([10, 20, 40, 80, 160], 1e9, proportional);
    expect([index, meets, asked]).toEqual([4, true, [0, 4]]);
    expect(reason).toMatch(/m160 takes 16\.0 ms, measured here; it is the most accurate of all$/);
  });

  test("the cheapest alone where it does not meet the budget, and says so", async () => {
    const { index, meets, asked, reason } = await run([10, 20, 40], 1e-6, proportional);
    expect([index, meets, asked]).toEqual([0, false, [0]]);
    expect(reason).toBe("no member takes at most 0.000001 ms: the fastest, m10 takes 1.00 ms, measured here");
  });

  test("the one that is predicted to fit, and not the next, which is not", async () => {
    const { index, asked, reason } = await run([10, 20, 40, 80, 160], 5, proportional);
    expect([index, asked]).toEqual([2, [0, 2]]);
    expect(reason).toMatch(/m40 takes 4\.00 ms, measured here; m80 would take about 8\.00 ms, predicted within 25 %$/);
  });

  test("less and less where the prediction was too hopeful", async () => {
    const cliff = (macs: number) => (macs > 30 ? 10 * macs : macs / 10);
    const { index, asked, reason } = await run([10, 20, 30, 40, 50], 5, cliff);
    expect(asked.slice(0, 2)).toEqual([0, 4]);
    expect(index).toBe(2);
    expect(reason).toMatch(/; m40 takes 400\.0 ms, measured here$/);
  });

  test("more and more where what it costs does not depend on the MACs: one alone predicts nothing", async () => {
    const { index, meets } = await run([1, 10, 100], 12, (macs) => 10 + macs / 100);
    expect([index, meets]).toEqual([2, true]);
  });

  test("nothing that earlier visits have measured", async () => {
    const known: Measured[] = [10, 20, 40].map((macs) => ({ ms: proportional(macs), when: "earlier" }));
    const { index, asked, reason } = await run([10, 20, 40], 3, proportional, known);
    expect([index, asked]).toEqual([1, []]);
    expect(reason).toMatch(/m20 takes 2\.00 ms, measured on an earlier visit; m40 takes 4\.00 ms/);
  });

  test("below one that does not run here", async () => {
    const { index, reason } = await run([10, 20, 40], 1e9, (macs) => (macs > 20 ? Number.POSITIVE_INFINITY : macs));
    expect(index).toBe(1);
    expect(reason).toMatch(/; m40 does not run here$/);
  });
});

test("a prediction is in proportion from one, on the line from two, and never falls", () => {
  const known = (...ms: (number | undefined)[]): (Measured | undefined)[] =>
    ms.map((one) => (one === undefined ? undefined : { ms: one, when: "now" }));
  const three = members(10, 20, 40);
  expect(predictMs(three, known(3, undefined, undefined), 2)).toBeCloseTo(12, 10);
  expect(predictMs(three, known(3, 4, undefined), 2)).toBeCloseTo(6, 10);
  expect(predictMs(three, known(3, 2, undefined), 2)).toBeCloseTo(2, 10);
});

const macsList = fc
  .uniqueArray(fc.integer({ min: 1, max: 1000 }), { minLength: 1, maxLength: 12 })
  .map((list) => list.sort((a, b) => a - b));
const budget = fc.double({ min: 0.01, max: 2000, noNaN: true });

test("on any device: few are measured, none taken that was measured over the budget while another was under it", () =>
  fc.assert(
    fc.asyncProperty(macsList, budget, fc.integer(), async (macs, budgetMs, seed) => {
      const device = (m: number) => 0.01 + Math.abs(Math.imul(m * 7919 + seed, 2654435761) % 1000);
      const { index, meets, asked } = await run(macs, budgetMs, device);
      expect(asked.length).toBeLessThanOrEqual(MAX_MEASURED);
      expect(new Set(asked).size).toBe(asked.length);
      const under = asked.filter((i) => device(macs[i]) <= budgetMs);
      expect(meets).toBe(under.length > 0);
      expect(index).toBe(meets ? Math.max(...under) : 0);
    }),
  ));

test("on a device whose cost is a line over the MACs, the answer is the best there is", () =>
  fc.assert(
    fc.asyncProperty(
      macsList,
      budget,
      fc.double({ min: 0, max: 100, noNaN: true }),
      fc.double({ min: 0.01, max: 1, noNaN: true }),
      async (macs, budgetMs, a, b) => {
        const device = (m: number) => a + b * m;
        const { index, meets, asked } = await run(macs, budgetMs, device);
        const best = macs.findLastIndex((m) => device(m) <= budgetMs);
        expect([index, meets]).toEqual([Math.max(0, best), best >= 0]);
        expect(asked.length).toBeLessThanOrEqual(MAX_MEASURED);
      },
    ),
  ));

test("on a noisy one, nothing that clearly fits is missed", () =>
  fc.assert(
    fc.asyncProperty(
      macsList,
      budget,
      fc.array(fc.double({ min: 0.97, max: 1.03, noNaN: true }), { minLength: 12, maxLength: 12 }),
      async (macs, budgetMs, noise) => {
        const device = (m: number) => m * noise[macs.indexOf(m)];
        const { index, asked } = await run(macs, budgetMs, device);
        if (asked.length === MAX_MEASURED) return;
        const clearly = macs.findLastIndex((m) => m * MARGIN <= budgetMs);
        expect(index).toBeGreaterThanOrEqual(Math.max(0, clearly));
      },
    ),
  ));
