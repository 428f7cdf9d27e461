/** What a class is: folders and tables as people have them. */
import { execFileSync } from "node:child_process";
import { describe, expect, test } from "vitest";
import { openDataset, type Split } from "../../../tools/data/data.ts";
import { readPicture } from "../../../tools/data/folder.ts";
import { layOut } from "../../../tools/data/layout.ts";
import { listTree } from "../../../tools/data/tree.ts";
import { folderOf, numbered, opened, said } from "./sources.ts";

describe("folders", () => {
  test("what systems and notebooks leave is no class, takes no place in the split, and is counted", async () => {
    const files = [...numbered("cat", 6), ...numbered("dog", 6)];
    const litter = [
      ".ipynb_checkpoints/a.png",
      "cat/.ipynb_checkpoints/0-checkpoint.png",
      "@eaDir/thumb.jpg",
      "cat/@eaDir/0.png/SYNO.jpg",
      "__MACOSX/cat/._0.png",
      "cat/._0.png",
      "dog/.3.png",
      ".git/logo.png",
      "$RECYCLE.BIN/x.png",
      "#recycle/y.png",
    ];
    const [clean, littered] = [folderOf(files), folderOf([...files, ...litter])];
    for (const split of ["train", "val", "test", "all"] as Split[])
      expect(await opened(littered, split)).toEqual(await opened(clean, split));
    expect(said()).toContain(`${littered}: left out: 10 hidden or system files`);
  });

  test("what lies below a class folder is of that class, and is said()", async () => {
    const root = folderOf(["crab/s1/1.png", "crab/s2/1.png", "crab/0.png", "fish/deep/er/1.png"]);
    expect(await opened(root)).toEqual({
      crab: ["crab/0.png", "crab/s1/1.png", "crab/s2/1.png"],
      fish: ["fish/deep/er/1.png"],
    });
    expect(said()).toContain('crab/ has subfolders (s1, s2); their pictures are of class "crab"');
  });

  test.each([
    ["Train", "Validation", "Testing"],
    ["training_set", "valid", "test_set"],
    ["TRAIN", "dev", "tests"],
    ["train", "val", "test"],
  ])("the split folders %s, %s and %s", async (train, val, test) => {
    const root = folderOf([`${train}/a/1.png`, `${train}/b/1.png`, `${val}/a/2.png`, `${test}/b/3.png`]);
    expect(await opened(root, "train")).toEqual({ a: [`${train}/a/1.png`], b: [`${train}/b/1.png`] });
    expect(await opened(root, "val")).toEqual({ a: [`${val}/a/2.png`] });
    expect(await opened(root, "test")).toEqual({ b: [`${test}/b/3.png`] });
  });

  test("split folders may lie in class folders", async () => {
    const root = folderOf(["a/train/1.png", "a/test/2.png", "b/train/1.png"]);
    expect(await opened(root, "test")).toEqual({ a: ["a/test/2.png"] });
    expect(await opened(root)).toEqual({ a: ["a/test/2.png", "a/train/1.png"], b: ["b/train/1.png"] });
  });

  test("a folder around the data is passed, whatever it is called", async () => {
    const root = folderOf([...numbered("all/a", 5), ...numbered("all/b", 5)]);
    expect(await opened(root, "test")).toEqual({ a: ["all/a/4.png"], b: ["all/b/4.png"] });
  });

  test("a class may be called test, and the pictures of a test set without classes are left out with a word", async () => {
    expect(Object.keys(await opened(folderOf(["exam/1.png", "test/1.png"])))).toEqual(["exam", "test"]);
    const root = folderOf(["train/a/1.png", "train/b/1.png", "test/1.png", "test/2.png"]);
    expect(await opened(root)).toEqual({ a: ["train/a/1.png"], b: ["train/b/1.png"] });
    expect(said()).toContain("2 without a class");
  });

  test("kinds that are not read are counted by extension, and a class of nothing else is refused", async () => {
    const root = folderOf(["a/1.jfif", "a/2.bmp", "a/3.heic", "a/4.HEIC", "a/notes.txt", "b/1.png"]);
    expect(await opened(root)).toEqual({ a: ["a/1.jfif", "a/2.bmp"], b: ["b/1.png"] });
    expect(said()).toContain("files of unsupported kinds: 2 .heic, 1 .txt");
    await expect(opened(folderOf(["a/1.png", "b/1.heic"]))).rejects.toThrow(
      /class folder "b" holds no picture that can be read \(it holds 1 \.heic\)/,
    );
  });

  test("a folder that may not be listed is passed over and said()", () => {
    const root = folderOf(["a/1.png", "closed/x.png", "b/2.png"]);
    const denied = Object.assign(new Error("EACCES: permission denied"), { code: "EACCES" });
    const names: Record<string, string[]> = {
      [root]: ["a", "b", "closed"],
      [`${root}/a`]: ["1.png"],
      [`${root}/b`]: [],
    };
    const leaves = listTree(root, (folder) => {
      if (!names[folder]) throw denied;
      return names[folder];
    });
    expect(leaves.find(({ path }) => path === "closed")?.fault).toBe("EACCES");
    const entries = leaves.map(({ path, fault }) => ({
      path,
      ...(fault === undefined ? path.endsWith("png") && { read: async () => Buffer.of() } : { fault }),
    }));
    expect(layOut(root, { entries: entries.filter(({ path }) => path !== "b") }, false)).toMatchObject({
      files: [{ path: "a/1.png", className: "a" }],
      leftOut: ["the folder closed/, which cannot be listed (EACCES)"],
    });
  });

  test("decomposed names are the composed ones", async () => {
    const root = folderOf(["e\u0301pagneul/1.png", "chat/1.png"]);
    expect(Object.keys(await opened(root))).toEqual(["chat", "\u00e9pagneul"]);
  });

  test("unlabelled data may be flat", async () => {
    const root = folderOf(numbered("", 10).map((path) => path.slice(1)));
    await expect(opened(root)).rejects.toThrow(
      /holds no pictures in class subfolders \(left out: 10 without a class\)/,
    );
    expect((await openDataset([root], "train", { unlabelled: true })).pictures).toHaveLength(6);
    expect((await openDataset([root], "val", { unlabelled: true })).pictures).toHaveLength(2);
  });
});

