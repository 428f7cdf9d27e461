import { readFileSync } from "node:fs";
import { describe, expect, test, vi } from "vitest";
import type { Preprocess } from "../../src/format/model.ts";
import { preprocess, type RawImage, resizeImage } from "../../src/image/resample.ts";
import { openResampler } from "../../src/image/resampleWasm.ts";

interface Case {
  from: [number, number];
  interpolation: "bicubic" | "bilinear";
  /** RGB, as Pillow has them */
  pixels: number[];
}
interface Fixture {
  resize: (Case & { to: [number, number] })[];
  preprocess: (Case & { resize: number; crop: [number, number]; region?: [number, number, number, number] })[];
}
const fixture: Fixture = JSON.parse(readFileSync(new URL("../fixtures/resize.json", import.meta.url), "utf8"));

/** The picture of fixtures/make-resize.py, with alpha that must not matter. */
function picture(width: number, height: number): RawImage {
  const data = new Uint8ClampedArray(width * height * 4);
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (let c = 0; c < 3; c++) {
        const texture = (x * 37 + y * 61 + c * 97 + ((x * y * 3) ^ ((x * x) >> 2))) & 127;
        data[at++] = texture + ((Math.floor(x / 7) + Math.floor(y / 5) + c) % 2 ? 128 : 0);
      }
      data[at++] = (x * 91 + y) & 255;
    }
  }
  return { data, width, height };
}

const settings: Preprocess = {
  resize: 18,
  crop: [16, 16],
  interpolation: "bicubic",
  mean: [0.485, 0.456, 0.406],
  std: [0.229, 0.224, 0.225],
};

describe("resizeImage gives Pillow's pixels", () => {
  test.each(fixture.resize)("$from → $to, $interpolation", ({ from, to, interpolation, pixels }) => {
    const { data, width, height } = resizeImage(picture(...from), ...to, interpolation);
    expect([width, height]).toEqual(to);
    expect([...data].filter((_, i) => i % 4 !== 3)).toEqual(pixels);
    expect([...data].filter((_, i) => i % 4 === 3).every((alpha) => alpha === 255)).toBe(true);
  });
});

describe("preprocess gives torchvision's resize and centre crop", () => {
  test.each(fixture.preprocess)(
    "$from → $resize → $crop, $interpolation, region $region",
    ({ from, resize, crop, interpolation, region, pixels }) => {
      const [x, y, width, height] = region ?? [];
      const out = preprocess(
        picture(...from),
        { resize, crop, interpolation, mean: [0, 0, 0], std: [1, 1, 1] },
        region && { x: x!, y: y!, width: width!, height: height! },
      );
      const area = crop[0] * crop[1];
      const levels = pixels.map((_, i) => Math.round(255 * out[(i % 3) * area + Math.floor(i / 3)]));
      expect(levels).toEqual(pixels);
    },
  );
});

test("a squash resizes both sides whatever the shape, as resizeImage does, then cuts the centre", () => {
  const mean: [number, number, number] = [0, 0, 0];
  const how: Preprocess = { resize: [14, 20], crop: [14, 20], interpolation: "bicubic", mean, std: [1, 1, 1] };
  for (const [width, height] of [
    [64, 48],
    [31, 90],
    [9, 11],
  ]) {
    const whole = resizeImage(picture(width, height), 20, 14, "bicubic").data;
    const levels = (out: Float32Array) => [...out].map((v) => Math.round(255 * v));
    const expected = (top: number, left: number, rows: number, columns: number) =>
      [0, 1, 2].flatMap((c) =>
        Array.from({ length: rows * columns }, (_, i) => {
          const [row, column] = [top + Math.floor(i / columns), left + (i % columns)];
          return whole[(row * 20 + column) * 4 + c];
        }),
      );
    expect(levels(preprocess(picture(width, height), how))).toEqual(expected(0, 0, 14, 20));
    const cut = preprocess(picture(width, height), { ...how, crop: [8, 10] });
    expect(levels(cut)).toEqual(expected(3, 5, 8, 10));
  }
});

test("normalises each channel by its own mean and deviation", () => {
  const grey = { data: new Uint8Array(20 * 20 * 4).fill(51), width: 20, height: 20 };
  const out = preprocess(grey, settings);
  expect(out.length).toBe(3 * 256);
  for (let c = 0; c < 3; c++) {
    const channel = out.subarray(c * 256, (c + 1) * 256);
    expect(channel.every((v) => Math.abs(v - (0.2 - settings.mean[c]) / settings.std[c]) < 1e-6)).toBe(true);
  }
});

test("leaves the image alone", () => {
  const image = picture(30, 20);
  const before = image.data.slice();
  preprocess(image, settings);
  expect(image.data).toEqual(before);
});

test("a strip that would blow up the resampler's memory, which never shrinks, takes the plain form", async () => {
  const grow = vi.spyOn(WebAssembly.Memory.prototype, "grow");
  const height = 140_000;
  const strip = { data: new Uint8Array(4 * height).fill(70), width: 1, height };
  const sides: [number, number] = [128, 128];
  const how = { ...settings, resize: sides, crop: sides, interpolation: "bilinear" as const };
  const out = preprocess(strip, how, undefined, await openResampler());
  const pages = grow.mock.calls.reduce((sum, [delta]) => sum + delta, 0);
  grow.mockRestore();
  expect(pages).toBeLessThan(1024);
  expect([...new Set(out.subarray(0, 128 * 128))]).toEqual([
    Math.fround((Math.fround(70 / 255) - Math.fround(settings.mean[0])) / Math.fround(settings.std[0])),
  ]);
});

test("a picture one pixel wide and very long costs no more than its crop", () => {
  const start = performance.now();
  preprocess(
    { data: new Uint8Array(4 * 65_535), width: 1, height: 65_535 },
    { ...settings, resize: 256, crop: [224, 224] },
  );
  expect(performance.now() - start).toBeLessThan(500);
});

test.each([
  ["0×5", { data: new Uint8Array(0), width: 0, height: 5 }, /0×5; expected at least one pixel/],
  ["5×0", { data: new Uint8Array(0), width: 5, height: 0 }, /5×0; expected at least one pixel/],
  ["NaN×1", { data: new Uint8Array(4), width: Number.NaN, height: 1 }, /NaN×1/],
  ["−1×−1", { data: new Uint8Array(4), width: -1, height: -1 }, /-1×-1/],
  ["1.5×2", { data: new Uint8Array(12), width: 1.5, height: 2 }, /1.5×2/],
  ["too few bytes", { data: new Uint8Array(15), width: 2, height: 2 }, /2×2 and has 15 bytes; RGBA pixels need 16/],
  ["RGB", { data: new Uint8Array(12), width: 2, height: 2 }, /has 12 bytes/],
  ["no data", { width: 2, height: 2 } as RawImage, /has undefined bytes/],
])("refuses an image of %s", (_, image, message) => {
  expect(() => preprocess(image, settings)).toThrow(
    expect.objectContaining({ code: "bad-input", message: expect.stringMatching(message) }),
  );
});

test.each([
  { x: -1, y: 0, width: 5, height: 5 },
  { x: 0, y: 0, width: 21, height: 5 },
  { x: 15, y: 15, width: 5, height: 6 },
  { x: 0, y: 0, width: 0, height: 5 },
  { x: 0.5, y: 0, width: 5, height: 5 },
  { x: Number.NaN, y: 0, width: 5, height: 5 },
])("refuses the region $x, $y, $width×$height of a 20×20 image", (region) => {
  expect(() => preprocess(picture(20, 20), settings, region)).toThrow(expect.objectContaining({ code: "bad-option" }));
});
