import { mkdirSync, writeFileSync } from "node:fs";
import { beforeAll, expect, test } from "vitest";
import { lookAtData } from "../../../tools/slim/dataReport.ts";
import { workplace, writePictures } from "../fixtures.ts";

const at = workplace("slim-data");

beforeAll(async () => {
  await writePictures(at("plain"), 10);
  await writePictures(at("split", "train"), 10);
  await writePictures(at("split", "test"), 3);
  writeFileSync(at("plain", "plums", "00.png"), "no picture at all");
  mkdirSync(at("empty"));
});

test("counts each split and names the smallest class", async () => {
  const { lines, train, val, test } = await lookAtData([at("plain")], false);
  expect(lines[0]).toBe(
    'data: 17 train, 6 val and 6 test pictures of 3 classes; the smallest class is "plums" with 5 train pictures',
  );
  expect([train, val, test].map(({ length }) => length)).toEqual([17, 6, 6]);
});

test("what cannot be read is left out and named", async () => {
  const { lines, train } = await lookAtData([at("plain")], false);
  expect(lines.join("\n")).toMatch(/left out: 1 that cannot be read, such as .*plums\/00\.png/);
  expect(train.some(({ name }) => name.endsWith("plums/00.png"))).toBe(false);
});

test("a class that two sources spell differently is one", async () => {
  await writePictures(at("one"), 10, ["New York", "cherries"]);
  await writePictures(at("other", "train"), 3, ["New_York"]);
  await writePictures(at("other", "val"), 2, ["New_York"]);
  const { lines, classNames } = await lookAtData([at("one"), at("other")], false);
  expect(lines[0]).toMatch(/ of 2 classes; /);
  expect(classNames).toEqual(["New York", "cherries"]);
});

test("without a val split, every fifth train picture of the data is held out, and test stays as it is", async () => {
  const { lines, train, val, test, isHeldOut } = await lookAtData([at("split")], false);
  expect(isHeldOut).toBe(true);
  expect(lines.join("\n")).toContain("the data has no val pictures; every fifth of the train pictures is held out");
  expect([train, val, test].map(({ length }) => length)).toEqual([24, 6, 9]);
  expect(new Set(val.map(({ className }) => className)).size).toBe(3);
});

test("few val pictures are said to be few", async () => {
  expect((await lookAtData([at("plain")], false)).lines.join("\n")).toContain("6 val pictures are few");
});

test("labels that are not looked at are not counted", async () => {
  expect((await lookAtData([at("plain")], true)).lines[0]).toBe(
    "data: 17 train, 6 val and 6 test pictures; labels are not looked at",
  );
});

test("data without pictures is refused", async () => {
  await expect(lookAtData([at("empty")], false)).rejects.toThrow(/holds no pictures in class subfolders/);
});
