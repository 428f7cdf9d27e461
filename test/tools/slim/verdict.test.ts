import { expect, test } from "vitest";
import type { Outcome, Row } from "../../../tools/slim/outcome.ts";
import { headline, tradeLines, verdictLines } from "../../../tools/slim/verdict.ts";

const row = (share: number, ms: number, top1: number, isTaken = false): Row => ({
  ...{ what: `${share} px`, dtype: "int8", macs: share * 1e9, macsShare: share, bytes: 5e6 * share, ms, top1, isTaken },
  ...{ difference: top1 - 0.9, interval: [top1 - 0.92, top1 - 0.88] },
});

const frontier = [
  row(0.8, 16, 0.901),
  row(0.6, 12, 0.9),
  row(0.5, 10, 0.896, true),
  row(0.4, 9, 0.88),
  row(0.3, 8, 0.8),
];

const outcome: Outcome = {
  ...{ key: "k", out: "mine", target: "at most 1 point of top-1 lost", unlabelled: false, denseName: "dense" },
  ...{
    dense: { ...row(1, 30, 0.9), dtype: "f16" },
    slim: frontier[2],
    frontier,
    notes: ["trained: nothing"],
    seconds: 1,
    pointsMeasured: 5,
  },
  val: { n: 341, dense: 0.9, slim: 0.896, difference: -0.004, interval: [-0.02, 0.012] },
};

test("the first line has what was won and what it cost", () => {
  expect(headline(outcome)).toBe("mine: 50.0 % of the MACs, 3.0 times as fast, loses 0.40 points on val");
  const better = { ...outcome, val: { ...outcome.val, difference: 0.003 } };
  expect(headline(better)).toMatch(/loses nothing on the val pictures/);
});

test("before and after have the paired interval, and what was trained is said", () => {
  const lines = verdictLines(outcome).join("\n");
  expect(lines).toContain("top-1 on val: 90.0 % → 89.6 % of 341 (−0.40 points, 95 % interval −2.00 to +1.20)");
  expect(lines).toContain("the data has no test pictures");
  expect(lines).toContain("MACs: 1.00 G → 500.00 M (50.0 %)");
  expect(lines).toContain("file: 5.00 MB (f16) → 2.50 MB (int8)");
  expect(lines).toContain("trained: nothing");
  expect(lines.match(/→ {2}50\.0 %/g)).toHaveLength(1);
});

test("test pictures are reported beside val where there are some", () => {
  const lines = verdictLines({ ...outcome, test: { ...outcome.val, n: 77 } }).join("\n");
  expect(lines).toContain("top-1 on test: 90.0 % → 89.6 % of 77");
  expect(lines).not.toContain("no test pictures");
});

test("the two models on either side are priced against the one that was taken", () => {
  expect(tradeLines(frontier)).toEqual([
    "  0.5 points more for 6.0 ms more: 0.8 px, int8",
    "  0.4 points more for 2.0 ms more: 0.6 px, int8",
    "  1.6 points less for 1.0 ms less: 0.4 px, int8",
    "  9.6 points less for 2.0 ms less: 0.3 px, int8",
  ]);
});
