/** Pillow's filters, and timm's ways to fit a picture, byte for byte. */
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import type { Interpolation, Preprocess } from "../../src/format/model.ts";
import { preprocess, type RawImage, resizeImage } from "../../src/image/resample.ts";
import { openResampler } from "../../src/image/resampleWasm.ts";
import { expectClose } from "../helpers.ts";

interface Pictures {
  width: number;
  height: number;
  resized: { filter: Interpolation; width: number; height: number; bytes: number[] }[];
  transforms: { size: [number, number]; cropPct: number; mode: string; pixels: number[] }[];
}

const { width, height, resized, transforms }: Pictures = JSON.parse(
  readFileSync(new URL("../fixtures/family/pictures.json", import.meta.url), "utf8"),
);

/** As make-pictures.py makes it. */
function picture(): RawImage {
  const data = new Uint8Array(width * height * 4).fill(255);
  let state = 1;
  for (let pixel = 0; pixel < width * height; pixel++) {
    for (let c = 0; c < 3; c++) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      data[pixel * 4 + c] = state >>> 24;
    }
  }
  return { data, width, height };
}

const rgb = (rgba: ArrayLike<number>) => Array.from(rgba).filter((_, k) => k % 4 < 3);

test.each(resized)("$filter to $width×$height gives Pillow's bytes, in WebAssembly too", async (c) => {
  const image = picture();
  expect(rgb(resizeImage(image, c.width, c.height, c.filter).data)).toEqual(c.bytes);
  const all = { x: 0, y: 0, width: c.width, height: c.height };
  const wasm = await openResampler();
  expect(rgb(wasm(image, { x: 0, y: 0, width, height }, all, c.filter, all))).toEqual(c.bytes);
});

describe("timm's crop modes", () => {
  test.each(transforms)("$mode of $cropPct to $size", ({ size, cropPct, mode, pixels }) => {
    const how: Preprocess = {
      resize: size.map((side) => Math.floor(side / cropPct)) as [number, number],
      ...(mode !== "squash" && { fit: mode === "border" ? "contain" : "cover" }),
      crop: size,
      interpolation: "bicubic",
      mean: [0.2, 0.4, 0.6],
      std: [0.5, 0.25, 1],
    };
    expectClose(preprocess(picture(), how), pixels, 2e-5);
  });
});

test("a crop that cannot be centred begins half to even, or rounded down where transformers made it", () => {
  const how: Preprocess = {
    resize: [17, 23],
    crop: [14, 20],
    interpolation: "bicubic",
    mean: [0, 0, 0],
    std: [1, 1, 1],
  };
  const { data } = picture();
  const first = (p: Preprocess) => Math.round(255 * preprocess(picture(), p)[0]);
  const at = (row: number, column: number) => data[(row * width + column) * 4];
  expect(first(how)).toBe(at(2, 2)); // 1.5 each way
  expect(first({ ...how, cropOffset: "floor" })).toBe(at(1, 1));
});
