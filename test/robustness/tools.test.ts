import { execFileSync, spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { crc32, deflateRawSync } from "node:zlib";
import { afterAll, beforeAll, expect, test } from "vitest";
import { SlimViTError } from "../../src/errors.ts";
import { importModel } from "../../tools/checkpoints/import.ts";
import { evalPixels, openDataset } from "../../tools/data/data.ts";
import { digestData } from "../../tools/data/digest.ts";
import { readModelFolder } from "../../tools/models/folders.ts";
import {
  BIN,
  CLASSES,
  randomTensors,
  tinyArchitecture,
  writeCheckpoint,
  writeLabels,
  writePictures,
} from "../tools/fixtures.ts";
import { hostilePictures } from "./pictures.ts";
import { count, Tally } from "./tally.ts";

const dir = mkdtempSync(join(tmpdir(), "slimvit-robust-tools-"));
const at = (...parts: string[]) => join(dir, ...parts);
const how = {
  resize: 36,
  crop: [32, 32] as [number, number],
  interpolation: "bicubic" as const,
  mean: [0, 0, 0] as [number, number, number],
  std: [1, 1, 1] as [number, number, number],
};
let checkpoint: Buffer;
let picture: Buffer;

beforeAll(async () => {
  writeCheckpoint(at("tiny.safetensors"), randomTensors(tinyArchitecture(), CLASSES.length, 1));
  checkpoint = readFileSync(at("tiny.safetensors"));
  writeLabels(at("labels.tsv"));
  await writePictures(at("pictures"), 1);
  picture = readFileSync(at("pictures", CLASSES[0], "00.png"));
  await importModel(at("tiny.safetensors"), { out: at("dense"), heads: 2, labels: at("labels.tsv") });
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const leftOver = (out: string) => readdirSync(dir).filter((name) => name === out || name.startsWith(`.${out}.`));

test("truncated and damaged checkpoints are refused by name, and leave nothing", async () => {
  const tally = new Tally("tools-checkpoints", "checkpoints");
  const total = count(500, 40);
  for (let k = 0; k < total; k++) {
    const bytes = k % 2 ? Buffer.from(checkpoint) : checkpoint.subarray(0, Math.floor((checkpoint.length * k) / total));
    if (k % 2) bytes[Math.floor((Math.min(bytes.length, 3000) * k) / total)] ^= 1 << (k % 7);
    writeFileSync(at("spoilt.safetensors"), bytes);
    try {
      await importModel(at("spoilt.safetensors"), { out: at("spoilt"), heads: 2, labels: at("labels.tsv") });
      readModelFolder(at("spoilt")); // a flip may have hit nothing but a number or a name that is not used
      tally.add(k % 2 ? "" : `cut to ${bytes.length}: imported`);
    } catch (error) {
      const isClear = error instanceof SlimViTError && error.message.includes("spoilt.safetensors");
      tally.add(isClear && leftOver("spoilt").length === 0 ? "" : `${k}: ${error}, ${leftOver("spoilt")}`);
    }
    rmSync(at("spoilt"), { recursive: true, force: true });
  }
  tally.close();
});

test("a command that fails leaves what --force would have replaced", async () => {
  const out = at("kept");
  await importModel(at("tiny.safetensors"), { out, heads: 2, name: "kept" });
  await expect(importModel(at("labels.tsv"), { out, force: true })).rejects.toThrow("labels.tsv");
  expect(readModelFolder(out).manifest.name).toBe("kept");
  await importModel(at("tiny.safetensors"), { out, heads: 2, name: "new", force: true });
  expect(readModelFolder(out).manifest.name).toBe("new");
  expect(leftOver("kept")).toEqual(["kept"]);
});

test("a disk that is full ends with one sentence and no half folder", () => {
  const tally = new Tally("tools-disk", "writes past a file-size limit of the kernel (ulimit -f)");
  for (const blocks of [0, 1, 8, 40].slice(0, count(4, 2))) {
    const command = `ulimit -f ${blocks}; exec "$0" "$@"`;
    const args = [
      BIN,
      "import",
      at("tiny.safetensors"),
      "-o",
      at("full"),
      "--heads",
      "2",
      "--labels",
      at("labels.tsv"),
    ];
    const { status, stderr } = spawnSync("bash", ["-c", command, process.execPath, ...args], {
      encoding: "utf8",
      env: { ...process.env, TSX_DISABLE_CACHE: "1" },
    });
    const isClear = status === 1 && /^slimvit: .*(EFBIG|too large)/m.test(stderr) && !/\n\s+at /.test(stderr);
    tally.add(
      isClear && leftOver("full").length === 0
        ? ""
        : `${blocks} blocks: exit ${status}, ${stderr.slice(-300)}, ${leftOver("full")}`,
    );
  }
  tally.close();
});

test("a file system without room ends with one sentence and is left as it was", () => {
  const tally = new Tally("tools-disk", "exports onto a tmpfs that is too small");
  mkdirSync(at("small"));
  // In a namespace of its own, where anyone may mount, and which takes the mount with it.
  const command =
    'mount -t tmpfs -o size="$1" tmpfs "$2" || exit 99; shift 2; "$@"; status=$?; ls -A "$OUT" >&2; exit $status';
  const namespace = process.getuid?.() === 0 ? ["-m"] : ["-r", "-m"];
  const kibibytes = [4, 8, 12, 16, 24, 32, 40, 48].filter((_, k) => k % count(1, 4) === 0);
  for (const size of kibibytes) {
    const args = ["export", at("dense"), "-o", at("small", "full"), "--dtype", "f32,f16,int8", "--onnx"];
    const run = [...namespace, "bash", "-c", command, "bash", `${size}k`, at("small"), process.execPath, BIN, ...args];
    const { status, stderr } = spawnSync("unshare", run, {
      encoding: "utf8",
      env: { ...process.env, OUT: at("small") },
    });
    const isClear = status === 1 && /(^|\n)slimvit: [^\n]*ENOSPC[^\n]*\n$/.test(stderr); // its last words, and then no file
    tally.add(isClear ? "" : `${size} KiB: exit ${status}, ${stderr.slice(-300)}`);
  }
  tally.close();
});

/** Reads every picture of a source; what each said. */
async function readAll(source: string): Promise<string[]> {
  const { pictures } = await openDataset([source], "all");
  return Promise.all(
    pictures.map((p) =>
      evalPixels(p, how).then(
        () => "read",
        (error) => (error instanceof SlimViTError && error.message.startsWith(p.name) ? error.code : String(error)),
      ),
    ),
  );
}

test("unreadable pictures are named, and odd class folders are classes", async () => {
  const tally = new Tally("tools-pictures", "pictures and folders");
  const hostile = await hostilePictures();
  mkdirSync(at("hostile", "x"), { recursive: true });
  hostile.forEach(({ bytes }, k) => void writeFileSync(at("hostile", "x", `${String(k).padStart(3, "0")}.png`), bytes));
  const said = await readAll(at("hostile"));
  hostile.forEach(({ name, fault }, k) => {
    const isTooLarge = fault?.test("is 1×1; expected 1 to 67108864 pixels");
    tally.add(said[k] === "bad-input" || (said[k] === "read" && !isTooLarge) ? "" : `${name}: ${said[k]}`);
  });

  mkdirSync(at("strange", "x"), { recursive: true });
  execFileSync("mkfifo", [at("strange", "x", "pipe.png")]);
  symlinkSync(at("nowhere"), at("strange", "x", "dangling.png"));
  symlinkSync("/dev/zero", at("strange", "x", "endless.png"));
  mkdirSync(at("strange", "x", "folder.png"));
  writeFileSync(at("strange", "x", "folder.png", "inner.png"), picture);
  writeFileSync(at("strange", "x", "huge.png"), picture);
  truncateSync(at("strange", "x", "huge.png"), 2 ** 28 + 1);
  symlinkSync(at("strange", "x", "circle.png"), at("strange", "x", "circle.png"));
  for (const name of ["up", "up-too"]) symlinkSync("..", at("strange", "x", name)); // 2^40 paths
  const refused = ["pipe", "dangling", "endless", "huge", "circle"].map(() => "bad-input");
  const [strange, digest] = [await readAll(at("strange")), await digestData(at("strange"))];
  for (const answer of strange) tally.add(answer === "bad-input" || answer === "read" ? "" : answer);
  expect(strange.sort()).toEqual([...refused, "read"]);
  expect(digest.files).toHaveLength(2);

  const names = [
    "__proto__",
    "constructor",
    "toString",
    "-rf",
    "--help",
    "a b",
    " ",
    "ä漢字🍌",
    "a\nb",
    "'\"`$(x)",
    "<script>",
    "%2e",
    "x".repeat(255),
    "CON",
    "\u202e",
    "a\\b",
    "0",
    "1e3",
    "null",
  ];
  for (const name of names) {
    mkdirSync(at("odd", name), { recursive: true });
    writeFileSync(at("odd", name, "1.png"), picture);
  }
  const { classNames } = await openDataset([at("odd")], "all");
  for (const name of names) tally.add(classNames.includes(name) ? "" : `class ${JSON.stringify(name)} is missing`);
  tally.close();
});

test("names in files do not steer the terminal", async () => {
  await importModel(at("tiny.safetensors"), { out: at("named"), heads: 2, name: "a\x1b]0;title\x07\x9b2Jb" });
  const { stdout } = spawnSync(process.execPath, [BIN, "inspect", at("named")], { encoding: "utf8" });
  expect(stdout).toContain("a\ufffd]0;title\ufffd\ufffd2Jb");
  const odd = at("pictures\x1b[2J");
  const { stderr } = spawnSync(process.execPath, [BIN, "inspect", odd], { encoding: "utf8" });
  expect(stderr).toMatch(/^slimvit: .*pictures\ufffd\[2J: no such folder\.\n$/);
});

/** A zip of one stored or deflated entry, whose header may claim another size. */
function zip(name: string, content: Buffer, claims: Partial<{ size: number; packed: number }> = {}): Buffer {
  const packed = deflateRawSync(content);
  const title = Buffer.from(name);
  const fields = Buffer.alloc(26);
  fields.writeUInt16LE(20, 0);
  fields.writeUInt16LE(0x800, 2); // UTF-8
  fields.writeUInt16LE(8, 4);
  fields.writeUInt32LE(crc32(content), 10);
  fields.writeUInt32LE(claims.packed ?? packed.length, 14);
  fields.writeUInt32LE(claims.size ?? content.length, 18);
  fields.writeUInt16LE(title.length, 22);
  const local = Buffer.concat([Buffer.from("PK\x03\x04"), fields, title, packed]);
  const central = Buffer.concat([Buffer.from("PK\x01\x02\x14\x00"), fields, Buffer.alloc(14), title]);
  central.writeUInt32LE(0, 42);
  const end = Buffer.alloc(22);
  end.write("PK\x05\x06");
  end.writeUInt16LE(1, 8);
  end.writeUInt16LE(1, 10);
  end.writeUInt32LE(central.length, 12);
  end.writeUInt32LE(local.length, 16);
  return Buffer.concat([local, central, end]);
}

test("zip slip writes nothing, and zip bombs are not inflated", async () => {
  const tally = new Tally("tools-archives", "archives");
  const before = readdirSync(tmpdir()).length;
  const attempt = async (what: string, file: Buffer, expected: string[]) => {
    writeFileSync(at("data.zip"), file);
    const held = process.memoryUsage().arrayBuffers;
    const said = await readAll(at("data.zip")).catch((error) => [
      error instanceof SlimViTError && error.message.includes("data.zip") ? "refused" : String(error),
    ]);
    const grown = process.memoryUsage().arrayBuffers - held;
    tally.add(said.every((s) => expected.includes(s)) && grown < 2 ** 26 ? "" : `${what}: ${said}, ${grown} bytes`);
  };
  await attempt("a good zip", zip("x/1.png", picture), ["read"]);
  for (const name of [
    "../x/1.png",
    "x/../../1.png",
    "/x/1.png",
    "C:/x/1.png",
    "..\\x\\1.png",
    "x/..\\..\\1.png",
    "//x/1.png",
    "x/\0/1.png",
    "../../../../../../tmp/x/1.png",
  ])
    await attempt(`the name ${name}`, zip(name, picture), ["refused", "read"]);
  const zeros = Buffer.alloc(2 ** 27);
  await attempt("128 MiB of zeros", zip("x/1.png", zeros), ["bad-input"]);
  await attempt("a size that is a lie", zip("x/1.png", zeros, { size: 1000 }), ["bad-input"]);
  await attempt("a packed size that is a lie", zip("x/1.png", zeros, { packed: 2 ** 27 }), ["bad-input", "refused"]);
  await attempt("4 GiB claimed", zip("x/1.png", picture, { size: 2 ** 32 - 2 }), ["bad-input"]);
  const whole = zip("x/1.png", picture);
  for (let k = 0; k < 20; k++)
    await attempt(`cut at ${k}/20`, whole.subarray(0, Math.floor((whole.length * k) / 20)), ["refused", "bad-input"]);
  tally.add(readdirSync(tmpdir()).length > before + 50 ? "files appeared in the temporary folder" : "");
  tally.add(existsSync(join(dir, "..", "x", "1.png")) || existsSync("/x/1.png") ? "a file was written outside" : "");
  tally.close();
});
