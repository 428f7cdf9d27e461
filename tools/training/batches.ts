/** Batches of pictures, cropped and augmented at random, decoded ahead of the training step. */
import { messageOf, SlimViTError } from "../../src/errors.ts";
import type { Preprocess } from "../../src/format/model.ts";
import { openForSharp, type Picture, readable, readPicture } from "../data/pixels.ts";
import { type Random, random, shuffled } from "../shared/random.ts";
import { say } from "../shared/terminal.ts";
import { eraseRandom, randAugment } from "./augment.ts";

export interface Augmentation {
  /**
   * smallest share of the picture's area that a random crop may take; where no crop of 3:4 to 4:3 is found that fits, it
   * is the middle of the picture, or all of a picture that is no longer than that
   */
  minScale: number;
  flip: boolean;
  /** magnitude of RandAugment, 0 to 10; 0 is off */
  randaugment?: number;
  /** probability of random erasing */
  erase?: number;
}

/** A random crop by area and aspect ratio (3/4 to 4/3), resized to the model's input, mirrored half of the time, augmented. */
async function trainPixels(
  picture: Picture,
  how: Preprocess,
  augmentation: Augmentation,
  rng: Random,
): Promise<Float32Array> {
  const buffer = await readPicture(picture);
  const [height, width] = how.crop;
  const { randaugment = 0, erase = 0 } = augmentation;
  const { image, width: pictureWidth, height: pictureHeight } = await openForSharp(buffer, picture.name);
  return readable(picture.name, async () => {
    const box = randomBox(pictureWidth, pictureHeight, augmentation.minScale, rng);
    const mirrored = augmentation.flip && rng() < 0.5;
    const { data } = await image
      .extract(box)
      .resize(width, height, { fit: "fill", kernel: "cubic" })
      .flop(mirrored)
      .toColourspace("srgb")
      .removeAlpha()
      .raw()
      .toBuffer({ resolveWithObject: true });
    const fill = how.mean.map((mean) => 255 * mean);
    const cropped = { data, width, height };
    const pixels = normalise(randaugment ? randAugment(cropped, randaugment, rng, fill).data : data, how);
    if (erase) eraseRandom(pixels, height, width, erase, rng);
    return pixels;
  });
}

function randomBox(width: number, height: number, minScale: number, rng: Random) {
  for (let attempt = 0; attempt < 10; attempt++) {
    const area = width * height * (minScale + (1 - minScale) * rng());
    const ratio = Math.exp(Math.log(3 / 4) + rng() * 2 * Math.log(4 / 3));
    const w = Math.round(Math.sqrt(area * ratio));
    const h = Math.round(Math.sqrt(area / ratio));
    if (w >= 1 && h >= 1 && w <= width && h <= height) {
      return {
        left: Math.floor(rng() * (width - w + 1)),
        top: Math.floor(rng() * (height - h + 1)),
        width: w,
        height: h,
      };
    }
  }
  const [w, h] = [Math.min(width, Math.round((4 / 3) * height)), Math.min(height, Math.round((4 / 3) * width))];
  return { left: (width - w) >> 1, top: (height - h) >> 1, width: w, height: h };
}

/** Interleaved RGB bytes → [3, height, width] */
function normalise(rgb: Uint8Array, { mean, std }: Preprocess): Float32Array {
  const size = rgb.length / 3;
  const pixels = new Float32Array(3 * size);
  for (let c = 0; c < 3; c++) {
    const scale = 1 / (255 * std[c]);
    const shift = -mean[c] / std[c];
    for (let k = 0; k < size; k++) pixels[c * size + k] = rgb[3 * k + c] * scale + shift;
  }
  return pixels;
}

/** Pictures that are computed at once: those of a step, or a part of them where gradients are accumulated. */
export interface Batch {
  /** [size, 3, height, width] */
  pixels: Float32Array;
  /** 0 when none of its pictures can be read */
  size: number;
  /** index of each label among the model's; −1 where unlabelled */
  labels: number[];
  names: string[];
  /** the step is complete with this one */
  last: boolean;
}

