/** A picture as the page sends it → RGBA pixels. */
import { SlimViTError } from "../errors.ts";
import type { Preprocess } from "../format/model.ts";
import { download } from "../loading/download.ts";
import type { RawImage, Region, TransferredImage } from "../protocol.ts";
import { checkSize, imageSize, isExtendedWebp, isHeic, isSvg, MAX_FILE_BYTES } from "./imageSize.ts";
import type { Turn } from "./orientation.ts";
import { cutOut } from "./preprocess.ts";

/** Shorter side in pixels above which the browser draws the picture down first. It halves the time of a 12-megapixel photo. */
const LARGE = 2048;
/**
 * The browser draws down to this many times the size that the model resizes to, so that the last antialiasing is still
 * our own.
 */
const DRAWN_DOWN = 4;

/**
 * @param transferred a bitmap is closed
 * @param preprocess the model's own object: a bitmap's pixels last until the next call with it
 * @returns the picture, and the region that is still to be cut out
 * @throws SlimViTError `bad-input` naming the picture, `bad-option` for a region outside of it, `network`,
 * `out-of-memory` for one that no canvas holds
 */
export async function readImage(
  transferred: TransferredImage,
  region: Region | undefined,
  preprocess: Preprocess,
  signal?: AbortSignal,
): Promise<{ image: RawImage; region?: Region }> {
  if (transferred.kind === "pixels") return { image: transferred.image, region };
  const { bitmap, turn }: Decoded = transferred.kind === "bitmap" ? transferred : await decode(transferred, signal);
  try {
    const pixels = await readPixels(bitmap, storedPart(bitmap, region, turn), preprocess);
    return { image: turn?.upright(pixels) ?? pixels };
  } finally {
    bitmap.close();
  }
}

interface Decoded {
  bitmap: ImageBitmap;
  /** where the bitmap still has to be turned */
  turn?: Turn;
}

type File = Extract<TransferredImage, { kind: "url" | "blob" }>;

async function decode(picture: File, signal?: AbortSignal): Promise<Decoded> {
  const name = picture.kind === "blob" ? picture.name : picture.url.slice(0, 100); // data: URLs are long
  if (!canDraw()) {
    throw new SlimViTError(
      "bad-input",
      `${name}: no picture can be decoded here; pass { data, width, height } (RGBA).`,
    );
  }
  const { file, blob } = await readFile(picture, name, signal);
  checkKind(name, file);
  const turn = isExtendedWebp(file) ? (await import("./orientation.ts")).readTurn(file) : undefined;
  try {
    // A JPEG has no alpha; asked not to multiply by it, Chromium converts all the same, for a fifth of the decoding time.
    const premultiplyAlpha = file[0] === 0xff ? "default" : "none";
    const shown = turn ? new Blob([turn.file], { type: blob.type }) : blob;
    const bitmap = await createImageBitmap(shown, { imageOrientation: "from-image", premultiplyAlpha });
    return { bitmap, turn };
  } catch (error) {
    const fault = isHeic(file)
      ? "is HEIC, which this browser cannot read (Safari can). Convert it to JPEG first."
      : `${file.length} bytes are no picture that this browser can read.`;
    throw new SlimViTError("bad-input", `${name}: ${fault}`, { cause: error });
  }
}

async function readFile(
  picture: File,
  name: string,
  signal?: AbortSignal,
): Promise<{ file: Uint8Array<ArrayBuffer>; blob: Blob }> {
  if (picture.kind === "url") {
    const options = { name, limit: MAX_FILE_BYTES, expected: "a picture" };
    const file = await download(picture.url, options, signal);
    return { file, blob: new Blob([file]) };
  }
  const { blob } = picture;
  if (blob.size <= MAX_FILE_BYTES) return { file: new Uint8Array(await blob.arrayBuffer()), blob };
  throw new SlimViTError("bad-input", `${name}: has ${blob.size} bytes; expected a picture of at most 256 MiB.`);
}

/** @throws SlimViTError `bad-input` for what no browser could read, and for a picture that is too large to decode */
function checkKind(name: string, file: Uint8Array): void {
  const size = imageSize(file);
  if (size) {
    checkSize(name, ...size);
    return;
  }
  const fault = isSvg(file)
    ? "is an SVG drawing, which a worker cannot draw. Pass it as a File or Blob of type image/svg+xml, or as an <img>"
    : `${file.length} bytes are no picture whose size can be read; expected PNG, JPEG, WebP, GIF, BMP or AVIF`;
  throw new SlimViTError("bad-input", `${name}: ${fault}.`);
}

/** @throws SlimViTError `bad-option` for a region outside of the picture as it is shown */
function storedPart(bitmap: ImageBitmap, region: Region | undefined, turn?: Turn): Region {
  checkSize("The image", bitmap.width, bitmap.height); // of whatever form
  const [width, height] = turn?.swapsSides ? [bitmap.height, bitmap.width] : [bitmap.width, bitmap.height];
  const part = cutOut({ width, height }, region);
  return turn?.storedRegion(part, width, height) ?? part;
}

/** Node has neither function; Deno has a canvas without a context. */
function canDraw(): boolean {
  const { createImageBitmap, OffscreenCanvas } = globalThis as Partial<typeof globalThis>;
  return !!(createImageBitmap && OffscreenCanvas && new OffscreenCanvas(1, 1).getContext("2d"));
}

async function readPixels(bitmap: ImageBitmap, part: Region, preprocess: Preprocess): Promise<RawImage> {
  const { resize } = preprocess;
  const { x, y, width, height } = part;
  const shorter = Math.min(width, height);
  const drawn = DRAWN_DOWN * Math.max(...[resize].flat());
  const scale = shorter > Math.max(LARGE, drawn) ? drawn / shorter : 1;
  const size = { width: Math.round(width * scale), height: Math.round(height * scale) };
  const copied = scale === 1 && (await copyPixels(bitmap, part, preprocess));
  if (copied) return { data: copied, ...size };
  const context = new OffscreenCanvas(size.width, size.height).getContext("2d", { willReadFrequently: true });
  context?.fillRect(0, 0, 1, 1); // a canvas that is too large for the browser takes every call and shows nothing
  if (!context?.getImageData(0, 0, 1, 1).data[3]) {
    throw new SlimViTError(
      "out-of-memory",
      `This browser gives no canvas of ${size.width}×${size.height} pixels. Make the picture smaller first.`,
    );
  }
  context.globalCompositeOperation = "copy";
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, x, y, width, height, 0, 0, size.width, size.height);
  const { data } = context.getImageData(0, 0, size.width, size.height);
  return { data, ...size };
}

/** RGBA of a part of a bitmap through a VideoFrame, several times faster than through a canvas. Undefined where that fails. */
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

/** Largest memory that is kept for the next picture: memory that was written before is written in half the time. */
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
