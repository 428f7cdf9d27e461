/**
 * Picture → network input. This is the only preprocessing. It gives the same bytes in browsers, workers and Node as
 * Pillow gives in training.
 */
import { SlimViTError } from "../errors.ts";
import type { Interpolation, Preprocess } from "../format/model.ts";
import type { RawImage, Region } from "../protocol.ts";

export type { Interpolation, RawImage, Region };

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

/**
 * Resizes the shorter side (or both) to `p.resize`, cuts `p.crop` from the centre, normalises: torchvision's Resize,
 * CenterCrop, ToTensor, Normalize on an image of Pillow up to version 12. Pillow 13 resizes along columns first where that is
 * less work, which can change a value by one level. Only what the crop shows is computed.
 *
 * @param resample the plain form (image.ts) or, with the same bytes, that of resample.ts
 * @param region cut out before anything else
 * @returns [3, crop height, crop width]
 * @throws SlimViTError `bad-input` for an image without pixels, `bad-option` for a region outside of it
 */
export function preprocessWith(resample: Resample, image: RawImage, p: Preprocess, region?: Region): Float32Array {
  checkImage(image);
  const source = cutOut(image, region);
  const resized = resizedSize(source, p);
  const [height, width] = p.crop;
  const window = { x: cropOffset(resized.width - width, p), y: cropOffset(resized.height - height, p), width, height };
  const rgba =
    p.fit === "contain"
      ? onMean(resample, image, source, resized, p, window)
      : resample(image, source, resized, p.interpolation, window);
  return normalise(rgba, width * height, p);
}

function resizedSize({ width, height }: Region, { resize: to, fit }: Preprocess): { width: number; height: number } {
  if (typeof to === "number") {
    const long = (side: number, shorter: number) => Math.trunc((to * side) / shorter);
    return width <= height ? { width: to, height: long(height, width) } : { width: long(width, height), height: to };
  }
  if (!fit) return { height: to[0], width: to[1] };
  const choose = fit === "cover" ? Math.min : Math.max;
  const ratio = choose(height / to[0], width / to[1]);
  const side = (length: number) => Math.max(1, roundHalfEven(length / ratio));
  return { height: side(height), width: side(width) };
}

/**
 * @param room by how many pixels the picture is larger than the crop; where it is smaller, the larger border comes last
 */
function cropOffset(room: number, p: Preprocess): number {
  if (room < 0) return Math.ceil(room / 2);
  return p.cropOffset === "floor" ? Math.floor(room / 2) : roundHalfEven(room / 2);
}

/** The part of the window that the picture covers, on a ground of the mean colour. */
function onMean(
  resample: Resample,
  image: RawImage,
  source: Region,
  resized: { width: number; height: number },
  { interpolation, mean }: Preprocess,
  window: Region,
): Uint8Array {
  const [left, top] = [Math.max(window.x, 0), Math.max(window.y, 0)];
  const inside = {
    x: left,
    y: top,
    width: Math.min(window.x + window.width, resized.width) - left,
    height: Math.min(window.y + window.height, resized.height) - top,
  };
  const ground = [...mean.map((v) => Math.max(0, Math.min(roundHalfEven(255 * v), 255))), 255];
  const out = Uint8Array.from({ length: window.width * window.height * 4 }, (_, k) => ground[k % 4]);
  const part = resample(image, source, resized, interpolation, inside);
  for (let row = 0; row < inside.height; row++) {
    const at = (top - window.y + row) * window.width + left - window.x;
    out.set(part.subarray(row * inside.width * 4, (row + 1) * inside.width * 4), at * 4);
  }
  return out;
}

export function checkImage({ data, width, height }: RawImage): void {
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

/** Rounds as Python's round() does, which torchvision's centre crop uses: 58.5 → 58, 59.5 → 60. */
function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  return rest < 0.5 || (rest === 0.5 && floor % 2 === 0) ? floor : floor + 1;
}

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
