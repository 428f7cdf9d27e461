import { expect, test } from "vitest";
import { missedNote } from "../../../tools/slim/trained.ts";

test.each([
  [1.4663, "1.5"],
  [2, "2.0"],
  [12.01, "12.1"],
])("a trained model that loses %f points is named with a target that allows them: %s", (lost, most) => {
  expect(missedNote(lost, 0.287)).toBe(`--lose-at-most ${most} takes it, 28.7 % of the MACs, and does not train again`);
  expect(Number(most)).toBeGreaterThanOrEqual(lost);
});
