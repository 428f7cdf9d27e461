/** From a file to pixels offline: upright by EXIF, random crops as torchvision draws them, mirrored half of the time. */
import sharp from "sharp";
import { beforeAll, describe, expect, test } from "vitest";
import type { Preprocess } from "../../../src/format/model.ts";
import { decodeBmp } from "../../../tools/data/bmp.ts";
import { decode, evalPixels, type Picture } from "../../../tools/data/data.ts";
import { type TrainData, trainBatches } from "../../../tools/training/batches.ts";
import { trainingNumbers } from "../../fixtures/oracle/numbers.ts";
import { expectClose } from "../../helpers.ts";

const SIZE = 16;
const how: Preprocess = {
  ...{ resize: [SIZE, SIZE], crop: [SIZE, SIZE], interpolation: "bicubic" },
  ...{ mean: [0, 0, 0], std: [1, 1, 1] },
};

const pictureOf = (file: Buffer, name = "picture"): Picture => ({ name, className: "any", read: async () => file });

function dataOf(file: Buffer, count: number, augmentation: TrainData["augmentation"]): TrainData {
  const pictures = Array.from({ length: count }, (_, k) => pictureOf(file, `picture ${k}`));
  return { pictures, indices: new Map([["any", 0]]), preprocess: how, augmentation };
}

/** [3, SIZE, SIZE] of each picture of one epoch */
async function epochOf(data: TrainData, seed = 1): Promise<Float32Array[]> {
  const out: Float32Array[] = [];
  const batch = 20;
  for await (const { pixels, size } of trainBatches(data, { batch, seed, from: 0, to: data.pictures.length / batch }))
    for (let k = 0; k < size; k++) out.push(pixels.slice(k * 3 * SIZE * SIZE, (k + 1) * 3 * SIZE * SIZE));
  return out;
}

describe("a picture with an EXIF orientation", () => {
  /** 32×16 px in four flat quarters, so that each turn and mirror image is another one. */
  const [width, height] = [32, 16];
  const COLOURS = [250, 180, 90, 10];
  const quarter = (x: number, y: number) => COLOURS[2 * Number(y >= height / 2) + Number(x >= width / 2)];
  const stored = Buffer.from(
    Array.from({ length: width * height }, (_, k) => Array(3).fill(quarter(k % width, Math.floor(k / width)))).flat(),
  );
  /** EXIF's table: the quarters of the upright picture, clockwise from the top left, by their number as stored. */
  const UPRIGHT: [orientation: number, topLeft: number, topRight: number, bottomLeft: number, bottomRight: number][] = [
    [1, 0, 1, 2, 3],
    [2, 1, 0, 3, 2],
    [3, 3, 2, 1, 0],
    [4, 2, 3, 0, 1],
    [5, 0, 2, 1, 3],
    [6, 2, 0, 3, 1],
    [7, 3, 1, 2, 0],
    [8, 1, 3, 0, 2],
  ];
  const file = (orientation: number) =>
    sharp(stored, { raw: { width, height, channels: 3 } })
      .png()
      .withMetadata({ orientation })
      .toBuffer();
  /** Of a [3, SIZE, SIZE] picture, the red of its quarters' middles in 0..255. */
  const quarters = (pixels: Float32Array) =>
    [SIZE / 4, (3 * SIZE) / 4].flatMap((y) => [SIZE / 4, (3 * SIZE) / 4].map((x) => 255 * pixels[y * SIZE + x]));

  test.each(UPRIGHT)("%d is turned upright, to be classified and to be trained on", async (orientation, ...order) => {
    const wanted = order.map((k) => COLOURS[k]);
    const buffer = await file(orientation);
    const upright = await decode(buffer, "turned");
    const isTurned = orientation > 4;
    expect([upright.width, upright.height]).toEqual(isTurned ? [height, width] : [width, height]);
    const at = (x: number, y: number) => upright.data[4 * (y * upright.width + x)];
    const [right, bottom] = [upright.width - 2, upright.height - 2];
    expect([at(1, 1), at(right, 1), at(1, bottom), at(right, bottom)]).toEqual(wanted);
    expectClose(quarters(await evalPixels(pictureOf(buffer), how)), wanted, 4, "evaluated");
    const [trained] = await epochOf(dataOf(buffer, 20, { minScale: 1, flip: false }));
    // Of a picture of 2:1 even the whole area is cut to 4:3: its middle, in which the quarters keep their order.
    const seen = quarters(trained);
    expect(seen.map((v) => COLOURS.indexOf(nearest(v)))).toEqual([...order]);
  });

  const nearest = (v: number) => COLOURS.reduce((a, b) => (Math.abs(b - v) < Math.abs(a - v) ? b : a));
});