test("names that the matching of classes does not tell apart are one class, and capital letters are said()", async () => {
  const root = folderOf(["New_York/1.png", "New York/2.png", "Paris/3.png", "paris/4.png"]);
  expect(await opened(root)).toEqual({
    "New York": ["New York/2.png", "New_York/1.png"],
    Paris: ["Paris/3.png"],
    paris: ["paris/4.png"],
  });
  expect(said()).toContain('the classes "New York" and "New_York" are taken as one, "New York"');
  expect(said()).toContain('the classes "Paris" and "paris" differ in capital letters alone');
});

test("a pipe is no picture, and is not waited for", () => {
  const root = folderOf(["a/1.png"]);
  execFileSync("mkfifo", [`${root}/pipe.png`]);
  expect(() => readPicture(`${root}/pipe.png`)).toThrow("it is not a file");
});

test("an empty subfolder of unlabelled data is no fault", async () => {
  const root = folderOf(["0.png", "more/1.png", "empty/.keep"]);
  expect(await opened(root, "all", { unlabelled: true })).toEqual({ "": ["0.png"], more: ["more/1.png"] });
});

describe("tables", () => {
  const pictures = ["img/1.png", "img/2.png", "img/3.png"];
  test.each([
    [
      "a header, quotes and a mark of byte order",
      '\ufefflabel,path\r\n"crane, bird",img/1.png\r\n"a ""tit""",img/2.png\r\n',
    ],
    ["semicolons", 'img\\1.png;crane, bird\nimg/2.png;"a ""tit"""\n'],
    ["tabs and a blank line", 'file_name\tclass\nimg/1.png\tcrane, bird\n\n./img/2.png\t"a ""tit"""\n'],
  ])("path and label with %s", async (_, text) => {
    const root = folderOf({ ...Object.fromEntries(pictures.map((path) => [path, path])), "list.csv": text });
    expect(await opened(`${root}/list.csv`)).toEqual({ 'a "tit"': ["img/2.png"], "crane, bird": ["img/1.png"] });
  });

  test("a column of splits is the split", async () => {
    const rows = "path,label,split\nimg/1.png,a,train\nimg/2.png,b,train\nimg/3.png,a,Validation\n";
    const root = folderOf({ "img/1.png": "", "img/2.png": "", "img/3.png": "", "list.csv": rows });
    expect(await opened(`${root}/list.csv`, "val")).toEqual({ a: ["img/3.png"] });
  });

  test("a picture that is not there is named with its row", async () => {
    const root = folderOf({ "img/1.png": "", "list.csv": "path,label\nimg/1.png,a\nimg/9.png,b\n" });
    await expect(opened(`${root}/list.csv`)).rejects.toThrow(
      /list\.csv: row 2 names "img\/9\.png", and there is no such file/,
    );
  });

  test.each([
    ["metadata.csv", "file_name,label\n1.png,crane\n2.png,tit\n"],
    ["metadata.jsonl", '{"file_name":"1.png","label":"crane"}\n{"file_name":"2.png","label":"tit"}\n'],
  ])("Hugging Face's imagefolder: %s", async (name, text) => {
    const root = folderOf({ "1.png": "", "2.png": "", "3.png": "", [name]: text });
    expect(await opened(root)).toEqual({ crane: ["1.png"], tit: ["2.png"] });
  });

  test("imagefolder metadata without a class leaves the class folders", async () => {
    const root = folderOf({
      "a/1.png": "",
      "b/2.png": "",
      "metadata.csv": "file_name,text\na/1.png,a cat\nb/2.png,a dog\n",
    });
    expect(await opened(root)).toEqual({ a: ["a/1.png"], b: ["b/2.png"] });
  });
});
