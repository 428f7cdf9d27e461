import { expect, test } from "vitest";
import { countMacs, type Manifest } from "../../../src/format/model.ts";
import { withoutMerges } from "../../../tools/masks/mergeSchedule.ts";
import {
  AXES,
  DENSE,
  keyOf,
  lossText,
  settingOf,
  settingText,
  shapeOf,
  smallestFirst,
  spaceOf,
} from "../../../tools/slim/space.ts";
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

test("smaller pictures keep the model's proportions, in whole patches, each at most 0.88 of the one before", () => {
  const wide = { ...tinyArchitecture({ imageSize: [80, 160] }), labels } as unknown as Manifest;
  expect(spaceOf(wide, false).size).toEqual([
    [80, 160],
    [64, 128],
    [56, 112],
    [48, 96],
    [40, 80],
  ]);
});

test("every setting has a key of its own", () => {
  const space = spaceOf(whole, true);
  const dense = settingOf(space, DENSE);
  const others = AXES.flatMap((axis) => space[axis].slice(1).map((value) => ({ ...dense, [axis]: value })));
  expect(others.length).toBeGreaterThan(25);
  expect(new Set([dense, ...others].map(keyOf)).size).toBe(others.length + 1);
});

test("keep-lists leave the share of the MACs that they are to leave, with as many patches as that allows", () => {
  const setting = settingOf(spaceOf(whole, false), DENSE);
  for (const lists of [0.9, 0.7, 0.54]) {
    const { blocks: listed } = shapeOf(whole, { ...setting, lists })!;
    const share = macs({ ...whole, blocks: listed }) / macs(whole);
    expect(share).toBeLessThanOrEqual(lists);
    expect(share).toBeGreaterThan(lists - 0.02);
    const kept = listed.map(({ keepIdx }) => keepIdx.length);
    expect(kept).toEqual([...kept].sort((a, b) => b - a));
    expect(kept[0]).toBe(65); // the first sixth of the blocks keeps every patch
    listed.slice(1).forEach(({ keepIdx }, i) => {
      expect(keepIdx.every((token) => listed[i].keepIdx.includes(token))).toBe(true);
    });
  }
});

test("the smallest points have ever more of their patches, merged where merging is an axis", () => {
  const space = spaceOf(whole, true);
  const [all, widths] = [AXES, ["attn", "mlp"] as const].map((axes) => [...smallestFirst(space, axes)]);
  expect(all.map(({ merges }) => merges)).toEqual([7, 6, 5, 4, 3, 2, 1, 0]);
  expect(new Set(all.map(({ lists }) => lists))).toEqual(new Set([0]));
  expect(widths).toEqual([{ ...DENSE, attn: space.attn.length - 1, mlp: space.mlp.length - 1 }]);
});
