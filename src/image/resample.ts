/**
 * Resampling in plain loops. It is the reference of the WebAssembly form (resampleWasm.ts), and replaces it where that
 * cannot run.
 */
import type { Preprocess } from "../format/model.ts";
import {
  checkImage,
  type Interpolation,
  preprocessWith,
  type RawImage,
  type Region,
  type Resample,
} from "./preprocess.ts";

export type { RawImage, Region, Resample };

/** `preprocessWith` the plain form, or another. */
export function preprocess(image: RawImage, p: Preprocess, region?: Region, resampled = resample): Float32Array {
  return preprocessWith(resampled, image, p, region);
}

/** The whole image at another size, as Pillow's `Image.resize`; opaque. */
export function resizeImage(image: RawImage, width: number, height: number, interpolation: Interpolation): RawImage {
  checkImage(image);
  const all = { x: 0, y: 0, width, height };
  const data = resample(image, { ...all, width: image.width, height: image.height }, all, interpolation, all);
  return { data, width, height };
}

export const resample: Resample = ({ data, width: stride }, source, size, interpolation, window) => {
  const across = taps(source.width, size.width, window.x, window.width, interpolation);
  const down = taps(source.height, size.height, window.y, window.height, interpolation);
  const columns = window.width;
  const firstRow = down.first[0];
  const rows = down.end - firstRow;

  const narrow = new Uint8Array(rows * columns * 3);
  for (let row = 0, at = 0; row < rows; row++) {
    const line = (source.y + firstRow + row) * stride + source.x;
    for (let column = 0; column < columns; column++, at += 3) {
      let r = HALF;
      let g = HALF;
      let b = HALF;
      let k = column * across.stride;
      let from = (line + across.first[column]) * 4;
      for (const end = k + across.count[column]; k < end; k++, from += 4) {
        const weight = across.weights[k];
        r = (r + Math.imul(data[from], weight)) | 0;
        g = (g + Math.imul(data[from + 1], weight)) | 0;
        b = (b + Math.imul(data[from + 2], weight)) | 0;
      }
      narrow[at] = clip(r >> FRACTION_BITS);
      narrow[at + 1] = clip(g >> FRACTION_BITS);
      narrow[at + 2] = clip(b >> FRACTION_BITS);
    }
  }

  const out = new Uint8Array(window.height * columns * 4).fill(255);
  const sums = new Int32Array(columns * 3);
  for (let row = 0, at = 0; row < window.height; row++) {
    sums.fill(HALF);
    for (let tap = 0; tap < down.count[row]; tap++) {
      const weight = down.weights[row * down.stride + tap];
      const line = (down.first[row] - firstRow + tap) * columns * 3;
      for (let i = 0; i < sums.length; i++) sums[i] += Math.imul(narrow[line + i], weight);
    }
    for (let i = 0; i < sums.length; at += 4) {
      for (let c = 0; c < 3; c++) out[at + c] = clip(sums[i++] >> FRACTION_BITS);
    }
  }
  return out;
};

/** Pillow's fixed point: 32 bits less 8 for the pixel and 2 for bicubic overshoot. */
const FRACTION_BITS = 22;
const HALF = 1 << (FRACTION_BITS - 1);

function clip(value: number): number {
  return Math.max(0, Math.min(value, 255));
}

/** The source pixels of each result pixel, and their weights. */
export interface Taps {
  first: Int32Array;
  count: Int32Array;
  /** the greatest count */
  most: number;
  /** behind the last pixel */
  end: number;
  /** [result pixels, stride], in fixed point */
  weights: Int32Array;
  stride: number;
}

/**
 * The taps of `count` result pixels from `offset` on. When scaling down, the filter is widened by the scale, so that
 * every source pixel counts.
 */
export function taps(
  inSize: number,
  outSize: number,
  offset: number,
  count: number,
  interpolation: Interpolation,
): Taps {
  if (interpolation === "nearest") return nearestTaps(inSize, outSize, offset, count);
  const { filter, radius } = FILTERS[interpolation];
  const scale = inSize / outSize;
  const widening = Math.max(scale, 1);
  const support = radius * widening;
  const stride = Math.ceil(support) * 2 + 1;
  const first = new Int32Array(count);
  const counts = new Int32Array(count);
  const weights = new Int32Array(count * stride);
  const exact = new Float64Array(stride);
  for (let i = 0; i < count; i++) {
    const centre = (offset + i + 0.5) * scale;
    first[i] = Math.max(Math.trunc(centre - support + 0.5), 0);
    counts[i] = Math.min(Math.trunc(centre + support + 0.5), inSize) - first[i];
    let total = 0;
    for (let k = 0; k < counts[i]; k++) {
      exact[k] = filter((first[i] + k - centre + 0.5) * (1 / widening));
      total += exact[k];
    }
    for (let k = 0; k < counts[i]; k++) {
      const fixed = (exact[k] / total) * (1 << FRACTION_BITS);
      weights[i * stride + k] = Math.trunc(fixed + (fixed < 0 ? -0.5 : 0.5));
    }
  }
  const end = first[count - 1] + counts[count - 1];
  return { first, count: counts, most: Math.max(...counts), end, weights, stride };
}

/** Pillow does not widen this one: each result pixel is the source pixel under its centre. */
function nearestTaps(inSize: number, outSize: number, offset: number, count: number): Taps {
  const first = Int32Array.from({ length: count }, (_, i) => Math.floor(((offset + i + 0.5) * inSize) / outSize));
  const weights = new Int32Array(count).fill(1 << FRACTION_BITS);
  return { first, count: new Int32Array(count).fill(1), most: 1, end: first[count - 1] + 1, weights, stride: 1 };
}

const sinc = (x: number) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));

const FILTERS = {
  /** Keys' cubic with a = −0.5 */
  bicubic: {
    radius: 2,
    filter: (x: number) => {
      const a = -0.5;
      const t = Math.abs(x);
      if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
      return t < 2 ? (((t - 5) * t + 8) * t - 4) * a : 0;
    },
  },
  /** the triangle */
  bilinear: { radius: 1, filter: (x: number) => Math.max(1 - Math.abs(x), 0) },
  box: { radius: 0.5, filter: (x: number) => (x > -0.5 && x <= 0.5 ? 1 : 0) },
  /** a sinc in a Hamming window; Pillow's coefficients are floats */
  hamming: {
    radius: 1,
    filter: (x: number) =>
      Math.abs(x) < 1 ? sinc(x) * (Math.fround(0.54) + Math.fround(0.46) * Math.cos(Math.PI * x)) : 0,
  },
  /** a sinc in the middle of another of three times its width */
  lanczos: { radius: 3, filter: (x: number) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0) },
};
