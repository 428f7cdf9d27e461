/** From times to the tables of a device: what is timed follows a known cost here, and the tables have to give it back. */
import { describe, expect, test } from "vitest";
import type { BlockShape } from "../../src/format/model.ts";
import { PLAIN } from "../../src/format/model.ts";
import { checkTable } from "../../tools/bench/profile.ts";
import { type DenseShape, gridOf, lastTokens, networksOf } from "../../tools/bench/profileNetworks.ts";
import { quantile, type Timed, tables } from "../../tools/bench/profileTables.ts";

/** 65 tokens, 3 heads of 24 channels. */
const shape: DenseShape = {
  ...PLAIN,
  ...{ imageSize: [32, 32], patchSize: 4, embedDim: 72, headDim: 24, layerNormEps: 1e-6, prefixTokens: 1 },
  ...{ heads: 3, mlpHidden: 96, classes: 10, depth: 5 },
};

/** Milliseconds on a device whose every part costs something else. */
const cost = {
  empty: (n: number) => 0.1 + 0.002 * n,
  drop: (n: number) => 0.01 + 0.0004 * n,
  channels: (n: number, all: number) => 0.0003 * n * all + 0.00002 * n * n,
  head: (n: number) => 0.0007 * n,
  units: (n: number, units: number) => 0.0005 * n * units,
  last: (n: number, heads: number) => 0.05 + 0.001 * n + 0.004 * heads * n,
  outside: (patches: number) => 0.3 + 0.006 * patches,
};

/** What a run of these blocks takes. The last block is like no other. */
function timed(blocks: BlockShape[]): Timed {
  const blockMs = blocks.map(({ headDims, mlpHidden, keepIdx: { length: n } }, i) => {
    if (i === blocks.length - 1) return cost.last(n, headDims.length);
    const all = headDims.reduce((a, b) => a + b, 0);
    const falls = i > 0 && n < blocks[i - 1].keepIdx.length;
    return (
      cost.empty(n) +
      (falls ? cost.drop(n) : 0) +
      (all ? cost.channels(n, all) + cost.head(n) * headDims.length : 0) +
      (mlpHidden ? cost.units(n, mlpHidden) : 0)
    );
  });
  const outsideMs = cost.outside(blocks[0].keepIdx.length - shape.prefixTokens);
  return { plainMs: blockMs.reduce((a, b) => a + b, outsideMs), blockMs, outsideMs };
}

const grid = gridOf(shape);
const lasts = lastTokens(grid);
const networks = networksOf(shape, grid);

/** @param slower other processes' share of the time, by round */
const measured = (slower: number[]): Timed[][] =>
  networks.map((blocks) =>
    slower.map((share) => {
      const { plainMs, blockMs, outsideMs } = timed(blocks);
      const more = 1 + share;
      return { plainMs: more * plainMs, blockMs: blockMs.map((ms) => more * ms), outsideMs: more * outsideMs };
    }),
  );

const close = (value: number) => expect.closeTo(value, 9);

describe("the tables of a device", () => {
  const found = tables(shape, grid, measured([0]));

  test("are of the shares of the tokens, of the heads' widths and of the units", () => {
    expect(grid).toEqual({ tokens: [1, 5, 16, 33, 49, 65], widths: [8, 16, 24], units: [8, 24, 48, 72, 96] });
    expect(found.tokens).toEqual(grid.tokens);
    expect(found.channels).toEqual([0, 24, 48, 72]);
    expect(found.units).toEqual([0, 8, 24, 48, 72, 96]);
    expect(found.last.tokens).toEqual([16, 33, 65]);
  });

  test("give back what an empty block costs, and what the drop of tokens before it adds", () => {
    expect(found.emptyMs).toEqual(grid.tokens.map((n) => close(cost.empty(n))));
    expect(found.dropMs).toEqual(grid.tokens.map((n) => close(n === 65 ? 0 : cost.drop(n))));
  });

  test("give back what attention and MLP add, by tokens and width", () => {
    expect(found.attentionMs).toEqual(
      grid.tokens.map((n) => [0, 24, 48, 72].map((all) => close(all && cost.channels(n, all) + 3 * cost.head(n)))),
    );
    expect(found.mlpMs).toEqual(
      grid.tokens.map((n) => found.units.map((units) => close(units && cost.units(n, units)))),
    );
  });

  test("give back what one more head adds for the same channels", () => {
    expect(found.headMs).toEqual(grid.tokens.map((n) => close(cost.head(n))));
  });

  test("have the last block on its own, empty and full", () => {
    expect(found.last.emptyMs).toEqual(lasts.map((n) => close(cost.last(n, 0))));
    expect(found.last.fullMs).toEqual(lasts.map((n) => close(cost.last(n, 3))));
  });

  test("have what is outside of the blocks, with no patch and with all", () => {
    expect(found.outsideMs).toEqual([close(cost.outside(0)), close(cost.outside(64))]);
  });

  test("are those of the fast tenth of the rounds: other processes only add time", () => {
    const rounds = Array.from({ length: 20 }, (_, k) => (k % 7 < 2 ? 0 : 0.1 * (k % 5) + 0.3));
    expect(tables(shape, grid, measured(rounds))).toEqual(found);
  });

  test("never fall with more tokens or more width, and never below 0, whatever was measured", () => {
    const noisy = networks.map((blocks, network) =>
      Array.from({ length: 3 }, () => {
        const { plainMs, blockMs, outsideMs } = timed(blocks);
        const noise = (i: number) => ((i * 37 + network * 11) % 13) / 6; // 0 to 2
        return { plainMs, blockMs: blockMs.map((ms, i) => ms * noise(i)), outsideMs: outsideMs * noise(network) };
      }),
    );
    const { emptyMs, attentionMs, mlpMs, dropMs, headMs, last, outsideMs } = tables(shape, grid, noisy);
    const columns = (table: number[][]) => table[0].map((_, c) => table.map((row) => row[c]));
    for (const list of [emptyMs, last.emptyMs, last.fullMs, outsideMs])
      expect(list).toEqual([...list].sort((a, b) => a - b));
    for (const table of [attentionMs, mlpMs])
      for (const list of [...table, ...columns(table)]) expect(list).toEqual([...list].sort((a, b) => a - b));
    for (const list of [emptyMs, dropMs, headMs, outsideMs, last.emptyMs])
      expect(Math.min(...list)).toBeGreaterThanOrEqual(0);
  });
});

test("a quantile is one of the values", () => {
  const values = [9, 1, 8, 2, 7, 3, 6, 4, 5, 10];
  expect([0, 0.1, 0.5, 0.99].map((q) => quantile(values, q))).toEqual([1, 2, 6, 10]);
});

test("a prediction that is too low by a tenth is as wrong as one that is too high", () => {
  const check = (error: number) => ({ model: "a", predictedMs: 1 + error, measuredMs: 1, medianMs: 1, error });
  expect(checkTable([-0.5, -0.1, 0.1, 0.11].map(check))).toMatch(/2 of 4 within 10\.0 %$/);
});
