/** Pictures decoded offline as browsers decode them. The numbers are Chromium's, read back from a canvas. */
import { readFileSync } from "node:fs";
import sharp from "sharp";
import { describe, expect, test, vi } from "vitest";
import { decode, evalPixels } from "../../tools/data/pixels.ts";
import { ODD_KINDS, oddPicture, withChunks } from "../../tools/research/oddPictures.ts";
import { trainBatches } from "../../tools/training/batches.ts";
import { expectClose } from "../helpers.ts";

type Colour = [number, number, number];
const [width, height] = [16, 12];

const plainPng = (colour: Colour) =>
  sharp({ create: { width, height, channels: 3, background: { r: colour[0], g: colour[1], b: colour[2] } } })
    .png()
    .toBuffer();
const firstPixel = async (file: Buffer) => [...(await decode(file, "picture")).data.subarray(0, 4)];
const u32 = (...values: number[]) => {
  const bytes = Buffer.alloc(4 * values.length);
  values.forEach((value, k) => void bytes.writeUInt32BE(Math.round(100000 * value), 4 * k));
  return bytes;
};
const P3 = u32(0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06);
const D50 = u32(0.3457, 0.3585, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06);

describe("PNG colours", () => {
  test.each<[string, Colour, Record<string, Buffer>, Colour]>([
    ["linear light", [64, 0, 0], { gAMA: u32(1) }, [137, 0, 0]],
    ["a gamma of 4", [112, 0, 0], { gAMA: u32(0.25) }, [54, 0, 0]],
    ["the usual gamma", [64, 200, 40], { gAMA: u32(0.45455) }, [64, 200, 40]],
    ["other primaries", [96, 220, 66], { gAMA: u32(0.45455), cHRM: P3 }, [0, 224, 0]],
    ["another white", [64, 200, 40], { gAMA: u32(0.45455), cHRM: D50 }, [0, 201, 51]],
    ["primaries without a gamma", [96, 220, 66], { cHRM: P3 }, [96, 220, 66]],
    ["sRGB, which outdoes a gamma", [64, 0, 0], { sRGB: Buffer.of(0), gAMA: u32(1) }, [64, 0, 0]],
    ["cICP of Display P3", [96, 220, 66], { cICP: Buffer.of(12, 13, 0, 1) }, [0, 223, 4]],
    ["cICP of linear light", [64, 0, 0], { cICP: Buffer.of(1, 8, 0, 1) }, [137, 0, 0]],
  ])("%s", async (_, colour, chunks, expected) => {
    expectClose(await firstPixel(withChunks(await plainPng(colour), chunks)), [...expected, 255], 1);
  });
});

describe("alpha", () => {
  const rgba = (pixel: number[]) =>
    sharp(
      Buffer.from(
        Array(width * height)
          .fill(pixel)
          .flat(),
      ),
      { raw: { width, height, channels: 4 } },
    )
      .png()
      .toBuffer();

  test.each<[number[], number[]]>([
    [
      [255, 255, 255, 0],
      [0, 0, 0, 0],
    ],
    [
      [16, 115, 5, 8],
      [32, 128, 0, 8],
    ],
    [
      [200, 100, 50, 255],
      [200, 100, 50, 255],
    ],
  ])("%j is seen as %j", async (pixel, seen) => {
    expect(await firstPixel(await rgba(pixel))).toEqual(seen);
  });

  test("a WebP's colours are cut off where others are rounded", async () => {
    const raw = (pixel: number[]) =>
      sharp(
        Buffer.from(
          Array(width * height)
            .fill(pixel)
            .flat(),
        ),
        { raw: { width, height, channels: 4 } },
      );
    const webp = (pixel: number[]) => raw(pixel).webp({ lossless: true }).toBuffer();
    expect(await firstPixel(await webp([200, 100, 50, 40]))).toEqual([198, 96, 45, 40]);
    expect(await firstPixel(await webp([30, 160, 90, 150]))).toEqual([29, 160, 88, 150]);
    expect(await firstPixel(await raw([200, 100, 50, 40]).png().toBuffer())).toEqual([198, 102, 51, 40]);
  });

  test("training sees what evaluation sees", async () => {
    const hidden = await sharp(await rgba([255, 255, 255, 0]))
      .resize(32, 32)
      .png()
      .toBuffer();
    const picture = { name: "hidden", className: "", read: async () => hidden };
    const preprocess = {
      resize: 32,
      crop: [32, 32] as [number, number],
      interpolation: "bicubic" as const,
      mean: [0, 0, 0] as Colour,
      std: [1, 1, 1] as Colour,
    };
    const data = { pictures: [picture], preprocess, augmentation: { minScale: 1, flip: false } };
    const { value: batch } = await trainBatches(data, { batch: 1, seed: 0, from: 0, to: 1 }).next();
    expect(batch.pixels).toEqual(await evalPixels(picture, preprocess));
    expect(Math.max(...batch.pixels)).toBe(0);
  });
});

