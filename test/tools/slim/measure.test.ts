import { expect, test } from "vitest";
import { lossOf } from "../../../tools/slim/measure.ts";

test("points are lost where the dense model alone is right, and won back where the other one is", () => {
  const dense = { best: [0, 1, 2, 3], ranks: [0, 0, 0, 1] };
  expect(lossOf({ best: [0, 1, 1, 3], ranks: [0, 0, 1, 1] }, dense)).toBe(25);
  expect(lossOf({ best: [0, 1, 2, 2], ranks: [0, 0, 0, 0] }, dense)).toBe(-25);
  expect(lossOf({ best: [0, 1, 1, 2], ranks: [0, 0, 1, 0] }, dense)).toBe(0);
});

test("without labels each picture with another best class is lost, and each that has none", () => {
  const dense = { best: [0, 1, 2, -1], ranks: [] };
  expect(lossOf({ best: [0, 1, 2, -1], ranks: [] }, dense)).toBe(25);
  expect(lossOf({ best: [0, 2, -1, 3], ranks: [] }, dense)).toBe(75);
});
