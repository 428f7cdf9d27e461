/** Tables and metadata as spreadsheets, scripts and Hugging Face write them. */
import { writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import type { Split } from "../../../tools/data/data.ts";
import { digestData } from "../../../tools/data/digest.ts";
import { folderOf, opened, said } from "./sources.ts";

const PICTURES = { "a/1.png": "1", "b/2.png": "2" };
const BOTH = { café: ["a/1.png"], "b, c": ["b/2.png"] };

describe("the text of a table", () => {
  const rows = 'path,label\na/1.png,café\nb/2.png, "b, c"\n';
  test.each([
    ["line ends of old Macs", Buffer.from(rows.replaceAll("\n", "\r"))],
    ["UTF-16 of Excel", Buffer.from(`\ufeff${rows}`, "utf16le")],
    ["UTF-16 with the larger byte first", Buffer.from(`\ufeff${rows}`, "utf16le").swap16()],
    ["a space before a quote", Buffer.from(rows)],
    ["tabs, and a comma in a name", Buffer.from("b/2.png\tb, c\na/1.png\tcafé\n")],
    ["semicolons, and a comma in a name", Buffer.from("b/2.png;b, c\na/1.png;café\n")],
    ["a separator that a first line names", Buffer.from("sep=;\npath;label\na/1.png;café\nb/2.png;b, c\n")],
  ])("with %s is read", async (_, bytes) => {
    const root = folderOf(PICTURES);
    writeFileSync(`${root}/list.csv`, bytes);
    expect(await opened(`${root}/list.csv`)).toEqual(BOTH);
  });

  test.each<[string, string | Buffer, RegExp]>([
    ["another encoding, whose accents would be lost", Buffer.from(rows, "latin1"), /list\.csv: is not in UTF-8/],
    [
      "a quote that never closes",
      'path,label\na/1.png,a\nb/2.png,"b\n',
      /line 3 opens a quote \("\) that never closes/,
    ],
    ["a comma that is not quoted", "path,label\na/1.png,a, x\n", /row 1 has 3 cells, not 2; put a cell that holds ","/],
    ["the same without a header", "a/1.png,a, x\nb/2.png,b\n", /row 1 has 3 cells, not 2/],
    ["columns of other names", "id,breed\na/1.png,a\n", /its columns are called "id", "breed"\. Call that of the pict/],
    ["one picture under two names", "a/1.png,a\na/../a/1.png,b\n", /names "a\/\.\.\/a\/1\.png" twice/],
  ])("with %s is refused", async (_, text, message) => {
    const root = folderOf(PICTURES);
    writeFileSync(`${root}/list.csv`, text);
    await expect(opened(`${root}/list.csv`)).rejects.toThrow(message);
  });
});

test("of a quoted cell two quotes are one, and it may hold line ends", async () => {
  const root = folderOf(PICTURES);
  writeFileSync(`${root}/list.csv`, 'path,label\na/1.png,"a ""big"" cat"\nb/2.png,"two\nlines"\n');
  expect(await opened(`${root}/list.csv`)).toEqual({ 'a "big" cat': ["a/1.png"], "two\nlines": ["b/2.png"] });
});

test("a table's column of splits is followed, wherever it stands", async () => {
  const root = folderOf(["1.png", "2.png", "3.png", "4.png"]);
  writeFileSync(`${root}/list.csv`, "set,label,path\ntrain,a,1.png\nvalidation,a,2.png\nTEST,b,3.png\ntrain,b,4.png\n");
  const of = (split: Split) => opened(`${root}/list.csv`, split);
  expect(await of("train")).toEqual({ a: ["1.png"], b: ["4.png"] });
  expect(await of("val")).toEqual({ a: ["2.png"] });
  expect(await of("test")).toEqual({ b: ["3.png"] });
  writeFileSync(`${root}/list.csv`, "path,label,split\n1.png,a,train\n2.png,a,holdout\n");
  await expect(of("all")).rejects.toThrow(/row 2 has the split "holdout"; expected train, val or test/);
});

test("a table's pictures may lie beside its folder and in hidden ones", async () => {
  const root = folderOf({ "pics/1.png": "", ".cache/2.png": "", "lists/list.csv": "" });
  writeFileSync(`${root}/lists/list.csv`, `../pics/1.png,a\n${root}/.cache/2.png,b\n`);
  expect(await opened(`${root}/lists/list.csv`)).toEqual({ a: ["../pics/1.png"], b: [`${root}/.cache/2.png`] });
  expect(said()).not.toContain("left out");
});

test("a table's digest changes with its pictures", async () => {
  const sources = ["1", "2"].map((content) => folderOf({ "1.png": content, "list.csv": "1.png,a\n" }));
  const [one, other] = await Promise.all(sources.map((root) => digestData(`${root}/list.csv`)));
  expect(other.sha256).not.toBe(one.sha256);
  expect(one.files.map((line) => line.split("  ")[1])).toEqual(["list.csv", "1.png"]);
});

test("a folder's digest changes when a picture moves to another class, and not with the system's files", async () => {
  const sha256 = async (files: Record<string, string>) => (await digestData(folderOf(files))).sha256;
  const one = await sha256({ "a/1.png": "x", "a/2.png": "y" });
  expect(await sha256({ "a/1.png": "x", "b/2.png": "y" })).not.toBe(one);
  expect(await sha256({ "a/1.png": "y", "a/2.png": "x" })).not.toBe(one);
  expect(await sha256({ "a/1.png": "x", "a/2.png": "y", ".DS_Store": "z", "a/Thumbs.db": "z" })).toBe(one);
});

test("a folder's digest is the same with composed and decomposed names", async () => {
  const [one, other] = [folderOf(["caf\u00e9/1.png"]), folderOf({ "cafe\u0301/1.png": "caf\u00e9/1.png" })];
  expect((await digestData(other)).sha256).toBe((await digestData(one)).sha256);
});

describe("imagefolder metadata", () => {
  test("in split folders belongs to these splits", async () => {
    const root = folderOf({
      ...{ "train/1.png": "", "train/2.png": "", "test/3.png": "" },
      "train/metadata.csv": "file_name;label\n1.png;a\n2.png;b\n",
      "test/metadata.jsonl": '{"file_name":"3.png","label":"a"}',
    });
    expect(await opened(root, "train")).toEqual({ a: ["train/1.png"], b: ["train/2.png"] });
    expect(await opened(root, "test")).toEqual({ a: ["test/3.png"] });
    expect(said()).toContain("the splits are its folders test, train");
  });

  test("in JSON may have a split", async () => {
    const lines = ["train", "test"].map((split, k) => JSON.stringify({ file_name: `${k}.png`, label: "a", split }));
    const root = folderOf({ "0.png": "", "1.png": "", "metadata.jsonl": lines.join("\n") });
    expect(await opened(root, "test")).toEqual({ a: ["1.png"] });
  });

  test("and the pictures: what either has alone is counted", async () => {
    const root = folderOf({
      "1.png": "",
      "2.png": "",
      "3.png": "",
      "metadata.csv": "file_name,label\n1.png,a\n9.png,b",
    });
    expect(await opened(root)).toEqual({ a: ["1.png"] });
    expect(said()).toContain("1 that its metadata file names and that are not there (9.png)");
    expect(said()).toContain("2 that its metadata file does not name (2.png)");
    expect(await opened(root, "all", { unlabelled: true })).toEqual({ a: ["1.png"], "": ["2.png", "3.png"] });
  });

  test.each([
    ["metadata.csv", "file_name,label\n1.png,a\n1.png,b\n", /gives "1\.png" two classes, "a" and "b"/],
    ["metadata.jsonl", "null\n", /metadata\.jsonl: line 1 has no "file_name"/],
  ])("that is wrong is refused: %s", async (name, text, message) => {
    await expect(opened(folderOf({ "1.png": "", [name]: text }))).rejects.toThrow(message);
  });
});
