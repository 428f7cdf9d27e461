import { existsSync, readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { deflateSync } from "node:zlib";
import { beforeAll, describe, expect, test } from "vitest";
import type { Manifest, WeightsFile } from "../../src/format/model.ts";
import { loadModel } from "../../src/loading/loadModel.ts";
import type { Progress } from "../../src/protocol.ts";
import { readModelFolder, writeFolder, writeModelFolder } from "../../tools/models/folders.ts";
import { randomModel } from "../helpers.ts";
import { expectFailure, tinyArchitecture, workplace } from "../tools/fixtures.ts";

const at = workplace("packed");
const FILE = "model.int8.safetensors.zz";
const request = { engine: "simd", dtype: "auto", cache: false } as const;
let manifest: Manifest;
let packed: Uint8Array<ArrayBuffer>;

beforeAll(() => {
  const model = randomModel(tinyArchitecture(), 1);
  manifest = writeModelFolder(at("tiny"), model.manifest, model.tensors, ["f32", "int8"]);
  packed = Uint8Array.from(readFileSync(at("tiny", FILE)));
});

const deflated = (bytes: Uint8Array): Uint8Array<ArrayBuffer> => Uint8Array.from(deflateSync(bytes));

/** The tiny model with this in its weights file's place. */
function load(bytes: Uint8Array<ArrayBuffer>, claims: Partial<WeightsFile> = {}, onProgress?: (p: Progress) => void) {
  const text = JSON.stringify({ ...manifest, weights: [{ ...manifest.weights[1], ...claims }] });
  const files = Object.entries({ [FILE]: bytes, "slimvit.json": text });
  const source = { files: files.map(([name, content]) => ({ name, blob: new Blob([content]) })) };
  return loadModel({ ...request, source }, { onProgress });
}

describe("int8 weights are compressed in their own file", () => {
  test("which is smaller, and its manifest has both sizes", () => {
    const [f32, int8] = manifest.weights;
    expect(f32).not.toHaveProperty("unpackedBytes");
    expect(int8).toMatchObject({ file: FILE, bytes: packed.length });
    expect(packed.length).toBeLessThan(int8.unpackedBytes!);
  });

  test("and read by the tools and by the runtime, from disk and from files", async () => {
    const { tensors } = readModelFolder(at("tiny"), "int8");
    expect(tensors.size).toBeGreaterThan(0);
    const url = `${pathToFileURL(at("tiny"))}/`;
    expect((await loadModel({ ...request, source: { url } })).model.tensors).toEqual(tensors);
    const seen: Progress[] = [];
    const { model } = await load(packed, {}, (progress) => seen.push(progress));
    expect(model.tensors).toEqual(tensors);
    expect(seen.at(-1)).toEqual({ file: FILE, loadedBytes: packed.length, totalBytes: packed.length, cached: false });
  });

  test.each<[string, () => Uint8Array<ArrayBuffer>, RegExp]>([
    ["cut off", () => packed.slice(0, -9), /model\.int8\.safetensors\.zz: ended after \d+ of the \d+ bytes/],
    ["cut off, as promised", () => packed.slice(0, -9), /cannot be unpacked \(/],
    ["no zlib at all", () => packed.slice().fill(7), /cannot be unpacked \(/],
    ["a flipped bit", () => packed.map((byte, i) => (i === packed.length >> 1 ? byte ^ 4 : byte)), /unpacked|sha256/],
    ["more than was promised", () => deflated(new Uint8Array(2 ** 24)), /is longer than the \d+ bytes in slimvit/],
    ["less than was promised", () => deflated(new Uint8Array(9)), /ended after 9 of the \d+ bytes in slimvit/],
    ["other weights", () => deflated(new Uint8Array(manifest.weights[1].unpackedBytes!)), /its sha256 is /],
  ])("%s is an integrity error", async (name, bytes, fault) => {
    const claims = name === "cut off" ? {} : { bytes: bytes().length };
    const error = await load(bytes(), claims).catch((e) => e);
    expect(error).toMatchObject({ name: "SlimViTError", code: "integrity" });
    expect(error.message).toMatch(fault);
  });

  test("which the tools refuse, too, when more is in it than was promised, and write nothing", async () => {
    const bomb = deflated(new Uint8Array(2 ** 26));
    writeFolder(at("bomb"), {
      [FILE]: bomb,
      "slimvit.json": JSON.stringify({
        ...manifest,
        weights: [{ ...manifest.weights[1], bytes: bomb.length }],
      }),
    });
    await expectFailure(["export", at("bomb"), "-o", at("never"), "--dtype", "f16"], 1, /zz: cannot be unpacked \(/);
    expect(existsSync(at("never"))).toBe(false);
  });
});
