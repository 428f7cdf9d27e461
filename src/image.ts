/** Picture → network input: the one preprocessing, the same bytes in browsers, workers and Node as Pillow gives in training. */
import { SlimViTError } from "./errors.ts";
import type { Preprocess } from "./format/model.ts";

/** RGBA, row-major, straight alpha. Alpha is dropped, as Pillow's `convert("RGB")` does. */
export interface RawImage {
  data: Uint8ClampedArray | Uint8Array;
  width: number;
  height: number;
}

/** In pixels of the image. */
export interface Region {
  x: number;
  y: number;
  width: number;
  height: number;
}

type Interpolation = Preprocess["interpolation"];

/**
 * Resizes the shorter side (or both) to `p.resize`, cuts `p.crop` from the centre, normalises: torchvision's Resize,
 * CenterCrop, ToTensor, Normalize on a Pillow image. Only what the crop shows is computed.
 *
 * @param region cut out before anything else
 * @param resampled the plain form or, with the same bytes, that of resample.ts
 * @returns [3, crop height, crop width]
 * @throws SlimViTError `bad-input` for an image without pixels, `bad-option` for a region outside of it
 */
export function preprocess(image: RawImage, p: Preprocess, region?: Region, resampled = resample): Float32Array {
  checkImage(image);
  const source = cutOut(image, region);
  const [cropHeight, cropWidth] = p.crop;
  const resized = resizedSize(source, p.resize);
  const rgba = resampled(image, source, resized, p.interpolation, {
    x: roundHalfEven((resized.width - cropWidth) / 2),
    y: roundHalfEven((resized.height - cropHeight) / 2),
    width: cropWidth,
    height: cropHeight,
  });
  return normalise(rgba, cropWidth * cropHeight, p);
}

function resizedSize({ width, height }: Region, to: Preprocess["resize"]): { width: number; height: number } {
  if (typeof to !== "number") return { height: to[0], width: to[1] };
  const long = (side: number, shorter: number) => Math.trunc((to * side) / shorter);
  return width <= height ? { width: to, height: long(height, width) } : { width: long(width, height), height: to };
}

/** The whole image at another size, as Pillow's `Image.resize`; opaque. */
export function resizeImage(image: RawImage, width: number, height: number, interpolation: Interpolation): RawImage {
  checkImage(image);
  const all = { x: 0, y: 0, width, height };
  const data = resample(image, { ...all, width: image.width, height: image.height }, all, interpolation, all);
  return { data, width, height };
}

function checkImage({ data, width, height }: RawImage): void {
  if (!Number.isSafeInteger(width) || !Number.isSafeInteger(height) || width < 1 || height < 1) {
    throw new SlimViTError("bad-input", `The image is ${width}×${height}; expected at least one pixel each way.`);
  }
  if (data?.length !== width * height * 4) {
    throw new SlimViTError(
      "bad-input",
      `The image is ${width}×${height} and has ${data?.length} bytes; RGBA pixels need ${width * height * 4}.`,
    );
  }
}

/**
 * @returns the region, or all of the image
 * @throws SlimViTError `bad-option` for a region that is not inside
 */
export function cutOut(image: { width: number; height: number }, region?: Region): Region {
  const { x, y, width, height } = region ?? { x: 0, y: 0, width: image.width, height: image.height };
  const whole = [x, y, width, height].every(Number.isSafeInteger);
  if (!whole || x < 0 || y < 0 || width < 1 || height < 1 || x + width > image.width || y + height > image.height) {
    throw new SlimViTError(
      "bad-option",
      `The region is ${width}×${height} at ${x}, ${y}; expected whole pixels inside the image of ${image.width}×${image.height}.`,
    );
  }
  return { x, y, width, height };
}

/** As Python's round(), which torchvision's centre crop uses: 58.5 → 58, 59.5 → 60. */
function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  return rest < 0.5 || (rest === 0.5 && floor % 2 === 0) ? floor : floor + 1;
}

/**
 * Separable, antialiased resampling in Pillow's own 8-bit arithmetic: first along rows, then along columns, each pass
 * rounded and clipped to 0..255.
 *
 * @param source the part of the image that is resized to `size`
 * @param window the part of the result that is wanted
 * @returns [window.height, window.width, 4], opaque; it may be overwritten by the next call
 */
export type Resample = (
  image: RawImage,
  source: Region,
  size: { width: number; height: number },
  interpolation: Interpolation,
  window: Region,
) => Uint8Array;

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

/** Which pixels make each result pixel, and with what weights. */
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
 * Of `count` result pixels from `offset` on. When scaling down, the filter is as many times wider, so that every source
 * pixel counts.
 */
export function taps(
  inSize: number,
  outSize: number,
  offset: number,
  count: number,
  interpolation: Interpolation,
): Taps {
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
};

/** [pixels, 4] bytes → [3, pixels] of (v/255 − mean) / std, in float32 at each step as PyTorch does. */
function normalise(rgba: Uint8Array, pixels: number, { mean, std }: Preprocess): Float32Array {
  const { fround } = Math;
  const out = new Float32Array(3 * pixels);
  for (let c = 0; c < 3; c++) {
    const levels = Float32Array.from(
      { length: 256 },
      (_, v) => fround(fround(v / 255) - fround(mean[c])) / fround(std[c]),
    );
    for (let i = 0; i < pixels; i++) out[c * pixels + i] = levels[rgba[i * 4 + c]];
  }
  return out;
}
