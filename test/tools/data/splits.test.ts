/** Which pictures a split has, and which of the model's outputs a class folder means, written out by hand. */
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { labelIndices, openDataset, type Split, spread } from "../../../tools/data/data.ts";
import { toBatch } from "../../../tools/training/batches.ts";
import { workplace } from "../fixtures.ts";

const at = workplace("splits");

function writeFiles(...paths: string[]): void {
  for (const path of paths) {
    mkdirSync(dirname(at(path)), { recursive: true });
    writeFileSync(at(path), "not decoded here");
  }
}

const namesOf = async (folder: string, split: Split) =>
  (await openDataset([at(folder)], split)).pictures.map(({ name }) => name.slice(at(folder).length + 1));

describe("data without folders for its splits", () => {
  // Written in another order than sorted, and with a second class whose count does not shift the first one's.
  const letters = "l c a k b j d i e h f g".split(" ");
  writeFiles(
    ...letters.map((name) => `flat/cats/${name}.jpg`),
    ...["3", "1", "2", "5", "4"].map((n) => `flat/dogs/${n}.jpg`),
  );
  const files = (folder: string, names: string) => names.split(" ").map((name) => `${folder}/${name}.jpg`);

  test.each<[Split, string[]]>([
    ["train", [...files("cats", "a b c f g h k l"), ...files("dogs", "1 2 3")]],
    ["val", [...files("cats", "d i"), ...files("dogs", "4")]],
    ["test", [...files("cats", "e j"), ...files("dogs", "5")]],
  ])(
    "%s: every fifth from the fifth on is test, from the fourth on val, by sorted names in each class",
    async (split, wanted) => {
      expect(await namesOf("flat", split)).toEqual(wanted);
    },
  );

  test("all of them are in exactly one split", async () => {
    const parts = await Promise.all((["train", "val", "test"] as const).map((split) => namesOf("flat", split)));
    expect(parts.flat().sort()).toEqual((await namesOf("flat", "all")).sort());
    expect(new Set(parts.flat()).size).toBe(17);
  });
});

test("folders named train, val or valid, and test are the splits, whatever the positions", async () => {
  writeFiles(..."train/a/1 train/a/2 train/b/1 valid/a/9 valid/b/8 test/b/7".split(" ").map((p) => `parted/${p}.png`));
  expect(await namesOf("parted", "train")).toEqual(["train/a/1.png", "train/a/2.png", "train/b/1.png"]);
  expect(await namesOf("parted", "val")).toEqual(["valid/a/9.png", "valid/b/8.png"]);
  expect(await namesOf("parted", "test")).toEqual(["test/b/7.png"]);
  expect(await namesOf("parted", "all")).toHaveLength(6);
});

describe("class folders", () => {
  // The folders' sorted order is neither the labels' nor theirs reversed.
  const labels = [
    { id: "n03", label: "zebra" },
    { id: "n01", label: "ant" },
    { id: "n04", label: "moth" },
    { id: "n02", label: "bee" },
  ];

  test("mean the output of the label with that id", () => {
    expect([...labelIndices(["n01", "n02", "n04"], labels)]).toEqual([
      ["n01", 1],
      ["n02", 3],
      ["n04", 2],
    ]);
  });

  test("or with that text", () => {
    expect([...labelIndices(["ant", "moth", "zebra"], labels)]).toEqual([
      ["ant", 1],
      ["moth", 2],
      ["zebra", 0],
    ]);
  });

  test("give each picture of a batch its own class's output, and −1 without labels", () => {
    const indices = labelIndices(["ant", "bee", "zebra"], labels);
    const preprocess = { resize: 1, crop: [1, 1], interpolation: "bicubic", mean: [0, 0, 0], std: [1, 1, 1] } as never;
    const items = ["zebra", "bee", "bee", "ant"].map((className, k) => ({
      picture: { name: String(k), className, read: async () => Buffer.alloc(0) },
      pixels: Float32Array.of(k, k, k),
    }));
    const batch = toBatch(items, { indices, preprocess });
    expect(batch.labels).toEqual([0, 3, 3, 1]);
    expect([...batch.pixels]).toEqual([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]);
    expect(toBatch(items, { preprocess }).labels).toEqual([-1, -1, -1, -1]);
  });
});

test("a limit takes pictures spread evenly over all, in their order, none twice", () => {
  expect(spread(["a", "b", "c", "d", "e", "f"], 3)).toEqual(["a", "c", "e"]);
  expect(spread(["a", "b"], 5)).toEqual(["a", "b"]);
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 200 }), fc.integer({ min: 1, max: 200 }), (length, limit) => {
      const items = Array.from({ length }, (_, k) => k);
      const taken = spread(items, limit);
      expect(taken).toHaveLength(Math.min(length, limit));
      expect(new Set(taken).size).toBe(taken.length);
      for (let k = 1; k < taken.length; k++) {
        const gap = taken[k] - taken[k - 1];
        expect(Math.abs(gap - length / taken.length)).toBeLessThan(1);
      }
    }),
  );
});
