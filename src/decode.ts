/** Picture as the browser has it → RGBA pixels. */
import { messageOf, SlimViTError, throwIfAborted } from "./errors.ts";
import type { Preprocess } from "./format/model.ts";
import type { RawImage, Region } from "./image.ts";
import type { WireImage } from "./wire.ts";

/** Of the shorter side; above it the browser draws the picture down first, to twice what the model resizes to. */
const LARGE = 2048;

/**
 * @param image an ImageBitmap is closed
 * @returns `region`'s pixels
 * @throws SlimViTError `bad-input` naming the picture, `bad-option` for a region outside of it
 */
export async function readImage(
  image: WireImage,
  region: Region | undefined,
  preprocess: Preprocess,
  signal?: AbortSignal,
): Promise<{ image: RawImage; region?: Region }> {
  if ("data" in image) return { image, region };
  const bitmap = image instanceof ImageBitmap ? image : await decode(image, signal);
  try {
    return { image: readPixels(bitmap, region, preprocess) };
  } finally {
    bitmap.close();
  }
}

async function decode(image: Blob | { url: string }, signal?: AbortSignal): Promise<ImageBitmap> {
  const name = nameOf(image);
  if (typeof createImageBitmap === "undefined") {
    throw new SlimViTError("unsupported", `${name} cannot be decoded here; pass { data, width, height } (RGBA pixels).`);
  }
  const blob = image instanceof Blob ? image : await download(image.url, signal);
  throwIfAborted(signal);
  try {
    return await createImageBitmap(blob, { imageOrientation: "from-image", premultiplyAlpha: "none" });
  } catch (error) {
    const type = blob.type ? `, ${blob.type}` : "";
    throw new SlimViTError(
      "bad-input",
      `${name} (${blob.size} bytes${type}) is no picture that this browser can decode (${messageOf(error)}).`,
      { cause: error },
    );
  }
}

async function download(url: string, signal?: AbortSignal): Promise<Blob> {
  try {
    const response = await fetch(url, { signal });
    if (response.ok) return await response.blob();
    throw new SlimViTError("network", `${nameOf({ url })}: answered ${response.status}; expected a picture.`);
  } catch (error) {
    throwIfAborted(signal);
    if (error instanceof SlimViTError) throw error;
    throw new SlimViTError("network", `${nameOf({ url })}: could not be fetched (${messageOf(error)}).`, {
      cause: error,
    });
  }
}

function nameOf(image: Blob | { url: string }): string {
  if (image instanceof Blob) return image instanceof File ? image.name : "The blob";
  return image.url.length > 100 ? `${image.url.slice(0, 99)}…` : image.url;
}

function readPixels(bitmap: ImageBitmap, region: Region | undefined, { resize }: Preprocess): RawImage {
  const { x, y, width, height } = region ?? { x: 0, y: 0, width: bitmap.width, height: bitmap.height };
  const whole = [x, y, width, height].every(Number.isSafeInteger);
  if (!whole || x < 0 || y < 0 || width < 1 || height < 1 || x + width > bitmap.width || y + height > bitmap.height) {
    throw new SlimViTError(
      "bad-option",
      `The region is ${width}×${height} at ${x}, ${y}; expected whole pixels inside the image of ${bitmap.width}×${bitmap.height}.`,
    );
  }
  const shorter = Math.min(width, height);
  const scale = shorter > Math.max(LARGE, 2 * resize) ? (2 * resize) / shorter : 1;
  const size = { width: Math.round(width * scale), height: Math.round(height * scale) };
  const context = new OffscreenCanvas(size.width, size.height).getContext("2d", { willReadFrequently: true });
  if (!context) throw new SlimViTError("out-of-memory", `No canvas of ${size.width}×${size.height} can be had here.`);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, x, y, width, height, 0, 0, size.width, size.height);
  const { data } = context.getImageData(0, 0, size.width, size.height);
  return { data, ...size };
}
