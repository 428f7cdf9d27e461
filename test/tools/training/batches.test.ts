/** Batches for a training: the shape and colours of their pixels, and what an epoch and a seed change. */
import sharp from "sharp";
import { expect, test } from "vitest";
import type { Preprocess } from "../../../src/format/model.ts";
import type { Picture } from "../../../tools/data/data.ts";
import { type TrainData, trainBatches } from "../../../tools/training/batches.ts";
import { expectClose } from "../../helpers.ts";

type Colour = [number, number, number];
const [HEIGHT, WIDTH] = [12, 20];

const preprocess = (mean: Colour, std: Colour): Preprocess => ({
  ...{ resize: [HEIGHT, WIDTH], crop: [HEIGHT, WIDTH], interpolation: "bicubic", mean, std },
});
const RAW = preprocess([0, 0, 0], [1, 1, 1]);

/** @param colourOf of the pixel at column x and row y */
async function picture(name: string, colourOf: (x: number, y: number) => Colour): Promise<Picture> {
  const [width, height] = [50, 40];
  const pixels = Array.from({ length: width * height }, (_, k) => colourOf(k % width, Math.floor(k / width)));
  const file = await sharp(Buffer.from(pixels.flat()), { raw: { width, height, channels: 3 } })
    .png()
    .toBuffer();
  return { name, className: "any", read: async () => file };
}

const dataOf = (pictures: Picture[], how = RAW, augmentation: Partial<TrainData["augmentation"]> = {}): TrainData => ({
  ...{ pictures, indices: new Map([["any", 0]]), preprocess: how },
  augmentation: { minScale: 1, flip: false, ...augmentation },
});

async function stepsOf(data: TrainData, options: { batch: number; seed: number; to: number }) {
  const batches = [];
  for await (const batch of trainBatches(data, { from: 0, ...options })) batches.push(batch);
  return batches;
}

test("pictures get the height and the width of the input, and keep their rows and columns", async () => {
  const gradient = await picture("gradient", (x, y) => [5 * x, 6 * y, 0]); // red is the column, green the row
  const [{ pixels }] = await stepsOf(dataOf([gradient]), { batch: 1, seed: 3, to: 1 });
  expect(pixels).toHaveLength(3 * HEIGHT * WIDTH);
  const at = (c: number, x: number, y: number) => pixels[(c * HEIGHT + y) * WIDTH + x];
  for (let y = 0; y < HEIGHT; y++) {
    for (let x = 0; x < WIDTH; x++) {
      expect(Math.abs(at(0, x, y) - at(0, x, 0))).toBeLessThan(0.02);
      expect(Math.abs(at(1, x, y) - at(1, 0, y))).toBeLessThan(0.02);
      if (x > 0) expect(at(0, x, y)).toBeGreaterThan(at(0, x - 1, y));
      if (y > 0) expect(at(1, x, y)).toBeGreaterThan(at(1, x, y - 1));
    }
  }
});

test("each channel is normalised by its own mean and deviation", async () => {
  const flat = await picture("flat", () => [200, 100, 50]);
  const [mean, std]: Colour[] = [
    [0.1, 0.2, 0.3],
    [0.5, 0.25, 0.2],
  ];
  const [{ pixels }] = await stepsOf(dataOf([flat], preprocess(mean, std)), { batch: 1, seed: 1, to: 1 });
  [200, 100, 50].forEach((value, c) => {
    const channel = pixels.subarray(c * HEIGHT * WIDTH, (c + 1) * HEIGHT * WIDTH);
    expectClose(channel, Array(HEIGHT * WIDTH).fill((value / 255 - mean[c]) / std[c]), 1e-5);
  });
});

test("what a rotation or a shift uncovers is as good as the mean: 0 once it is normalised", async () => {
  const white = await picture("white", () => [255, 255, 255]);
  const how = preprocess([0.2, 0.4, 0.6], [0.25, 0.25, 0.25]);
  const data = dataOf(Array(60).fill(white), how, { randaugment: 10 });
  const [{ pixels, size }] = await stepsOf(data, { batch: 60, seed: 1, to: 1 });
  const area = HEIGHT * WIDTH;
  const isMean = (k: number, i: number) =>
    [0, 1, 2].every((c) => Math.abs(pixels[(3 * k + c) * area + i]) < 1 / 255 / 0.25);
  const uncovered = Array.from({ length: size }, (_, k) =>
    Array.from({ length: area }, (_, i) => i).some((i) => isMean(k, i)),
  );
  expect(uncovered.filter(Boolean).length).toBeGreaterThan(5); // a third of the operations moves the picture
});

test("an epoch has every picture once, in an order that the epoch and the seed change", async () => {
  const pictures = await Promise.all(Array.from({ length: 12 }, (_, k) => picture(`${k}`, () => [k, k, k])));
  const ordersOf = async (seed: number) =>
    (await stepsOf(dataOf(pictures), { batch: 12, seed, to: 2 })).map(({ names }) => names);
  const orders = [...(await ordersOf(1)), ...(await ordersOf(2))];
  for (const names of orders) expect([...names].sort()).toEqual(pictures.map(({ name }) => name).sort());
  expect(new Set(orders.map(String)).size).toBe(4);
  expect(await ordersOf(1)).toEqual(orders.slice(0, 2));
});

test("one picture is cropped anew in each epoch", async () => {
  const gradient = await picture("gradient", (x, y) => [5 * x, 6 * y, 0]);
  const steps = await stepsOf(dataOf([gradient], RAW, { minScale: 0.3 }), { batch: 1, seed: 1, to: 3 });
  expect(new Set(steps.map(({ pixels }) => String(pixels))).size).toBe(3);
});