describe("training pictures", () => {
  let gradient: Buffer;
  const { crops } = trainingNumbers();
  beforeAll(async () => {
    // Red is the column and green the row, so a crop's pixels say where it was taken.
    const data = Buffer.alloc(3 * crops.width * crops.height);
    for (let k = 0; k < crops.width * crops.height; k++) {
      data[3 * k] = (255 * ((k % crops.width) + 0.5)) / crops.width;
      data[3 * k + 1] = (255 * (Math.floor(k / crops.width) + 0.5)) / crops.height;
    }
    gradient = await sharp(data, { raw: { width: crops.width, height: crops.height, channels: 3 } })
      .png()
      .toBuffer();
  });

  /** The crop's edges as shares of the picture: the slope over its inner pixels, extended to its rim. */
  function boxOf(pixels: Float32Array): { left: number; right: number; top: number; bottom: number } {
    const at = (c: number, x: number, y: number) => pixels[(c * SIZE + y) * SIZE + x];
    const middle = SIZE / 2;
    const edges = (a: number, b: number) => {
      const slope = (b - a) / (SIZE - 5);
      return [a - 2.5 * slope, b + 2.5 * slope];
    };
    const [left, right] = edges(at(0, 2, middle), at(0, SIZE - 3, middle));
    const [top, bottom] = edges(at(1, middle, 2), at(1, middle, SIZE - 3));
    return { left, right, top, bottom };
  }

  test("are mirrored half of the time, and never without the option", async () => {
    const count = 400;
    const mirrored = async (flip: boolean) => {
      const pictures = await epochOf(dataOf(gradient, count, { minScale: 0.5, flip }));
      return pictures.map(boxOf).filter(({ left, right }) => left > right).length;
    };
    expect(await mirrored(false)).toBe(0);
    expect(Math.abs((await mirrored(true)) - count / 2)).toBeLessThan(4 * Math.sqrt(count / 4));
  });

  test("are never upside down", async () => {
    const boxes = (await epochOf(dataOf(gradient, 100, { minScale: 0.35, flip: true }))).map(boxOf);
    expect(boxes.every(({ top, bottom }) => top < bottom)).toBe(true);
  });

  test("are cropped as torchvision's RandomResizedCrop does: area, aspect and place", async () => {
    const count = 800;
    const pictures = await epochOf(dataOf(gradient, count, { minScale: crops.minScale, flip: false }));
    const figures = pictures.map(boxOf).map(({ left, right, top, bottom }) => {
      const [w, h] = [right - left, bottom - top];
      return [w * h, Math.log((w * crops.width) / (h * crops.height)), (left + right) / 2, (top + bottom) / 2];
    });
    ["area", "log of the aspect", "centre across", "centre down"].forEach((what, k) => {
      const values = figures.map((row) => row[k]);
      const mean = values.reduce((a, b) => a + b) / count;
      const std = Math.sqrt(values.reduce((a, b) => a + (b - mean) ** 2, 0) / count);
      const error = Math.abs(mean - crops.mean[k]);
      expect(error, `${what}: mean ${mean}, torchvision's ${crops.mean[k]}`).toBeLessThan(
        (4 * crops.std[k]) / Math.sqrt(count) + 0.004,
      );
      expect(std / crops.std[k], `${what}: deviation ${std}, torchvision's ${crops.std[k]}`).toBeCloseTo(1, 0.7);
    });
    for (const [area, aspect] of figures) {
      expect(area).toBeGreaterThan(crops.minScale - 0.03);
      expect(Math.abs(aspect)).toBeLessThan(Math.log(4 / 3) + 0.05);
    }
  });

  test.each([
    [120, 30, [40, 30]],
    [30, 120, [30, 40]],
    [40, 32, [40, 32]],
  ])("of %d×%d that no crop fits into are their middle, as torchvision's: at most 4:3, or whole", async (w, h, box) => {
    const long = await sharp(gradient).resize(w, h, { fit: "fill" }).png().toBuffer();
    const [pixels] = await epochOf(dataOf(long, 1, { minScale: 1, flip: false }));
    const { left, right, top, bottom } = boxOf(pixels);
    const [across, down] = [box[0] / w, box[1] / h];
    expectClose([left, right], [(1 - across) / 2, (1 + across) / 2], 0.04, "across");
    expectClose([top, bottom], [(1 - down) / 2, (1 + down) / 2], 0.04, "down");
  });

  test("are another crop in each epoch, and the same again from the same seed", async () => {
    const data = dataOf(gradient, 20, { minScale: 0.35, flip: true });
    const both: Float32Array[] = [];
    for await (const { pixels } of trainBatches(data, { batch: 20, seed: 1, from: 0, to: 2 })) both.push(pixels);
    expect(both[1]).not.toEqual(both[0]);
    const again = await epochOf(data);
    expect(again[0]).toEqual(both[0].slice(0, 3 * SIZE * SIZE));
    expect((await epochOf(data, 2))[0]).not.toEqual(again[0]);
  });
});

