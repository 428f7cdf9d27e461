import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { random } from "../../../tools/shared/random.ts";
import {
  type Candidate,
  cheapestWithin,
  exploreFrontier,
  type Measurer,
  mostAccurateUnder,
  nonDecreasing,
} from "../../../tools/slim/search.ts";
import { AXES, DENSE, neighbours, type Point, type Space } from "../../../tools/slim/space.ts";

const SPACE: Space = {
  size: [5, 4, 3, 2].map((side) => [16 * side, 16 * side]),
  merges: [1, 0.8, 0.6, 0.4],
  lists: [1, 0.8, 0.6],
  attn: [1, 0.9, 0.7],
  mlp: [1, 0.9, 0.7],
  dtype: ["f16", "int8"],
};

/** What one step on an axis leaves of the cost, and what it adds to the divergence; losses follow it, with noise. */
interface World {
  shares: number[];
  harms: number[];
  noise: number;
  seed: number;
}

/** A model world in which every answer is counted. */
function measurerOf({ shares, harms, noise, seed }: World) {
  const asked = { cost: 0, closeness: 0, loss: [] as string[] };
  const divergence = (point: Point) => AXES.reduce((sum, axis, k) => sum + harms[k] * point[axis] ** 2, 0);
  const noiseOf = (point: Point) => random(seed, ...AXES.map((axis) => point[axis]))() - 0.5;
  const measurer: Measurer = {
    async cost(point) {
      asked.cost++;
      return AXES.reduce((cost, axis, k) => cost * shares[k] ** point[axis], 1000);
    },
    async closeness(point, stage) {
      asked.closeness++;
      const exact = divergence(point);
      return { divergence: exact * (stage === 0 ? 1 + 0.2 * noiseOf(point) : 1), disagreement: Math.min(1, exact) };
    },
    async loss(point) {
      asked.loss.push(JSON.stringify(point));
      return point === DENSE ? 0 : 20 * divergence(point) + noise * noiseOf(point);
    },
  };
  return { measurer, asked };
}

const worlds = fc.record({
  shares: fc.array(fc.double({ min: 0.5, max: 0.95, noNaN: true }), { minLength: AXES.length, maxLength: AXES.length }),
  harms: fc.array(fc.double({ min: 0, max: 0.1, noNaN: true }), { minLength: AXES.length, maxLength: AXES.length }),
  noise: fc.double({ min: 0, max: 3, noNaN: true }),
  seed: fc.nat(1e6),
});

const LIMITS = { leastCost: 50, mostDisagreement: 0.2, axes: AXES };

const isBeaten = (one: Candidate, others: Candidate[]) =>
  others.some(
    (other) =>
      other !== one &&
      other.point.size === one.point.size &&
      other.cost <= one.cost &&
      other.divergence <= one.divergence,
  );

