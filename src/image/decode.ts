/** Picture as the browser has it → RGBA pixels. */

import { SlimViTError } from "../errors.ts";
import type { Preprocess } from "../format/model.ts";
import { download } from "../loading/download.ts";
import { checkSize, imageSize, MAX_FILE_BYTES } from "./imageSize.ts";
import { cutOut, type RawImage, type Region } from "./preprocess.ts";

/** A picture as it crosses to the worker: URLs absolute, a bitmap the worker's own. */
export type WireImage =
  | { kind: "url"; url: string }
  | { kind: "blob"; blob: Blob; name: string }
  | { kind: "bitmap"; bitmap: ImageBitmap }
  | { kind: "pixels"; image: RawImage };

/** Of the shorter side; above it the browser draws the picture down first. Halves the time of a 12-megapixel photo … */
const LARGE = 2048;
/** … to this many times what the model resizes to, so that the antialiasing that counts is still our own. */
const DRAWN_DOWN = 4;

/**
 * @param wire a bitmap is closed
 * @param preprocess the model's own object: a bitmap's pixels last until the next call with it
 * @returns the picture, and what of it is left to be cut out
 * @throws SlimViTError `bad-input` naming the picture, `bad-option` for a region outside of it, `network`,
 * `out-of-memory` for one that no canvas holds
 */
export async function readImage(
  wire: WireImage,
  region: Region | undefined,
  preprocess: Preprocess,
  signal?: AbortSignal,
): Promise<{ image: RawImage; region?: Region }> {
  if (wire.kind === "pixels") return { image: wire.image, region };
  const bitmap = wire.kind === "bitmap" ? wire.bitmap : await decode(wire, signal);
  try {
    return { image: await readPixels(bitmap, region, preprocess) };
  } finally {
    bitmap.close();
  }
}

async function decode(
  wire: { kind: "url"; url: string } | { kind: "blob"; blob: Blob; name: string },
  signal?: AbortSignal,
): Promise<ImageBitmap> {
  const name = wire.kind === "blob" ? wire.name : wire.url.slice(0, 100); // data: URLs are long
  if (!canDraw()) {
    throw new SlimViTError(
      "bad-input",
      `${name}: no picture can be decoded here; pass { data, width, height } (RGBA).`,
    );
  }
  const blob =
    wire.kind === "blob"
      ? wire.blob
      : new Blob([await download(wire.url, { name, limit: MAX_FILE_BYTES, expected: "a picture" }, signal)]);
  const what = `${blob.size} bytes`;
  const file = new Uint8Array(blob.size <= MAX_FILE_BYTES ? await blob.arrayBuffer() : []);
  const size = imageSize(file);
  if (!size) {
    const expected = "expected PNG, JPEG, WebP, GIF, BMP or AVIF of at most 256 MiB";
    throw new SlimViTError("bad-input", `${name}: ${what} are no picture whose size can be read; ${expected}.`);
  }
  checkSize(name, ...size);
  try {
    // A JPEG has no alpha; asked not to multiply by it, Chromium converts all the same, for a fifth of the decoding time.
    const premultiplyAlpha = file[0] === 0xff ? "default" : "none";
    return await createImageBitmap(blob, { imageOrientation: "from-image", premultiplyAlpha });
  } catch (error) {
    throw new SlimViTError("bad-input", `${name}: ${what} are no picture that this browser can read.`, {
      cause: error,
    });
  }
}

/** Node has none of it, Deno a canvas without a context. */
function canDraw(): boolean {
  const { createImageBitmap, OffscreenCanvas } = globalThis as Partial<typeof globalThis>;
  return !!(createImageBitmap && OffscreenCanvas && new OffscreenCanvas(1, 1).getContext("2d"));
}

async function readPixels(bitmap: ImageBitmap, region: Region | undefined, preprocess: Preprocess): Promise<RawImage> {
  const { resize } = preprocess;
  checkSize("The image", bitmap.width, bitmap.height); // of whatever form
  const { x, y, width, height } = cutOut(bitmap, region);
  const shorter = Math.min(width, height);
  const drawn = DRAWN_DOWN * Math.max(...[resize].flat());
  const scale = shorter > Math.max(LARGE, drawn) ? drawn / shorter : 1;
  const size = { width: Math.round(width * scale), height: Math.round(height * scale) };
  const copied = scale === 1 && (await copyPixels(bitmap, { x, y, width, height }, preprocess));
  if (copied) return { data: copied, ...size };
  const context = new OffscreenCanvas(size.width, size.height).getContext("2d", { willReadFrequently: true });
  context?.fillRect(0, 0, 1, 1); // a canvas too large for the browser takes all and shows nothing
  if (!context?.getImageData(0, 0, 1, 1).data[3]) {
    throw new SlimViTError("out-of-memory", `No canvas of ${size.width}×${size.height} can be had here.`);
  }
  context.globalCompositeOperation = "copy";
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, x, y, width, height, 0, 0, size.width, size.height);
  const { data } = context.getImageData(0, 0, size.width, size.height);
  return { data, ...size };
}

/** RGBA of a part of a bitmap through a VideoFrame, several times faster than over a canvas. Undefined where that fails. */
async function copyPixels(bitmap: ImageBitmap, rect: Region, owner: object): Promise<Uint8ClampedArray | undefined> {
  framesConvert ??= convertsFrames().catch(() => false);
  if (!(await framesConvert)) return undefined;
  let frame: (VideoFrame & { rotation?: number; flip?: boolean }) | undefined;
  try {
    frame = new VideoFrame(bitmap, { timestamp: 0 });
    if (frame.rotation !== 0 || frame.flip !== false) return undefined; // copied as it is stored, not as it is shown
    const data = roomFor(rect.width * rect.height * 4, owner);
    await frame.copyTo(data, { rect, format: "RGBA" });
    return data;
  } catch {
    return undefined;
  } finally {
    frame?.close();
  }
}

/** Memory that was written before is written in half the time. Larger pictures do not keep theirs. */
const WARM_BYTES = 2 ** 24;
const warm = new WeakMap<object, Uint8ClampedArray<ArrayBuffer>>();

/** @param owner the model, whose pictures come one after the other: each is resized before the next is read */
function roomFor(bytes: number, owner: object): Uint8ClampedArray<ArrayBuffer> {
  let room = warm.get(owner);
  if (!room || room.length < bytes) {
    room = new Uint8ClampedArray(bytes);
    if (bytes <= WARM_BYTES) warm.set(owner, room);
  }
  return room.subarray(0, bytes);
}

let framesConvert: Promise<boolean> | undefined;

/** Older browsers copy a frame's own format, whatever was asked for. */
async function convertsFrames(): Promise<boolean> {
  const size = { codedWidth: 1, codedHeight: 1, timestamp: 0 };
  const frame = new VideoFrame(new Uint8Array([1, 2, 3, 255]), { format: "BGRA", ...size });
  const out = new Uint8Array(4);
  await frame.copyTo(out, { format: "RGBA" });
  frame.close();
  return out[0] === 3;
}
