/**
 * RandAugment on decoded pictures, random erasing on normalised ones.
 * @see Cubuk et al. 2019 — https://arxiv.org/abs/1909.13719; Zhong et al. 2017 — https://arxiv.org/abs/1708.04896
 */
import type { Random } from "../shared/random.ts";

/** Interleaved RGB bytes. */
export interface Rgb {
  data: Uint8Array;
  width: number;
  height: number;
}

/**
 * RandAugment as in the DeiT recipe: two operations a picture, each with a probability of ½ and a jittered magnitude
 * (of 10).
 */
const OPERATIONS = 2;
const PROBABILITY = 0.5;
const JITTER = 0.5;

/** @param level 0 to 1, how strong; the sign of those that have two directions is drawn */
type Operation = (image: Rgb, level: number, rng: Random, fill: number[]) => Rgb;

/**
 * @param magnitude 0 to 10
 * @param fill RGB in 0..255 of what a shift or rotation uncovers
 */
export function randAugment(image: Rgb, magnitude: number, rng: Random, fill: number[]): Rgb {
  const names = Object.keys(AUGMENTATIONS);
  let out = image;
  for (let k = 0; k < OPERATIONS; k++) {
    const operation = AUGMENTATIONS[names[Math.floor(rng() * names.length)]];
    const level = Math.min(10, Math.max(0, magnitude + JITTER * normal(rng))) / 10;
    if (rng() < PROBABILITY) out = operation(out, level, rng, fill);
  }
  return out;
}

const either = (value: number, rng: Random) => (rng() < 0.5 ? -value : value);

/** Operations, whose strongest settings are those of the DeiT recipe. */
export const AUGMENTATIONS: Record<string, Operation> = {
  autoContrast: (image) => {
    const tables = [0, 1, 2].map((c) => {
      const counts = histogram(image, c);
      const low = counts.findIndex((n) => n > 0);
      const high = counts.findLastIndex((n) => n > 0);
      return table((v) => (high > low ? ((v - low) * 255) / (high - low) : v));
    });
    return mapped(image, tables);
  },
  equalize: (image) =>
    mapped(
      image,
      [0, 1, 2].map((c) => equalizing(histogram(image, c))),
    ),
  invert: (image) =>
    mapped(
      image,
      table((v) => 255 - v),
    ),
  posterize: (image, level) => {
    const dropped = 4 + Math.trunc(level * 4); // 4 bits kept at level 0, none at 1
    return mapped(
      image,
      table((v) => (v >> dropped) << dropped),
    );
  },
  solarize: (image, level) =>
    mapped(
      image,
      table((v) => (v < 256 * (1 - level) ? v : 255 - v)),
    ),
  solarizeAdd: (image, level) =>
    mapped(
      image,
      table((v) => (v < 128 ? v + 110 * level : v)),
    ),
  brightness: (image, level, rng) => {
    const factor = 1 + either(0.9 * level, rng);
    return mapped(
      image,
      table((v) => v * factor),
    );
  },
  contrast: (image, level, rng) => {
    const factor = 1 + either(0.9 * level, rng);
    const { data } = image;
    let sum = 0;
    for (let k = 0; k < data.length; k += 3) sum += grey(data, k);
    const mean = (3 * sum) / data.length;
    return mapped(
      image,
      table((v) => mean + factor * (v - mean)),
    );
  },
  color: (image, level, rng) => {
    const factor = 1 + either(0.9 * level, rng);
    return blended(image, factor, (data, k) => grey(data, k - (k % 3)));
  },
  sharpness: (image, level, rng) => blended(image, 1 + either(0.9 * level, rng), smoothed(image)),
  rotate: (image, level, rng, fill) => {
    const angle = (either(30 * level, rng) * Math.PI) / 180;
    const [cos, sin] = [Math.cos(angle), Math.sin(angle)];
    return warped(image, [cos, sin, 0, -sin, cos, 0], fill);
  },
  shearX: (image, level, rng, fill) => warped(image, [1, either(0.3 * level, rng), 0, 0, 1, 0], fill),
  shearY: (image, level, rng, fill) => warped(image, [1, 0, 0, either(0.3 * level, rng), 1, 0], fill),
  translateX: (image, level, rng, fill) =>
    warped(image, [1, 0, either(0.45 * level * image.width, rng), 0, 1, 0], fill),
  translateY: (image, level, rng, fill) =>
    warped(image, [1, 0, 0, 0, 1, either(0.45 * level * image.height, rng)], fill),
};

const grey = (data: Uint8Array, k: number) => 0.299 * data[k] + 0.587 * data[k + 1] + 0.114 * data[k + 2];