export interface TrainData {
  pictures: Picture[];
  /** the model's output index by class folder; none for unlabelled data */
  indices?: Map<string, number>;
  preprocess: Preprocess;
  augmentation: Augmentation;
}

/** Batches decoded ahead, so that training does not wait for pictures. */
const PREFETCH = 3;

export interface BatchOptions {
  batch: number;
  /** batches a step; its pictures are those that one batch of `batch` × `accumulate` would have */
  accumulate?: number;
  /**
   * how many times in a row a picture comes, cropped and augmented anew; the number of pictures in an epoch does not
   * change
   */
  repeats?: number;
  seed: number;
  /** steps */
  from: number;
  to: number;
}

/**
 * The batches of the steps `from` to `to`: epoch after epoch in an order and with crops that `seed` fixes.
 * A picture that cannot be read is named, counted and left out.
 */
export async function* trainBatches(data: TrainData, options: BatchOptions): AsyncGenerator<Batch> {
  const { batch, accumulate = 1, repeats = 1, seed, from, to } = options;
  const perStep = batch * accumulate;
  const perEpoch = stepsPerEpoch(data.pictures.length, perStep);
  const broken = new Set<string>();
  const load = async (part: number): Promise<Batch> => {
    const step = Math.floor(part / accumulate);
    const epoch = Math.floor(step / perEpoch);
    const order = epochOrder(data.pictures.length, seed, epoch);
    const first = (step % perEpoch) * perStep + (part % accumulate) * batch;
    const end = Math.min(first + batch, order.length);
    const chosen = Array.from({ length: Math.max(0, end - first) }, (_, n) => first + n);
    const loaded = await Promise.all(
      chosen.map(async (n) => {
        const k = order[Math.floor(n / repeats)];
        const picture = data.pictures[k];
        const rng = n % repeats ? random(seed, epoch, k, n % repeats) : random(seed, epoch, k);
        try {
          return { picture, pixels: await trainPixels(picture, data.preprocess, data.augmentation, rng) };
        } catch (error) {
          if (!broken.has(picture.name)) {
            broken.add(picture.name);
            say(`skipped (${broken.size} so far): ${messageOf(error)}`);
          }
          return undefined;
        }
      }),
    );
    return {
      ...toBatch(
        loaded.filter((item) => item !== undefined),
        data,
      ),
      last: part % accumulate === accumulate - 1,
    };
  };
  const queue: Promise<Batch>[] = [];
  const end = to * accumulate;
  for (let part = from * accumulate; part < end; part++) {
    while (queue.length < Math.min(PREFETCH, end - part)) queue.push(load(part + queue.length));
    const next = await queue.shift()!;
    if (broken.size === data.pictures.length)
      throw new SlimViTError("bad-input", "No picture of the data can be read.");
    yield next;
  }
}

export const stepsPerEpoch = (pictures: number, batch: number) => Math.max(1, Math.floor(pictures / batch));

const orders = new Map<string, number[]>();
function epochOrder(length: number, seed: number, epoch: number): number[] {
  const key = `${length} ${seed} ${epoch}`;
  if (!orders.has(key)) {
    if (orders.size > 4) orders.clear();
    orders.set(
      key,
      shuffled(
        Array.from({ length }, (_, k) => k),
        random(seed, epoch),
      ),
    );
  }
  return orders.get(key)!;
}

export function toBatch(
  items: { picture: Picture; pixels: Float32Array }[],
  { indices, preprocess: { crop } }: Pick<TrainData, "indices" | "preprocess">,
): Omit<Batch, "last"> {
  const each = 3 * crop[0] * crop[1];
  const pixels = new Float32Array(items.length * each);
  items.forEach((item, k) => {
    pixels.set(item.pixels, k * each);
  });
  return {
    pixels,
    size: items.length,
    labels: items.map(({ picture }) => indices?.get(picture.className) ?? -1),
    names: items.map(({ picture }) => picture.name),
  };
}
