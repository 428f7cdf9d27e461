/** What a class is: folders, archives and tables as people have them. */
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { crc32 } from "node:zlib";
import { beforeEach, describe, expect, test, vi } from "vitest";
import { classOrder, labelIndices } from "../../tools/data/classes.ts";
import { openDataset, type Split } from "../../tools/data/data.ts";
import { layOut } from "../../tools/data/layout.ts";
import { listTree } from "../../tools/data/tree.ts";
import { workplace } from "./fixtures.ts";

const at = workplace("data");
let folders = 0;
let said = "";

beforeEach(() => {
  said = "";
  vi.spyOn(process.stderr, "write").mockImplementation((text) => {
    said += text;
    return true;
  });
});

/** A folder with these files, whose content is their path unless given. */
function folderOf(files: string[] | Record<string, string>): string {
  const root = at(`data${folders++}`);
  for (const [path, content] of Array.isArray(files) ? files.map((path) => [path, path]) : Object.entries(files)) {
    mkdirSync(dirname(`${root}/${path}`), { recursive: true });
    writeFileSync(`${root}/${path}`, content);
  }
  return root;
}

/** className → the paths of its pictures */
async function opened(source: string, split: Split = "all", options = {}): Promise<Record<string, string[]>> {
  const { pictures, classNames } = await openDataset([source], split, options);
  const all: Record<string, string[]> = Object.fromEntries(classNames.map((name) => [name, []]));
  for (const { name, className } of pictures) (all[className] ??= []).push(name.slice(source.length + 1));
  return all;
}

