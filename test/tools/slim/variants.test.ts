import { expect, test } from "vitest";
import { countMacs, type Model } from "../../../src/format/model.ts";
import { type Member, unbeaten, variantsOf } from "../../../tools/slim/variants.ts";
import { CLASSES, randomTensors, tinyArchitecture } from "../fixtures.ts";

const labels = CLASSES.map((label) => ({ id: label, label }));

/** A network whose first block merges so many pairs. */
function member(pairs: number, top1: number, isTaken = false): Member {
  const arch = tinyArchitecture();
  const blocks = arch.blocks.map((block, i) => ({ ...block, merge: i === 0 ? pairs : 0 }));
  const manifest = { ...arch, blocks, labels } as unknown as Model["manifest"];
  const model: Model = { manifest, dtype: "f32", tensors: randomTensors(arch, CLASSES.length, 1) };
  return { model, top1, isTaken, isDense: false, accuracy: [] };
}

const pairsOf = (members: Member[]) => members.map(({ model }) => model.manifest.blocks[0].merge);
const DENSE = countMacs(member(0, 1).model.manifest, CLASSES.length);

test("of the models beside the one that was taken those stay that no smaller one equals, the smallest first", () => {
  expect(pairsOf(unbeaten([member(0, 0.9), member(2, 0.88), member(4, 0.89), member(6, 0.7)]))).toEqual([6, 4, 0]);
  expect(pairsOf(unbeaten([member(0, 0.9), member(4, 0.9)]))).toEqual([4]);
});

test("what was taken stays", () => {
  expect(pairsOf(unbeaten([member(0, 0.9), member(2, 0.88, true), member(4, 0.89)]))).toEqual([4, 2, 0]);
});

test("the dense model stays, though a smaller one equals it", () => {
  const dense = { ...member(0, 0.9), isDense: true };
  expect(pairsOf(unbeaten([dense, member(2, 0.9)]))).toEqual([2, 0]);
});

test("variants are called by their share of the dense model's MACs, and no name comes twice", () => {
  const taken = member(0, 0.9, true);
  const variants = variantsOf([member(4, 0.5), member(0, 0.9), taken, member(0, 0.9)], DENSE);
  const share = Math.round((100 * countMacs(member(4, 0.5).model.manifest, CLASSES.length)) / DENSE);
  expect(variants.map(({ name }) => name)).toEqual([`macs-${share}`, "macs-100"]);
  expect(variants[1].tensors("f32").get("head.weight")!.data).toBe(taken.model.tensors.get("head.weight")!.data);
});
