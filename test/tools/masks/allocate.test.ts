/** The order in which a target removes channels, units and tokens, with costs that are easy to follow. */
import { expect, test } from "vitest";
import { allocate, type Savings } from "../../../tools/masks/allocate.ts";
import { tinyArchitecture } from "../fixtures.ts";

const arch = tinyArchitecture(); // three blocks of 16 channels in two heads, 24 units, 17 tokens
const FREE = { attn: false, mlp: false, patch: false };
const each: Savings = { channel: () => 1, unit: () => 1, token: () => 1 };

/** Everything matters a lot, but for what is given as [block, index, importance]. */
function importanceOf(few: { attn?: [number, number, number][]; mlp?: [number, number, number][] }) {
  const all = arch.blocks.map(() => ({
    attn: new Float32Array(16).fill(100),
    mlp: new Float32Array(24).fill(100),
    patch: new Float32Array(17).fill(100),
  }));
  for (const family of ["attn", "mlp"] as const)
    for (const [block, index, value] of few[family] ?? []) all[block][family][index] = value;
  return all;
}

const gone = (masks: ReturnType<typeof allocate>) =>
  masks.map(({ attn, mlp, tokens }) =>
    [attn, mlp, tokens].map((mask) => mask.flatMap((kept, index) => (kept ? [] : [index]))),
  );
const NOTHING = [[], [], []];

test("a whole head has one importance and saves all of its channels", () => {
  const secondHead = Array.from({ length: 8 }, (_, c): [number, number, number] => [1, 8 + c, 1]);
  const importance = importanceOf({ attn: secondHead, mlp: [[2, 5, 0.5]] });
  // 1 for eight channels is less for each than 0.5 for a unit.
  const cut = (share: number) => gone(allocate(arch, "head", importance, FREE, 100, share, each));
  const head = [[8, 9, 10, 11, 12, 13, 14, 15], [], []];
  expect(cut(0.95)).toEqual([NOTHING, head, NOTHING]);
  expect(cut(0.915)).toEqual([NOTHING, head, [[], [5], []]]);
});

test("what saves more goes first, and removal ends as soon as the target is met", () => {
  const importance = importanceOf({ attn: [[0, 3, 3]], mlp: [[1, 7, 2]] });
  const dearChannels: Savings = { ...each, channel: (_, block) => (block === 0 ? 2 : 1) };
  const cut = (share: number) => gone(allocate(arch, "channel", importance, FREE, 100, share, dearChannels));
  expect(cut(0.99)).toEqual([[[3], [], []], NOTHING, NOTHING]);
  expect(cut(0.98)).toEqual([[[3], [], []], NOTHING, NOTHING]);
  expect(cut(0.975)).toEqual([[[3], [], []], [[], [7], []], NOTHING]);
  expect(cut(1)).toEqual([NOTHING, NOTHING, NOTHING]);
});

test("a saving is that of the block as it is by then", () => {
  const importance = importanceOf({ mlp: [0, 1, 2].map((unit) => [0, unit, 1]) });
  const seen: number[] = [];
  const savings: Savings = {
    ...each,
    unit: ({ units }, block) => {
      if (block === 0) seen.push(units);
      return 1;
    },
  };
  allocate(arch, "channel", importance, FREE, 100, 0.97, savings);
  expect(seen).toEqual([24, 23, 22]);
});