const table = (of: (v: number) => number) => Uint8ClampedArray.from({ length: 256 }, (_, v) => of(v));

/** Maps bytes by one table for all channels, or by one for each channel. */
function mapped(image: Rgb, tables: Uint8ClampedArray | Uint8ClampedArray[]): Rgb {
  const of = Array.isArray(tables) ? tables : [tables, tables, tables];
  return { ...image, data: image.data.map((v, k) => of[k % 3][v]) };
}

function histogram({ data }: Rgb, channel: number): number[] {
  const counts: number[] = Array(256).fill(0);
  for (let k = channel; k < data.length; k += 3) counts[data[k]]++;
  return counts;
}

/** Each value → the share of pixels below it, so that all values become equally frequent. */
function equalizing(counts: number[]): Uint8ClampedArray {
  const total = counts.reduce((a, b) => a + b, 0);
  const last = counts.findLast((n) => n > 0)!;
  let below = 0;
  return table((v) => {
    const share = total > last ? (255 * below) / (total - last) : v;
    below += counts[v];
    return share;
  });
}

/** factor · image + (1 − factor) · other, byte by byte */
function blended(image: Rgb, factor: number, other: (data: Uint8Array, k: number) => number): Rgb {
  const out = new Uint8ClampedArray(image.data.length);
  for (let k = 0; k < out.length; k++) out[k] = factor * image.data[k] + (1 - factor) * other(image.data, k);
  return { ...image, data: new Uint8Array(out.buffer) };
}

/** A 3×3 mean whose centre weighs five times; the rim is left as it is. */
function smoothed({ width, height }: Rgb): (data: Uint8Array, k: number) => number {
  const row = 3 * width;
  return (data, k) => {
    const y = Math.floor(k / row);
    const x = Math.floor((k % row) / 3);
    if (x === 0 || y === 0 || x === width - 1 || y === height - 1) return data[k];
    let sum = 4 * data[k];
    for (let at = k - row; at <= k + row; at += row) sum += data[at - 3] + data[at] + data[at + 3];
    return sum / 13;
  };
}

/** out(x, y) = in(a·x + b·y + c, d·x + e·y + f) around the centre, bilinear. */
function warped({ data, width, height }: Rgb, [a, b, c, d, e, f]: number[], fill: number[]): Rgb {
  const out = new Uint8ClampedArray(data.length);
  const [cx, cy] = [(width - 1) / 2, (height - 1) / 2];
  const sample = (px: number, py: number, channel: number) =>
    px < 0 || py < 0 || px >= width || py >= height ? fill[channel] : data[3 * (py * width + px) + channel];
  let at = 0;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const u = a * (x - cx) + b * (y - cy) + c + cx;
      const v = d * (x - cx) + e * (y - cy) + f + cy;
      const left = Math.floor(u);
      const top = Math.floor(v);
      const right = u - left;
      const bottom = v - top;
      for (let channel = 0; channel < 3; channel++) {
        out[at++] =
          (1 - bottom) * ((1 - right) * sample(left, top, channel) + right * sample(left + 1, top, channel)) +
          bottom * ((1 - right) * sample(left, top + 1, channel) + right * sample(left + 1, top + 1, channel));
      }
    }
  }
  return { data: new Uint8Array(out.buffer), width, height };
}

/** Share of the picture that a random rectangle may take, and its ratio of sides. */
const ERASED = { smallest: 0.02, largest: 1 / 3, ratio: 0.3 };

/** With a given probability, fills a rectangle of normalised pixels [3, height, width] with noise, in place. */
export function eraseRandom(
  pixels: Float32Array,
  height: number,
  width: number,
  probability: number,
  rng: Random,
): void {
  if (rng() >= probability) return;
  for (let attempt = 0; attempt < 10; attempt++) {
    const area = height * width * (ERASED.smallest + (ERASED.largest - ERASED.smallest) * rng());
    const ratio = Math.exp((2 * rng() - 1) * Math.log(1 / ERASED.ratio));
    const [h, w] = [Math.round(Math.sqrt(area * ratio)), Math.round(Math.sqrt(area / ratio))];
    if (h < 1 || w < 1 || h > height || w > width) continue;
    const top = Math.floor(rng() * (height - h + 1));
    const left = Math.floor(rng() * (width - w + 1));
    for (let c = 0; c < 3; c++)
      for (let y = top; y < top + h; y++)
        for (let x = left; x < left + w; x++) pixels[(c * height + y) * width + x] = normal(rng);
    return;
  }
}

/** Box–Muller */
function normal(rng: Random): number {
  return Math.sqrt(-2 * Math.log(1 - rng())) * Math.cos(2 * Math.PI * rng());
}
