/** EXIF orientation of WebP: pixels by their numbers, files as sharp writes them. */
import sharp from "sharp";
import { expect, test } from "vitest";
import { isHeic, isSvg } from "../../src/image/imageSize.ts";
import { hideWebpOrientation, type Orientation, storedRegion, turnUpright } from "../../src/image/orientation.ts";

const ALL: Orientation[] = [1, 2, 3, 4, 5, 6, 7, 8];

/** A picture of 3 × 2 whose pixels all differ. */
const stored = {
  data: new Uint8ClampedArray(24).map((_, i) => (i % 4 === 3 ? 255 : 40 * Math.floor(i / 4) + (i % 4))),
  width: 3,
  height: 2,
};

test.each(ALL)("orientation %i is turned as sharp turns it", async (orientation) => {
  const file = await sharp(stored.data, { raw: { width: 3, height: 2, channels: 4 } })
    .withMetadata({ orientation })
    .png()
    .toBuffer();
  const { data, info } = await sharp(file).rotate().ensureAlpha().raw().toBuffer({ resolveWithObject: true });
  const upright = turnUpright(stored, orientation);
  expect([upright.width, upright.height]).toEqual([info.width, info.height]);
  expect([...upright.data]).toEqual([...data]);
});

test.each(ALL)("in orientation %i a region is the same part of the upright picture", (orientation) => {
  const whole = turnUpright(stored, orientation);
  const region = { x: 1, y: 0, width: whole.width - 1, height: whole.height };
  const part = storedRegion(region, orientation, whole.width, whole.height);
  const cut = (image: { data: ArrayLike<number>; width: number }, r: typeof region) => ({
    data: Uint8ClampedArray.from({ length: 4 * r.width * r.height }, (_, i) => {
      const [x, y] = [r.x + (Math.floor(i / 4) % r.width), r.y + Math.floor(i / 4 / r.width)];
      return image.data[4 * (y * image.width + x) + (i % 4)];
    }),
    width: r.width,
    height: r.height,
  });
  const turned = turnUpright(cut(stored, part), orientation);
  expect([...turned.data]).toEqual([...cut(whole, region).data]);
});

test.each(ALL)("a WebP of orientation %i loses it, and nothing else", async (orientation) => {
  const webp = sharp({ create: { width: 5, height: 4, channels: 3, background: "red" } }).withMetadata({ orientation });
  const bytes = new Uint8Array(await webp.webp({ lossless: true }).toBuffer());
  expect((await sharp(bytes).metadata()).orientation).toBe(orientation);
  const hidden = hideWebpOrientation(bytes);
  expect(hidden.orientation).toBe(orientation);
  expect(hidden.file.length).toBe(bytes.length);
  if (orientation === 1) expect(hidden.file).toBe(bytes);
  else expect((await sharp(hidden.file).metadata()).orientation).toBeUndefined();
  expect(await sharp(hidden.file).raw().toBuffer()).toEqual(await sharp(bytes).raw().toBuffer());
});

test("a WebP that is cut off in its metadata, and a file of another kind, are left as they are", async () => {
  const turned = sharp({ create: { width: 5, height: 4, channels: 3, background: "red" } }).withMetadata({
    orientation: 6,
  });
  const webp = new Uint8Array(await turned.clone().webp().toBuffer());
  for (const bytes of [webp.slice(0, -20), new Uint8Array(await turned.clone().jpeg().toBuffer()), new Uint8Array(3)])
    expect(hideWebpOrientation(bytes)).toEqual({ orientation: 1, file: bytes });
});

test("HEIC is known by its brand, AVIF is not taken for it", async () => {
  const bytes = (text: string) => new TextEncoder().encode(text);
  expect(isHeic(bytes("\0\0\0\x18ftypheic\0\0\0\0"))).toBe(true);
  const avif = sharp({ create: { width: 4, height: 4, channels: 3, background: "red" } }).avif();
  expect(isHeic(new Uint8Array(await avif.toBuffer()))).toBe(false);
});

test.each([
  ["<svg xmlns='http://www.w3.org/2000/svg'/>", true],
  ['<?xml version="1.0"?>\n<!-- drawn by hand -->\n<svg width="3">', true],
  ["<html><svg/></html>", false],
  ["PNG", false],
])("%j is an SVG drawing: %s", (text, expected) => {
  expect(isSvg(new TextEncoder().encode(text))).toBe(expected);
});
