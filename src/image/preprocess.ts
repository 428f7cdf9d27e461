/** Picture → network input: the one preprocessing, the same bytes in browsers, workers and Node as Pillow gives in training. */
import { SlimViTError } from "../errors.ts";
import type { Preprocess } from "../format/model.ts";
import type { RawImage, Region } from "../protocol.ts";

export type { RawImage, Region };

export type Interpolation = Preprocess["interpolation"];

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
 * CenterCrop, ToTensor, Normalize on a Pillow image. Only what the crop shows is computed.
 *
 * @param resample the plain form (image.ts) or, with the same bytes, that of resample.ts
 * @param region cut out before anything else
 * @returns [3, crop height, crop width]
 * @throws SlimViTError `bad-input` for an image without pixels, `bad-option` for a region outside of it
 */
export function preprocessWith(resample: Resample, image: RawImage, p: Preprocess, region?: Region): Float32Array {
  checkImage(image);
  const source = cutOut(image, region);
  const [cropHeight, cropWidth] = p.crop;
  const resized = resizedSize(source, p.resize);
  const rgba = resample(image, source, resized, p.interpolation, {
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

/** As Python's round(), which torchvision's centre crop uses: 58.5 → 58, 59.5 → 60. */
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
