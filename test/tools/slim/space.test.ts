import { expect, test } from "vitest";
import { countMacs, type Manifest } from "../../../src/format/model.ts";
import { withoutMerges } from "../../../tools/masks/mergeSchedule.ts";
import { DENSE, lossText, settingOf, settingText, shapeOf, spaceOf } from "../../../tools/slim/space.ts";
import { CLASSES, tinyArchitecture } from "../fixtures.ts";

const labels = CLASSES.map((label) => ({ id: label, label }));
const { blocks, ...arch } = tinyArchitecture({ imageSize: [64, 64] });
const whole = { ...arch, blocks: Array(8).fill(blocks[0]), labels } as unknown as Manifest;
const macs = (manifest: Manifest) => countMacs(manifest, labels.length);
const merged = shapeOf(whole, { ...settingOf(spaceOf(whole, false), DENSE), merges: 0.8 })!;

test("of a model that merges, smaller ones merge more, at its own picture size", () => {
  const space = spaceOf(merged, false);
  expect(space.size).toEqual([[64, 64]]);
  expect(space.lists).toEqual([1]);
  const setting = settingOf(space, { ...DENSE, merges: 1 });
  expect(setting.merges).toBe(0.9);
  const smaller = shapeOf(merged, setting)!;
  expect(macs(smaller)).toBeLessThanOrEqual(0.9 * macs(merged));
  expect(macs(smaller)).toBeGreaterThan(0.7 * macs(merged));
  const pairs = ({ blocks }: Manifest) => blocks.reduce((sum, { merge }) => sum + merge, 0);
  expect(pairs(smaller)).toBeGreaterThan(pairs(merged));
});

test("the same model without its merges has every patch again", () => {
  expect(macs(withoutMerges(merged))).toBe(macs(whole));
});

test("a setting names only what differs from the dense model", () => {
  const dense = { size: [224, 192], merges: 1, lists: 1, attn: 1, mlp: 1, dtype: "int8" } as const;
  expect(settingText({ ...dense, size: [224, 192] })).toBe("192×224 px");
  expect(settingText({ ...dense, size: [160, 160], merges: 0.7, mlp: 0.9 })).toBe(
    "160×160 px, patches merged to 70 % of the MACs, 90 % of the MLP units",
  );
});

test.each([
  [2.049, "2.05 points lost"],
  [-1.17, "1.17 points gained"],
  [0, "no point lost"],
])("a loss of %s is %s", (points, text) => expect(lossText(points)).toBe(text));
