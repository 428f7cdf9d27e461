/** How the networks that meet a budget are compared: by experience without pictures, by divergence with them. */
import { expect, test } from "vitest";
import { type Candidate, mostTrusted } from "../../../tools/elastic/candidates.ts";
import { calibratedDivergence } from "../../../tools/elastic/choose.ts";

const candidate = (side: number, channels: number, units: number, mergeShare: number): Candidate => ({
  ...{ imageSize: [side, side], widths: { channels, units }, mergeShare, macs: 1, model: undefined as never },
});

/** The best of all, then of the others, and so on. */
function inOrder(candidates: Candidate[]): Candidate[] {
  if (!candidates.length) return [];
  const best = mostTrusted([...candidates]);
  return [best, ...inOrder(candidates.filter((one) => one !== best))];
}

test("without pictures, units stay first, then channels, then the picture's size, and last fewer merges", () => {
  const ranked = [
    candidate(128, 0.9, 0.8, 0.6),
    candidate(224, 0.8, 0.8, 0.9),
    candidate(192, 0.8, 0.8, 0.9),
    candidate(192, 0.8, 0.8, 0.7),
    candidate(224, 1, 0.7, 1),
  ];
  expect(inOrder([3, 1, 4, 0, 2].map((k) => ranked[k]))).toEqual(ranked);
});

test("more than so many merges are trusted last, and among them the fewest", () => {
  const ranked = [candidate(128, 0.7, 0.5, 0.55), candidate(160, 0.7, 0.5, 0.5), candidate(224, 1, 1, 0.4)];
  expect(inOrder([2, 0, 1].map((k) => ranked[k]))).toEqual(ranked);
});

function softmax(values: number[]): Float64Array {
  const exponentials = values.map(Math.exp);
  const sum = exponentials.reduce((a, b) => a + b, 0);
  return Float64Array.from(exponentials, (v) => v / sum);
}

test("a network that is less sure of the same classes is as close, and the divergence is that from the whole one", () => {
  const rows = [
    [2, 0.5, -1],
    [0, 1, 3],
  ];
  const wanted = rows.map(softmax);
  const scaled = (by: number) => rows.map((row) => Float32Array.from(row, (v) => v * by));
  for (const by of [Math.SQRT1_2, 1, Math.SQRT2]) expect(calibratedDivergence(wanted, scaled(by))).toBeCloseTo(0, 6);
  // Sharpness is tried up to 2, so of a fourth of the logits half is left: Σ q ln(q / p).
  const half = rows.map((row) => softmax(row.map((v) => v / 2)));
  const divergences = wanted.map((q, k) => q.reduce((sum, v, c) => sum + v * Math.log(v / half[k][c]), 0));
  expect(calibratedDivergence(wanted, scaled(1 / 4))).toBeCloseTo((divergences[0] + divergences[1]) / 2, 6);
});
