/** EXIF orientation of WebP: pixels by their numbers, files as sharp writes them. */
import sharp from "sharp";
import { expect, test } from "vitest";
import { isExtendedWebp, isHeic, isSvg } from "../../src/image/imageSize.ts";
import { readTurn } from "../../src/image/orientation.ts";

const TURNED = [2, 3, 4, 5, 6, 7, 8];

/** A picture of 3 × 2 whose pixels all differ. */
const stored = {
  data: new Uint8ClampedArray(24).map((_, i) => (i % 4 === 3 ? 255 : 40 * Math.floor(i / 4) + (i % 4))),
  width: 3,
  height: 2,
};

const ofOrientation = (orientation: number) =>
  sharp(stored.data, { raw: { width: 3, height: 2, channels: 4 } }).withMetadata({ orientation });
const webpOf = async (orientation: number) =>
  new Uint8Array(await ofOrientation(orientation).webp({ lossless: true }).toBuffer());

test.each(TURNED)("orientation %i is turned as sharp turns it", async (orientation) => {
  const file = await ofOrientation(orientation).png().toBuffer();
  const { data, info } = await sharp(file).rotate().ensureAlpha().raw().toBuffer({ resolveWithObject: true });
  const turn = readTurn(await webpOf(orientation))!;
  const upright = turn.upright(stored);
  expect([upright.width, upright.height]).toEqual([info.width, info.height]);
  expect(turn.swapsSides).toBe(info.width === 2);
  expect([...upright.data]).toEqual([...data]);
});

test.each(TURNED)("in orientation %i a region is the same part of the upright picture", async (orientation) => {
  const { upright, storedRegion } = readTurn(await webpOf(orientation))!;
  const whole = upright(stored);
  const region = { x: 1, y: 0, width: whole.width - 1, height: whole.height };
  const part = storedRegion(region, whole.width, whole.height);
  const cut = (image: { data: ArrayLike<number>; width: number }, r: typeof region) => ({
    data: Uint8ClampedArray.from({ length: 4 * r.width * r.height }, (_, i) => {
      const [x, y] = [r.x + (Math.floor(i / 4) % r.width), r.y + Math.floor(i / 4 / r.width)];
      return image.data[4 * (y * image.width + x) + (i % 4)];
    }),
    width: r.width,
    height: r.height,
  });
  expect([...upright(cut(stored, part)).data]).toEqual([...cut(whole, region).data]);
});

test.each(TURNED)("a WebP of orientation %i loses it, and nothing else", async (orientation) => {
  const bytes = await webpOf(orientation);
  expect((await sharp(bytes).metadata()).orientation).toBe(orientation);
  const { file } = readTurn(bytes)!;
  expect(file.length).toBe(bytes.length);
  expect((await sharp(file).metadata()).orientation).toBeUndefined();
  expect(await sharp(file).raw().toBuffer()).toEqual(await sharp(bytes).raw().toBuffer());
});

test("a WebP that is upright or cut off in its metadata is left as it is", async () => {
  const turned = await webpOf(6);
  for (const bytes of [await webpOf(1), turned.slice(0, -20), turned.slice(0, 16)])
    expect(readTurn(bytes)).toBeUndefined();
});

test("a WebP that can have metadata is known by its first bytes", async () => {
  const plain = new Uint8Array(
    await sharp(stored.data, { raw: { width: 3, height: 2, channels: 4 } })
      .webp()
      .toBuffer(),
  );
  expect([await webpOf(6), plain.slice(0, 15), new Uint8Array(30)].map(isExtendedWebp)).toEqual([true, false, false]);
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
