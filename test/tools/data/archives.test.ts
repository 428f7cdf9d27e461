/** What a class is in a zip and in a tar. */
import { execFileSync } from "node:child_process";
import { linkSync, readFileSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { crc32 } from "node:zlib";
import { describe, expect, test } from "vitest";
import { openDataset } from "../../../tools/data/data.ts";
import { at, folderOf, opened, said } from "./sources.ts";

/** A zip of stored entries. @param names as bytes, each with its flag of UTF-8 */
function zipOf(file: string, names: [Buffer, number, number?][], zip64 = false, unicodePath?: string): string {
  const [locals, centrals]: [Buffer[], Buffer[]] = [[], []];
  let offset = 0;
  for (const [name, flags, method = 0] of names) {
    // Encrypted entries begin with 12 bytes more.
    const content = Buffer.concat([Buffer.from(`picture ${locals.length}`), Buffer.alloc(flags & 1 ? 12 : 0)]);
    const fields = Buffer.alloc(26);
    fields.writeUInt16LE(20, 0);
    fields.writeUInt16LE(flags, 2);
    fields.writeUInt16LE(method, 4);
    fields.writeUInt32LE(crc32(content), 10);
    fields.writeUInt32LE(zip64 ? 0xffffffff : content.length, 14);
    fields.writeUInt32LE(zip64 ? 0xffffffff : content.length - (flags & 1 ? 12 : 0), 18);
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

test("a zip's paths may begin with a dot, and the last of two entries of a name counts", async () => {
  const names = ["./a/1.png", "b/1.png", "a/1.png"];
  const file = zipOf(
    "dots.zip",
    names.map((name) => [Buffer.from(name), 0]),
  );
  const { pictures } = await openDataset([file], "all");
  expect(pictures.map(({ className }) => className)).toEqual(["a", "b"]);
  expect((await pictures[0].read()).toString()).toBe("picture 2");
});

test("an encrypted zip is refused at once", async () => {
  const file = zipOf("secret.zip", [[Buffer.from("a/1.png"), 1]]);
  await expect(openDataset([file], "all")).rejects.toThrow(/secret\.zip: is encrypted \(a\/1\.png\)/);
});

test("a zip that is compressed otherwise than by deflate is refused at once, and not picture by picture", async () => {
  const file = zipOf("lzma.zip", [
    [Buffer.from("a/1.png"), 0],
    [Buffer.from("b/1.png"), 0, 14],
  ]);
  await expect(openDataset([file], "all")).rejects.toThrow(
    /lzma\.zip: is compressed by a method that is not read here \(b\/1\.png: method 14, not deflate\)/,
  );
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
    expect(said()).toContain("1 without a class");
  });

  test("what macOS leaves in a shard is no sample, and a .cls comes before a .json", async () => {
    const files = { "._1.json": "\0\x05", "._1.jpg": "", "1.cls": "crane", "1.jpg": "a", "1.json": '{"label":3}' };
    expect(await opened(tarOf("mac.tar", files))).toEqual({ crane: ["1.jpg"] });
  });

  test("a sample of two classes is refused, because its names differ after the first dot", async () => {
    const file = tarOf("dots.tar", { "a.v1.jpg": "", "a.v1.cls": "x", "a.v2.jpg": "", "a.v2.cls": "y" });
    await expect(openDataset([file], "all")).rejects.toThrow(/the sample "a" has two classes, "x" and "y"/);
  });

  test("samples in split folders belong to these splits", async () => {
    const files = { "train/1.jpg": "", "train/1.cls": "a", "test/2.jpg": "", "test/2.cls": "b" };
    expect(await opened(tarOf("split.tar", files), "test")).toEqual({ b: ["test/2.jpg"] });
  });

  test("imagefolder metadata gives the classes", async () => {
    const file = tarOf("metadata.tar", { "1.jpg": "", "metadata.csv": "file_name,label\n1.jpg,a\n" });
    expect(await opened(file)).toEqual({ a: ["1.jpg"] });
  });

  test("links are the pictures that they lead to, and a file that was added again is the last", async () => {
    const folder = folderOf({ "a/1.png": "old", "b/2.png": "two" });
    const tar = (...args: string[]) => execFileSync("tar", args, { cwd: folder });
    linkSync(`${folder}/a/1.png`, `${folder}/a/9.png`);
    symlinkSync("../b/2.png", `${folder}/b/7.png`);
    symlinkSync("gone.png", `${folder}/b/8.png`);
    symlinkSync("6.png", `${folder}/b/5.png`);
    symlinkSync("5.png", `${folder}/b/6.png`);
    tar("-cf", "x.tar", "a/1.png", "a/9.png", "b");
    writeFileSync(`${folder}/b/2.png`, "new");
    tar("-rf", "x.tar", "b/2.png");
    const { pictures } = await openDataset([`${folder}/x.tar`], "all");
    const contents = pictures.map((picture) => picture.read().then(String, ({ message }) => message));
    expect(await Promise.all(contents)).toEqual([
      ...["old", "old", "new", ...Array(2).fill("it is a link in a circle"), "new"],
      "it is a link to b/gone.png, which is not in the tar",
    ]);
  });

  test("the folders of a long path lie in ustar's prefix", async () => {
    const long = (name: string) => `${name}/${"n".repeat(95)}/1.png`;
    const folder = folderOf({ [long("crane")]: "one", [long("tit")]: "two" });
    execFileSync("tar", ["--format=ustar", "-cf", "x.tar", "crane", "tit"], { cwd: folder });
    expect(await opened(`${folder}/x.tar`)).toEqual({ crane: [long("crane")], tit: [long("tit")] });
  });

  /** Another size in the header of a tar's first file, as a big-endian number with the first bit set. */
  function withSize(file: string, size: number): void {
    const tar = readFileSync(file);
    tar.fill(0, 124, 136);
    tar[124] = 0x80;
    tar.writeUInt32BE(size, 132);
    tar.write("        ", 148);
    const sum = tar.subarray(0, 512).reduce((a, b) => a + b, 0);
    tar.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
    writeFileSync(file, tar);
  }

  test("a size may be a number and not digits", async () => {
    const file = tarOf("binary.tar", { "a/1.png": "x".repeat(700), "b/2.png": "two" });
    withSize(file, 700);
    const { pictures } = await openDataset([file], "all");
    expect((await Promise.all(pictures.map((p) => p.read()))).map(String)).toEqual(["x".repeat(700), "two"]);
  });

  test("a file that claims to be larger than any picture is refused unread", async () => {
    const size = 2 ** 28 + 1;
    const file = tarOf("large.tar", { "a/1.png": "x" });
    withSize(file, size);
    truncateSync(file, 512 * (2 + Math.ceil(size / 512)));
    const { pictures } = await openDataset([file], "all");
    await expect(pictures[0].read()).rejects.toThrow(`it has ${size} bytes`);
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
