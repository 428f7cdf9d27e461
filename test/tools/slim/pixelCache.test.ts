import { expect, test } from "vitest";
import type { Manifest } from "../../../src/format/model.ts";
import { openDataset, type Picture } from "../../../tools/data/data.ts";
import { PixelCache } from "../../../tools/slim/pixelCache.ts";
import { tinyArchitecture, workplace, writePictures } from "../fixtures.ts";

const at = workplace("pixel-cache");
const arch = tinyArchitecture();
const manifest = {
  ...arch,
  preprocess: { resize: 32, crop: [32, 32], interpolation: "bicubic", mean: [0, 0, 0], std: [1, 1, 1] },
} as unknown as Manifest;

async function all(cache: PixelCache, pictures: Picture[]): Promise<Float32Array[]> {
  const out: Float32Array[] = [];
  for await (const pixels of cache.each(pictures, manifest)) out.push(pixels);
  return out;
}

test("a set that is decoded as it goes gives the same pixels as one that is kept, and both leave out what is broken", async () => {
  await writePictures(at("pictures"), 40);
  const { pictures } = await openDataset([at("pictures")], "all");
  const broken = { name: "broken", className: "plums", read: async () => Buffer.from("no picture") };
  const some = [...pictures.slice(0, 70), broken, ...pictures.slice(70)]; // more than one portion
  const [kept, streamed] = [new PixelCache(1e9), new PixelCache(1)];
  const [a, b] = [await all(kept, some), await all(streamed, some)];
  expect(a).toHaveLength(pictures.length);
  expect(b).toEqual(a);
  expect(kept.readable(some)).toEqual(pictures);
  expect(streamed.readable(some)).toEqual(pictures);
});

test("kept pixels are not decoded again, streamed ones are", async () => {
  const { pictures } = await openDataset([at("pictures")], "all");
  const decodings = async (cache: PixelCache) => {
    let reads = 0;
    const counted = pictures.slice(0, 5).map((one) => ({
      ...one,
      read: () => {
        reads++;
        return one.read();
      },
    }));
    await all(cache, counted);
    await all(cache, counted);
    return reads;
  };
  expect(await decodings(new PixelCache(1e9))).toBe(5);
  expect(await decodings(new PixelCache(1))).toBe(10);
});

test("two sets of pictures are never taken for each other, nor two picture sizes of one set", async () => {
  const { pictures } = await openDataset([at("pictures")], "all");
  const [some, others] = [pictures.slice(0, 3), pictures.slice(3, 6)];
  const cache = new PixelCache(1e9);
  const first = await all(cache, some);
  expect(await all(cache, others)).toEqual(await all(new PixelCache(1e9), others));
  const small = {
    ...manifest,
    imageSize: [16, 16],
    preprocess: { ...manifest.preprocess, resize: 16, crop: [16, 16] },
  };
  const sizes: number[] = [];
  for await (const pixels of cache.each(some, small as unknown as Manifest)) sizes.push(pixels.length);
  expect(sizes).toEqual(Array(3).fill(3 * 16 * 16));
  expect(await all(cache, some)).toEqual(first);
});