const numbered = (folder: string, count: number) => Array.from({ length: count }, (_, k) => `${folder}/${k}.png`);

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
    expect(said).toContain(`${littered}: left out: 10 hidden or of the system's own`);
  });

  test("what lies below a class folder is of that class, and is said", async () => {
    const root = folderOf(["crab/s1/1.png", "crab/s2/1.png", "crab/0.png", "fish/deep/er/1.png"]);
    expect(await opened(root)).toEqual({
      crab: ["crab/0.png", "crab/s1/1.png", "crab/s2/1.png"],
      fish: ["fish/deep/er/1.png"],
    });
    expect(said).toContain('crab/ has subfolders (s1, s2); their pictures are of class "crab"');
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
    expect(said).toContain("2 without a class");
  });

  test("kinds that are not read are counted by extension, and a class of nothing else is refused", async () => {
    const root = folderOf(["a/1.jfif", "a/2.bmp", "a/3.heic", "a/4.HEIC", "a/notes.txt", "b/1.png"]);
    expect(await opened(root)).toEqual({ a: ["a/1.jfif", "a/2.bmp"], b: ["b/1.png"] });
    expect(said).toContain("files of kinds that are not read: 2 .heic, 1 .txt");
    await expect(opened(folderOf(["a/1.png", "b/1.heic"]))).rejects.toThrow(
      /class folder "b" holds no picture that can be read \(it holds 1 \.heic\)/,
    );
  });

  test("a folder that may not be listed is passed over and said", () => {
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

/** A zip of stored entries. @param names as bytes, each with its flag of UTF-8 */
function zipOf(file: string, names: [Buffer, number][], zip64 = false, unicodePath?: string): string {
  const [locals, centrals]: [Buffer[], Buffer[]] = [[], []];
  let offset = 0;
  for (const [name, flags] of names) {
    const content = Buffer.from(`picture ${locals.length}`);
    const fields = Buffer.alloc(26);
    fields.writeUInt16LE(20, 0);
    fields.writeUInt16LE(flags, 2);
    fields.writeUInt32LE(crc32(content), 10);
    fields.writeUInt32LE(zip64 ? 0xffffffff : content.length, 14);
    fields.writeUInt32LE(zip64 ? 0xffffffff : content.length, 18);
    fields.writeUInt16LE(name.length, 22);
    const extra = Buffer.alloc(zip64 ? 28 : 0);
    if (zip64) {
      extra.writeUInt16LE(1, 0);
      extra.writeUInt16LE(24, 2);
      extra.writeBigUInt64LE(BigInt(content.length), 4);
      extra.writeBigUInt64LE(BigInt(content.length), 12);
      extra.writeBigUInt64LE(BigInt(offset), 20);
      fields.writeUInt16LE(extra.length, 24);
    }
    const path = Buffer.alloc(unicodePath ? 9 + Buffer.byteLength(unicodePath) : 0);
    if (unicodePath) {
      path.writeUInt16LE(0x7075, 0);
      path.writeUInt16LE(path.length - 4, 2);
      path[4] = 1;
      path.writeUInt32LE(crc32(name), 5);
      path.write(unicodePath, 9);
      fields.writeUInt16LE(path.length, 24);
    }
    const local = Buffer.concat([Buffer.from("PK\x03\x04"), fields, name, extra, path, content]);
    const tail = Buffer.alloc(14);
    tail.writeUInt32LE(zip64 ? 0xffffffff : offset, 10);
    centrals.push(Buffer.concat([Buffer.from("PK\x01\x02\x14\x00"), fields, tail, name, extra, path]));
    locals.push(local);
    offset += local.length;
  }
  const central = Buffer.concat(centrals);
  const end = Buffer.alloc(22);
  end.write("PK\x05\x06");
  end.writeUInt16LE(zip64 ? 0xffff : names.length, 8);
  end.writeUInt16LE(zip64 ? 0xffff : names.length, 10);
  end.writeUInt32LE(central.length, 12);
  end.writeUInt32LE(zip64 ? 0xffffffff : offset, 16);
  const end64 = Buffer.alloc(zip64 ? 76 : 0);
  if (zip64) {
    end64.write("PK\x06\x06");
    end64.writeBigUInt64LE(44n, 4);
    end64.writeBigUInt64LE(BigInt(names.length), 24);
    end64.writeBigUInt64LE(BigInt(names.length), 32);
    end64.writeBigUInt64LE(BigInt(central.length), 40);
    end64.writeBigUInt64LE(BigInt(offset), 48);
    end64.write("PK\x06\x07", 56);
    end64.writeBigUInt64LE(BigInt(offset + central.length), 64);
    end64.writeUInt32LE(1, 72);
  }
  writeFileSync(at(file), Buffer.concat([...locals, central, end64, end]));
  return at(file);
}

describe("zips", () => {
  const UTF8 = 0x800;
  const kinds: [string, [Buffer, number][], boolean?][] = [
    [
      "macOS: UTF-8 without its flag, decomposed",
      [
        [Buffer.from("e\u0301t\u00e9/1.png"), 0],
        [Buffer.from("bœuf/1.png"), 0],
      ],
    ],
    [
      "the flag of UTF-8, decomposed",
      [
        [Buffer.from("e\u0301t\u00e9/1.png"), UTF8],
        [Buffer.from("bœuf/1.png"), UTF8],
      ],
    ],
    [
      "Windows separators",
      [
        [Buffer.from("été\\1.png"), UTF8],
        [Buffer.from("bœuf\\1.png"), UTF8],
      ],
    ],
    [
      "zip64",
      [
        [Buffer.from("été/1.png"), UTF8],
        [Buffer.from("bœuf/1.png"), UTF8],
      ],
      true,
    ],
  ];
  test.each(kinds)("%s", async (kind, names, zip64) => {
    const file = zipOf(`${kind.replace(/\W/g, "-")}.zip`, names, zip64);
    const { pictures, classNames } = await openDataset([file], "all");
    expect(classNames).toEqual(["bœuf", "été"]);
    expect((await pictures[0].read()).toString()).toBe("picture 1");
  });

  test("code page 437, where a name is no UTF-8", async () => {
    const file = zipOf("cp437.zip", [[Buffer.from([0x82, 0x74, 0x82, 0x2f, 0x31, 0x2e, 0x70, 0x6e, 0x67]), 0]]);
    expect((await openDataset([file], "all")).classNames).toEqual(["été"]);
  });

  test("the extra field with the name in UTF-8 comes before the name", async () => {
    const name = Buffer.from("garbled/1.png");
    const file = zipOf("unicode-path.zip", [[name, 0]], false, "été/1.png");
    expect((await openDataset([file], "all")).classNames).toEqual(["été"]);
  });
});

/** A tar of these files; long names go into pax records or GNU's entries. */
function tarOf(file: string, files: Record<string, string>, longNames: "pax" | "gnu" = "pax"): string {
  const block = (name: string, kind: string, content: Buffer) => {
    const header = Buffer.alloc(512);
    header.write(name.slice(0, 100));
    header.write("0000644\0", 100);
    header.write(`${content.length.toString(8).padStart(11, "0")}\0`, 124);
    header.write("        ", 148);
    header.write(kind, 156);
    header.write("ustar\x0000", 257, "latin1");
    const sum = header.reduce((a, b) => a + b, 0);
    header.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
    return Buffer.concat([header, content, Buffer.alloc((512 - (content.length % 512)) % 512)]);
  };
  const parts: Buffer[] = [];
  for (const [path, content] of Object.entries(files)) {
    if (Buffer.byteLength(path) > 100) {
      const body = ` path=${path}\n`;
      const length = Buffer.byteLength(body) + 3;
      parts.push(
        longNames === "pax"
          ? block("pax", "x", Buffer.from(`${length}${body}`))
          : block("././@LongLink", "L", Buffer.from(`${path}\0`)),
      );
    }
    parts.push(block(path, "0", Buffer.from(content)));
  }
  writeFileSync(at(file), Buffer.concat([...parts, Buffer.alloc(1024)]));
  return at(file);
}

describe("tars", () => {
  test.each(["pax", "gnu"] as const)("class folders, and long names of %s", async (kind) => {
    const long = `train/crane/${"x".repeat(120)}.png`;
    const file = tarOf(`${kind}.tar`, { "./train/crane/1.png": "one", [long]: "long", "./val/tit/1.png": "two" }, kind);
    expect(await opened(file)).toEqual({ crane: ["train/crane/1.png", long], tit: ["val/tit/1.png"] });
    const { pictures } = await openDataset([file], "all");
    expect((await Promise.all(pictures.map((p) => p.read()))).map(String)).toEqual(["one", "long", "two"]);
  });

  test("a WebDataset shard: classes from .cls or from the label in .json", async () => {
    const shard = {
      "0001.jpg": "a",
      "0001.cls": "crane\n",
      "0002.seg.png": "b",
      "0002.json": '{"label":7}',
      "0003.jpg": "c",
    };
    expect(await opened(tarOf("shard.tar", shard))).toEqual({ "7": ["0002.seg.png"], crane: ["0001.jpg"] });
    expect(said).toContain("1 without a class");
  });

  test("one that is cut off, no tar, or compressed is one sentence", async () => {
    writeFileSync(at("none.tar"), "no tar at all".repeat(100));
    await expect(openDataset([at("none.tar")], "all")).rejects.toThrow(
      /none\.tar: is a broken tar \(no header at byte 0\)/,
    );
    writeFileSync(at("x.tar.gz"), "");
    await expect(openDataset([at("x.tar.gz")], "all")).rejects.toThrow(/is a compressed tar/);
  });
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

describe("classes and labels", () => {
  const labels = (...names: string[]) => names.map((label, k) => ({ id: String(k), label }));
  const indices = (names: string[], of: { id: string; label: string }[]) => [...labelIndices(names, of).values()];

  test("ids that an import made up never beat labels", () => {
    expect(indices(["0", "1", "2"], labels("2", "0", "1"))).toEqual([1, 2, 0]);
    expect(indices(["2"], labels("2", "0", "1"))).toEqual([0]);
    expect(indices(["2"], labels("tench", "crane", "tit"))).toEqual([2]);
  });

  test("ids of the checkpoint's own come before labels", () => {
    const own = [
      { id: "n1", label: "n2" },
      { id: "n2", label: "n1" },
    ];
    expect(indices(["n1", "n2"], own)).toEqual([0, 1]);
  });

  test("accents, underscores and spaces are no difference", () => {
    expect(indices(["e\u0301te\u0301", "hot_dog"], labels("hot dog", "\u00e9t\u00e9"))).toEqual([1, 0]);
  });

  test("a name of two classes is refused, and their ids are told apart", () => {
    const cranes = [
      { id: "n02012849", label: "crane" },
      { id: "n03126707", label: "crane" },
    ];
    expect(() => labelIndices(["crane"], cranes)).toThrow(
      /is the name of 2 classes of the model, "n02012849", "n03126707"/,
    );
    expect(indices(["n03126707"], cranes)).toEqual([1]);
  });

  test("another model's classes are found by name, in whatever order, or refused", () => {
    expect(classOrder(labels("a", "b", "c"), labels("c", "a", "b"), "teacher")).toEqual([1, 2, 0]);
    expect(classOrder(labels("a", "b"), labels("class 0", "class 1"), "teacher")).toEqual([0, 1]);
    const byId = [
      { id: "x", label: "one" },
      { id: "y", label: "two" },
    ];
    expect(classOrder(byId, [...byId].reverse(), "teacher")).toEqual([1, 0]);
    expect(classOrder(labels("a", "a", "b"), labels("a", "a", "b"), "teacher")).toEqual([0, 1, 2]);
    expect(() => classOrder(labels("a", "a", "b"), labels("b", "a", "a"), "teacher")).toThrow(
      /some names are of several/,
    );
    expect(() => classOrder(labels("a", "b"), labels("a", "c"), "teacher")).toThrow(/"b" is not among its labels/);
    expect(() => classOrder(labels("a", "b"), labels("a", "b", "c"), "teacher")).toThrow(
      /has 3 classes, and 2 are needed/,
    );
  });
});
