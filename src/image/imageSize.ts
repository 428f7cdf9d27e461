/**
 * The width and height in a picture file's header, read from its first bytes. A few kilobytes can decode to gigabytes,
 * so nothing is decoded before its size has been checked.
 */
import { SlimViTError } from "../errors.ts";

/** 256 MiB of RGBA: the largest picture that is decoded. */
export const MAX_PIXELS = 2 ** 26;

/** The largest file that is read. */
export const MAX_FILE_BYTES = 2 ** 28;

/**
 * @param name how messages call the picture
 * @throws SlimViTError `bad-input` for a size that is 0 or above `MAX_PIXELS`
 */
export function checkSize(name: string, width: number, height: number): void {
  if (width >= 1 && height >= 1 && width * height <= MAX_PIXELS) return;
  const limit = `expected 1 to ${MAX_PIXELS} pixels`;
  throw new SlimViTError("bad-input", `${name} is ${width}×${height}; ${limit}. Make it smaller first.`);
}

/**
 * @param file PNG, JPEG, GIF, WebP, BMP, AVIF or HEIC
 * @returns [width, height] before any turning, the largest where the file has several; undefined for another kind of
 *   file and for one that ends before its size
 */
export function imageSize(file: Uint8Array): [number, number] | undefined {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  try {
    return sizeOf(view);
  } catch {
    return undefined; // read past the end
  }
}

/** A WebP that can have metadata, which a chunk VP8X begins. */
export function isExtendedWebp(file: Uint8Array): boolean {
  return letters(file, 8, 16) === "WEBPVP8X";
}

const letters = (file: Uint8Array, from: number, to: number) =>
  new TextDecoder("latin1").decode(file.subarray(from, to));

function sizeOf(view: DataView): [number, number] | undefined {
  const first = view.getUint32(0);
  if (first === 0x89504e47) return [view.getUint32(16), view.getUint32(20)]; // IHDR comes first
  if (first >>> 8 === 0xffd8ff) return jpeg(view);
  if (first === GIF8) return gif(view);
  if (first === RIFF && view.getUint32(8) === WEBP) return webp(view);
  if (first >>> 16 === BM) return bmp(view);
  if (view.getUint32(4) === FTYP) return largestIspe(view);
  return undefined;
}

/** The brands that HEIC files give themselves. */
const HEIC_BRANDS = ["heic", "heix", "heim", "heis", "hevc", "hevx", "mif1", "msf1"];

/** Photos of phones, which only Safari reads. AVIF has the same container and other brands. */
export function isHeic(file: Uint8Array): boolean {
  const text = letters(file, 4, 12);
  return text.startsWith("ftyp") && HEIC_BRANDS.includes(text.slice(4));
}

export function isSvg(file: Uint8Array): boolean {
  const text = new TextDecoder().decode(file.subarray(0, 1000));
  return /^\s*(<\?xml[^>]*>\s*)?(<!--[\s\S]*?-->\s*)*(<!doctype svg[^>]*>\s*)?<svg[\s>]/i.test(text);
}

const [GIF8, RIFF, WEBP, FTYP, ISPE, BM] = [0x47494638, 0x52494646, 0x57454250, 0x66747970, 0x69737065, 0x424d];

/**
 * The start-of-frame segment, after those of metadata; thumbnails lie inside of them and are passed over. Markers are
 * found as libjpeg finds them, or a file could show the two of us different frames.
 */
function jpeg(view: DataView): [number, number] {
  for (let at = 2; ; ) {
    while (view.getUint8(at) !== 0xff) at++;
    while (view.getUint8(at) === 0xff) at++;
    const marker = view.getUint8(at++);
    if (marker < 2 || (marker & 0xf8) === 0xd0) continue; // has no body
    if ((marker & 0xf0) === 0xc0 && ![0xc4, 0xc8, 0xcc].includes(marker))
      return [view.getUint16(at + 5), view.getUint16(at + 3)];
    at += view.getUint16(at);
  }
}

/** Decoders enlarge the screen to the first frame, so that counts, too. */
function gif(view: DataView): [number, number] {
  const flags = view.getUint8(10);
  let at = 13 + (flags & 0x80 ? 3 << ((flags & 7) + 1) : 0);
  while (view.getUint8(at) === 0x21) {
    at += 2; // an extension: its label, then blocks up to an empty one
    while (view.getUint8(at)) at += 1 + view.getUint8(at);
    at++;
  }
  const side = (screen: number, offset: number, size: number) =>
    Math.max(view.getUint16(screen, true), view.getUint16(at + offset, true) + view.getUint16(at + size, true));
  return [side(6, 1, 5), side(8, 3, 7)];
}

function webp(view: DataView): [number, number] {
  const kind = view.getUint8(15);
  if (kind === 0x58) {
    const uint24 = (at: number) => view.getUint16(at, true) + view.getUint8(at + 2) * 65536;
    return [uint24(24) + 1, uint24(27) + 1]; // VP8X, the canvas
  }
  const bits = view.getUint32(kind === 0x4c ? 21 : 26, true);
  return kind === 0x4c
    ? [(bits & 0x3fff) + 1, ((bits >>> 14) & 0x3fff) + 1] // VP8L
    : [bits & 0x3fff, (bits >>> 16) & 0x3fff]; // VP8
}

/** A negative height means that the top row comes first. */
function bmp(view: DataView): [number, number] {
  return view.getUint32(14, true) === 12
    ? [view.getUint16(18, true), view.getUint16(20, true)]
    : [view.getInt32(18, true), Math.abs(view.getInt32(22, true))];
}

/** AVIF and HEIC have one `ispe` for each picture, tile, thumbnail and alpha plane. One out of place only adds to the bound. */
function largestIspe(view: DataView): [number, number] | undefined {
  let [width, height] = [0, 0];
  for (let at = 8; at <= view.byteLength - 16; at++) {
    if (view.getUint8(at) !== 0x69 || view.getUint32(at) !== ISPE) continue;
    width = Math.max(width, view.getUint32(at + 8));
    height = Math.max(height, view.getUint32(at + 12));
  }
  return width ? [width, height] : undefined;
}