describe("the guided search", () => {
  test("the frontier begins with the dense model, and no point of it is beaten", () =>
    fc.assert(
      fc.asyncProperty(worlds, async (world) => {
        const frontier = await exploreFrontier(SPACE, measurerOf(world).measurer, LIMITS);
        expect(frontier[0].point).toBe(DENSE);
        expect(frontier.slice(1).some((one) => isBeaten(one, frontier.slice(1)))).toBe(false);
        for (let k = 1; k < frontier.length; k++) expect(frontier[k].cost).toBeLessThanOrEqual(frontier[k - 1].cost);
      }),
      { numRuns: 60 },
    ));

  test("what is taken is on the frontier and never loses more than the target", () =>
    fc.assert(
      fc.asyncProperty(worlds, fc.double({ min: 0, max: 5, noNaN: true }), async (world, most) => {
        const { measurer } = measurerOf(world);
        const frontier = await exploreFrontier(SPACE, measurer, LIMITS);
        const { chosen, measured } = (await cheapestWithin(frontier, measurer, most))!;
        expect(chosen.loss).toBeLessThanOrEqual(most);
        expect(frontier.map(({ point }) => point)).toContain(chosen.point);
        expect(measured).toContain(chosen);
      }),
      { numRuns: 60 },
    ));

  test("under a target of cost, what is taken costs no more, and is the best of those that were measured", () =>
    fc.assert(
      fc.asyncProperty(worlds, fc.double({ min: 0.1, max: 1, noNaN: true }), async (world, share) => {
        const { measurer } = measurerOf(world);
        const most = share * 1000;
        const limits = { ...LIMITS, leastCost: 0.75 * most, reach: most, mostDisagreement: 1 };
        const smallest = { size: 3, merges: 3, lists: 0, attn: 2, mlp: 2, dtype: 1 };
        fc.pre((await measurer.cost(smallest))! <= most);
        const frontier = await exploreFrontier(SPACE, measurer, limits);
        const { chosen, measured } = await mostAccurateUnder(frontier, measurer, most);
        expect(chosen.cost).toBeLessThanOrEqual(most);
        for (const one of measured) if (one.cost <= most) expect(chosen.loss).toBeLessThanOrEqual(one.loss);
      }),
      { numRuns: 60 },
    ));

  test("is deterministic, and asks for the loss of few points", async () => {
    const world: World = {
      shares: [0.8, 0.8, 0.85, 0.95, 0.9, 0.5],
      harms: [0.01, 0.004, 0.02, 0.02, 0.01, 0.001],
      noise: 0.3,
      seed: 7,
    };
    const find = async () => {
      const { measurer, asked } = measurerOf(world);
      const frontier = await exploreFrontier(SPACE, measurer, LIMITS);
      return { ...(await cheapestWithin(frontier, measurer, 1))!, asked, frontier };
    };
    const [once, again] = [await find(), await find()];
    expect(again).toEqual(once);
    expect(new Set(once.asked.loss).size).toBe(once.asked.loss.length);
    expect(once.asked.loss.length).toBeLessThan(once.frontier.length);
    expect(once.chosen.cost).toBeLessThan(500);
  });

  test("a cheaper model is not taken for a lucky result between two bad ones", async () => {
    const frontier = [1000, 800, 600, 400].map((cost, k) => ({
      point: { ...DENSE, mlp: k },
      cost,
      divergence: k,
      disagreement: 0,
    }));
    const losses = [0, 0.5, 4, 0.9];
    const measurer = {
      ...measurerOf({ shares: [], harms: [], noise: 0, seed: 0 }).measurer,
      loss: async ({ mlp }: Point) => losses[mlp],
    };
    const { chosen, measured } = (await cheapestWithin(frontier, measurer, 1))!;
    expect(chosen.cost).toBe(800);
    expect(measured.map(({ loss }) => loss)).toEqual(losses);
  });

  /** Two picture sizes of four points each, and losses by their costs. */
  const twoSizes = (lossAt: (cost: number) => number, disagreementAt: (cost: number) => number) => {
    const asked: number[] = [];
    const costs = [1000, 800, 500, 300, 700, 450, 250, 200];
    const frontier = costs
      .map((cost, k) => ({
        ...{ point: { ...DENSE, size: k >> 2, mlp: k & 3 }, cost },
        ...{ divergence: k & 3, disagreement: disagreementAt(cost) },
      }))
      .sort((a, b) => b.cost - a.cost);
    const { measurer } = measurerOf({ shares: [], harms: [], noise: 0, seed: 0 });
    const loss = async ({ size, mlp }: Point) => {
      const cost = costs[4 * size + mlp];
      asked.push(cost);
      return lossAt(cost);
    };
    return { frontier, measurer: { ...measurer, loss }, asked };
  };

  test("a picture size that cannot win is measured once", async () => {
    // The smaller pictures are expected to go down to 200; of the larger ones nothing is cheaper than 250 that loses less.
    const { frontier, measurer, asked } = twoSizes(
      (cost) => (cost === 200 || cost === 300 ? 3 : 0.5),
      (cost) => (cost < 260 ? 0.02 : 0.05),
    );
    const { chosen } = (await cheapestWithin(frontier, measurer, 1))!;
    expect(chosen.cost).toBe(250);
    expect(asked.filter((cost) => [1000, 800, 500, 300].includes(cost))).toEqual([]);
    const larger = twoSizes(
      (cost) => ([700, 450, 250, 200].includes(cost) ? 3 : 0.5),
      (cost) => (cost === 300 ? 0.01 : 0.05),
    );
    expect((await cheapestWithin(larger.frontier, larger.measurer, 1))!.chosen.cost).toBe(300);
    expect(larger.asked.filter((cost) => cost < 300)).toEqual([250]);
  });

  test("under a target of cost a picture size with far more changed pictures is not measured", async () => {
    const isLarger = (cost: number) => [1000, 800, 500, 300].includes(cost);
    for (const far of [0.04, 0.3]) {
      const { frontier, measurer, asked } = twoSizes(
        () => 1,
        (cost) => (isLarger(cost) ? far : 0.02),
      );
      await mostAccurateUnder(frontier, measurer, 600);
      expect(asked.some(isLarger)).toBe(far < 0.06);
      expect(asked).toContain(450);
    }
  });

  test("nothing is taken where what all is made of does not keep the target", async () => {
    const { measurer } = measurerOf({ shares: AXES.map(() => 0.8), harms: AXES.map(() => 0.01), noise: 0, seed: 1 });
    const bad = { ...measurer, loss: async () => 2 };
    expect(await cheapestWithin(await exploreFrontier(SPACE, bad, LIMITS), bad, 1)).toBeUndefined();
  });

  test("nothing cheaper than the least cost is looked at, and nothing is tried from a point that differs too often", async () => {
    const world: World = { shares: AXES.map(() => 0.8), harms: AXES.map(() => 0.01), noise: 0, seed: 1 };
    const looked = async (limits: Partial<typeof LIMITS>) => {
      const { measurer } = measurerOf(world);
      const costs: number[] = [];
      const counting: Measurer = {
        ...measurer,
        async closeness(point, stage) {
          costs.push((await measurer.cost(point))!);
          return measurer.closeness(point, stage);
        },
      };
      await exploreFrontier(SPACE, counting, { ...LIMITS, ...limits });
      return Math.min(...costs);
    };
    expect(await looked({ leastCost: 500 })).toBeCloseTo(1000 * 0.8 ** 3, 6);
    expect(await looked({ leastCost: 350 })).toBeCloseTo(1000 * 0.8 ** 4, 6);
    // One step differs on 1 % of the pictures, two on 2 %: from those nothing is tried any more.
    expect(await looked({ mostDisagreement: 0.015 })).toBeCloseTo(1000 * 0.8 ** 2, 6);
  });

  test("of points that lose the same, the one that diverges less is taken", async () => {
    const frontier = [1000, 400, 300].map((cost, k) => ({
      ...{ point: { ...DENSE, mlp: k }, cost, divergence: [0, 0.3, 0.2][k], disagreement: 0 },
    }));
    const { measurer } = measurerOf({ shares: [], harms: [], noise: 0, seed: 0 });
    const same = { ...measurer, loss: async () => 1 };
    expect((await mostAccurateUnder(frontier, same, 500)).chosen.cost).toBe(300);
  });

  test("patches merge or are dropped, not both", () => {
    const merging = neighbours(SPACE, { ...DENSE, merges: 1 });
    expect(new Set(merging.map(({ lists }) => lists))).toEqual(new Set([0]));
    expect(neighbours(SPACE, DENSE)).toHaveLength(AXES.length);
  });
});

test("non-decreasing values average neighbours that fall", () => {
  expect(nonDecreasing([0, 0.5, 4, 0.9])).toEqual([0, 0.5, 2.45, 2.45]);
  expect(nonDecreasing([1, 1, 2])).toEqual([1, 1, 2]);
  expect(nonDecreasing([3, 2, 1])).toEqual([2, 2, 2]);
});