describe("bitmaps by hand", () => {
  /** @param header from the 15th byte on @param rest palette or masks, then the rows, the lowest first */
  function bitmap(header: Buffer, rest: number[], rowsAt: number): Buffer {
    const file = Buffer.concat([Buffer.from("BM"), Buffer.alloc(12), header, Buffer.from(rest)]);
    file.writeUInt32LE(file.length, 2);
    file.writeUInt32LE(rowsAt, 10);
    return file;
  }
  const pixelsOf = (file: Buffer) => {
    const { data, width, height } = decodeBmp(file);
    const at = (k: number) => [...data.subarray(4 * k, 4 * k + 4)];
    return Array.from({ length: height }, (_, y) => Array.from({ length: width }, (_, x) => at(y * width + x)));
  };

  test("OS/2's first form has sizes of 16 bits, and a palette of three bytes a colour: blue, green, red", () => {
    const header = Buffer.alloc(12);
    [12, 0, 3, 2, 1, 1].forEach((value, k) => void header.writeUInt16LE(value, 2 * k)); // its size, 3×2 px, 1 plane, 1 bit
    const palette = [10, 20, 30, 40, 50, 60];
    const [dark, light] = [
      [30, 20, 10, 255],
      [60, 50, 40, 255],
    ];
    const file = bitmap(header, [...palette, 0b01100000, 0, 0, 0, 0b10100000, 0, 0, 0], 14 + 12 + 6);
    expect(pixelsOf(file)).toEqual([
      [light, dark, light],
      [dark, light, light],
    ]);
  });

  test("16 bits with masks of their own: five of red, six of green, five of blue", () => {
    const header = Buffer.alloc(40);
    header.writeUInt32LE(40, 0);
    header.writeInt32LE(2, 4);
    header.writeInt32LE(1, 8);
    header.writeUInt16LE(16, 14);
    header.writeUInt32LE(3, 16); // BI_BITFIELDS
    const masks = Buffer.alloc(12);
    [0xf800, 0x07e0, 0x001f].forEach((mask, k) => void masks.writeUInt32LE(mask, 4 * k));
    const row = Buffer.alloc(4);
    row.writeUInt16LE((31 << 11) | 16, 0);
    row.writeUInt16LE((21 << 5) | 31, 2);
    expect(pixelsOf(bitmap(header, [...masks, ...row], 14 + 40 + 12))).toEqual([
      [
        [255, 0, Math.round((255 * 16) / 31), 255],
        [0, Math.round((255 * 21) / 63), 255, 255],
      ],
    ]);
  });
});