test("CMYK without a press's profile: what the inks leave", async () => {
  const { data } = await decode(readFileSync(new URL("../fixtures/cmyk.jpg", import.meta.url)), "cmyk.jpg");
  expect([...data.subarray(4 * 32, 4 * 33)]).toEqual([255, 0, 255, 255]);
});

test("what browsers do each in its own way is said, once and with the picture's name", async () => {
  const said: string[] = [];
  const write = vi.spyOn(process.stderr, "write").mockImplementation((text) => said.push(String(text)) > 0);
  const colour = { r: 200, g: 100, b: 50, alpha: 0.4 };
  const opaque = sharp({ create: { width, height, channels: 3, background: colour } });
  const files = {
    "press.jpg": await opaque.clone().toColourspace("cmyk").withIccProfile("cmyk").jpeg().toBuffer(),
    "alpha.avif": await sharp({ create: { width, height, channels: 4, background: colour } })
      .avif()
      .toBuffer(),
    "opaque.avif": await opaque.clone().avif().toBuffer(),
  };
  for (const [name, file] of Object.entries(files)) for (const _ of "12") await decode(file, name);
  write.mockRestore();
  expect(said.filter((text) => text.includes("press.jpg: has CMYK inks with a press profile"))).toHaveLength(1);
  expect(said.filter((text) => text.includes("alpha.avif: is an AVIF with alpha"))).toHaveLength(1);
  expect(said.join("")).not.toContain("opaque.avif");
});

test("a JPEG is turned by its orientation and a WebP is not", async () => {
  const turned = (kind: (typeof ODD_KINDS)[number]) =>
    plainPng([9, 9, 9])
      .then((file) => oddPicture(file, kind))
      .then((file) => decode(file, kind));
  expect(await turned("JPEG turned")).toMatchObject({ width: height, height: width });
  expect(await turned("WebP turned")).toMatchObject({ width, height });
});

test("bitmaps of 1 to 32 bits", async () => {
  for (const bits of [1, 4, 8, 16, 24, 32]) {
    const stride = 4 * Math.ceil((width * bits) / 32);
    const palette =
      bits <= 8 ? Buffer.from(Array.from({ length: 1 << bits }, (_, k) => [k, 0, 255 - k, 0]).flat()) : Buffer.of();
    const head = Buffer.alloc(54);
    head.write("BM");
    head.writeUInt32LE(54 + palette.length, 10);
    head.writeUInt32LE(40, 14);
    head.writeInt32LE(width, 18);
    head.writeInt32LE(height, 22);
    head.writeUInt16LE(bits, 28);
    const rows = Buffer.alloc(stride * height);
    const last = rows.subarray(stride * (height - 1)); // the top row
    if (bits <= 8) last[0] = 1 << (8 - bits);
    else if (bits === 16) last.writeUInt16LE(31 << 10);
    else last.set([0, 0, 255]);
    const expected = bits <= 8 ? [254, 0, 1, 255] : [255, 0, 0, 255];
    expect(await firstPixel(Buffer.concat([head, palette, rows])), `${bits} bits`).toEqual(expected);
  }
});

test("a TIFF of floats is refused, as nothing says what its numbers mean", async () => {
  const samples = Buffer.alloc(4 * width * height);
  const tags = [
    [256, width],
    [257, height],
    [258, 32],
    [259, 1],
    [262, 1],
    [273, 8],
    [277, 1],
    [278, height],
    [279, samples.length],
    [339, 3],
  ];
  const directory = Buffer.alloc(2 + 12 * tags.length + 4);
  directory.writeUInt16LE(tags.length);
  tags.forEach(([tag, value], k) => {
    directory.writeUInt16LE(tag, 2 + 12 * k);
    directory.writeUInt16LE(4, 4 + 12 * k);
    directory.writeUInt32LE(1, 6 + 12 * k);
    directory.writeUInt32LE(value, 10 + 12 * k);
  });
  const head = Buffer.from("II*\0\0\0\0\0");
  head.writeUInt32LE(8 + samples.length, 4);
  const tiff = Buffer.concat([head, samples, directory]);
  await expect(decode(tiff, "depth.tiff")).rejects.toThrow(/depth\.tiff: .*samples are of type float.*8 or 16 bits/);
});

test.each(ODD_KINDS)('the odd form "%s" is a picture', async (kind) => {
  const { data } = await decode(await oddPicture(await plainPng([200, 100, 50]), kind), kind);
  expect(data.length).toBe(4 * width * height);
});
