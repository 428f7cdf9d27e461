/**
 * EXIF orientation of WebP files. Browsers turn JPEGs by themselves, but treat WebP differently. So the orientation is
 * read here, hidden from the browser, and the pixels are turned by our code. The worker reads this code when a WebP may
 * have metadata.
 * @see https://developers.google.com/speed/webp/docs/riff_container, and EXIF 2.32, tag 0x0112
 */
import type { RawImage, Region } from "../protocol.ts";

/** 1 is upright. 2, 4, 5 and 7 are mirrored; 5 to 8 swap width and height. */
export type Orientation = 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8;

const [RIFF, WEBP, VP8X, EXIF] = [0x52494646, 0x57454250, 0x56503858, 0x45584946];
const EXIF_FLAG = 0x08; // of the VP8X chunk
const EXIF_HEADER = 0x45786966; // "Exif", which some writers put before the TIFF header
const ORIENTATION_TAG = 0x0112;

/** How the pixels that a browser reads from a file become the picture that is shown. */
export interface Turn {
  /** a copy of the file that every browser reads as it is stored */
  file: Uint8Array<ArrayBuffer>;
  /** whether the picture's width is the height of what is stored */
  swapsSides: boolean;
  /** the part of the stored picture that shows as `region` of the upright one, `width` × `height` */
  storedRegion(region: Region, width: number, height: number): Region;
  /** stored pixels → upright ones */
  upright(stored: RawImage): RawImage;
}

/** @returns undefined for a picture that is stored upright */
export function readTurn(file: Uint8Array<ArrayBuffer>): Turn | undefined {
  const hidden = hideWebpOrientation(file);
  const { orientation } = hidden;
  if (orientation === 1) return undefined;
  return {
    file: hidden.file,
    swapsSides: swapsSides(orientation),
    storedRegion: (region, width, height) => storedRegion(region, orientation, width, height),
    upright: (stored) => turnUpright(stored, orientation),
  };
}

/**
 * @param file whole
 * @returns the file's orientation, and where a file is turned a copy without its EXIF chunk
 */
export function hideWebpOrientation(file: Uint8Array<ArrayBuffer>): {
  orientation: Orientation;
  file: Uint8Array<ArrayBuffer>;
} {
  try {
    const found = findExif(file);
    if (found && found.orientation !== 1) return { orientation: found.orientation, file: withoutExif(file, found.at) };
  } catch {} // Metadata that ends too early counts as none.
  return { orientation: 1, file };
}

function findExif(file: Uint8Array): { at: number; orientation: Orientation } | undefined {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  if (view.getUint32(0) !== RIFF || view.getUint32(8) !== WEBP || view.getUint32(12) !== VP8X) return undefined;
  for (let at = 12; at + 8 <= file.length; ) {
    const size = view.getUint32(at + 4, true);
    if (view.getUint32(at) === EXIF) {
      const orientation = orientationIn(new DataView(file.buffer, file.byteOffset + at + 8, size));
      return orientation && { at, orientation };
    }
    at += 8 + size + (size % 2); // chunks are padded to an even size
  }
  return undefined;
}

function orientationIn(exif: DataView): Orientation | undefined {
  const start = exif.getUint32(0) === EXIF_HEADER ? 6 : 0;
  const isLittle = exif.getUint16(start) === 0x4949; // "II"
  const directory = start + exif.getUint32(start + 4, isLittle);
  for (let i = 0; i < exif.getUint16(directory, isLittle); i++) {
    const entry = directory + 2 + 12 * i;
    if (exif.getUint16(entry, isLittle) !== ORIENTATION_TAG) continue;
    const value = exif.getUint16(entry + 8, isLittle);
    return value >= 1 && value <= 8 ? (value as Orientation) : undefined;
  }
  return undefined;
}

/** The chunk stays, under a name that readers skip, so that no size changes. */
function withoutExif(file: Uint8Array, at: number): Uint8Array<ArrayBuffer> {
  const copy = new Uint8Array(file);
  copy[at + 3] = 0x5f; // "EXI_"
  copy[20] &= ~EXIF_FLAG;
  return copy;
}

function swapsSides(orientation: Orientation): boolean {
  return orientation >= 5;
}

/** The stored place of a pixel of the upright picture, which is `width` × `height`. */
function storedPlace(orientation: Orientation, x: number, y: number, width: number, height: number): [number, number] {
  const [right, bottom] = [width - 1 - x, height - 1 - y];
  const places: Record<Orientation, [number, number]> = {
    1: [x, y],
    2: [right, y],
    3: [right, bottom],
    4: [x, bottom],
    5: [y, x],
    6: [y, right],
    7: [bottom, right],
    8: [bottom, x],
  };
  return places[orientation];
}

/** The part of the stored picture that shows as `region` of the upright one, `width` × `height`. */
export function storedRegion(region: Region, orientation: Orientation, width: number, height: number): Region {
  const [x1, y1] = storedPlace(orientation, region.x, region.y, width, height);
  const [x2, y2] = storedPlace(orientation, region.x + region.width - 1, region.y + region.height - 1, width, height);
  const [x, y] = [Math.min(x1, x2), Math.min(y1, y2)];
  return { x, y, width: Math.abs(x1 - x2) + 1, height: Math.abs(y1 - y2) + 1 };
}

/** Stored pixels → upright ones. */
export function turnUpright(stored: RawImage, orientation: Orientation): RawImage {
  if (orientation === 1) return stored;
  const swaps = swapsSides(orientation);
  const [width, height] = swaps ? [stored.height, stored.width] : [stored.width, stored.height];
  const from = new Uint32Array(stored.data.slice().buffer);
  const to = new Uint32Array(width * height);
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      const [column, row] = storedPlace(orientation, x, y, width, height);
      to[i] = from[row * stored.width + column];
    }
  }
  return { data: new Uint8ClampedArray(to.buffer), width, height };
}
