/**
 * EXIF orientation of WebP files. Browsers turn JPEGs by themselves, but treat WebP differently. So the orientation is
 * read here, hidden from the browser, and the pixels are turned by our code. The worker reads this code when a WebP may
 * have metadata.
 * @see https://developers.google.com/speed/webp/docs/riff_container, and EXIF 2.32, tag 0x0112
 */
import type { RawImage, Region } from "../protocol.ts";

/** 2, 4, 5 and 7 are mirrored; 5 to 8 swap width and height. 1, upright, is left out. */
type Orientation = 2 | 3 | 4 | 5 | 6 | 7 | 8;

const EXIF = 0x45584946; // name of its chunk
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

/**
 * @param file a whole WebP whose first chunk is VP8X
 * @returns undefined for a picture that is stored upright
 */
export function readTurn(file: Uint8Array): Turn | undefined {
  let found: Exif | undefined;
  try {
    found = findExif(file);
  } catch {} // Metadata that ends too early counts as none.
  if (!found?.orientation) return undefined;
  const { orientation } = found;
  const swapsSides = orientation >= 5;
  return {
    file: withoutExif(file, found.at),
    swapsSides,
    storedRegion({ x, y, width: wide, height: high }, width, height) {
      const [x1, y1] = storedPlace(orientation, x, y, width, height);
      const [x2, y2] = storedPlace(orientation, x + wide - 1, y + high - 1, width, height);
      return { x: Math.min(x1, x2), y: Math.min(y1, y2), width: Math.abs(x1 - x2) + 1, height: Math.abs(y1 - y2) + 1 };
    },
    upright(stored) {
      const [width, height] = swapsSides ? [stored.height, stored.width] : [stored.width, stored.height];
      const from = new Uint32Array(stored.data.slice().buffer);
      const to = new Uint32Array(width * height);
      for (let y = 0, i = 0; y < height; y++) {
        for (let x = 0; x < width; x++, i++) {
          const [column, row] = storedPlace(orientation, x, y, width, height);
          to[i] = from[row * stored.width + column];
        }
      }
      return { data: new Uint8ClampedArray(to.buffer), width, height };
    },
  };
}

interface Exif {
  /** where its chunk begins */
  at: number;
  orientation?: Orientation;
}

function findExif(file: Uint8Array): Exif | undefined {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  for (let at = 12; at + 8 <= file.length; ) {
    const size = view.getUint32(at + 4, true);
    if (view.getUint32(at) === EXIF) {
      return { at, orientation: orientationIn(new DataView(file.buffer, file.byteOffset + at + 8, size)) };
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
    return value >= 2 && value <= 8 ? (value as Orientation) : undefined;
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

/** The stored place of a pixel of the upright picture, which is `width` × `height`. */
function storedPlace(orientation: Orientation, x: number, y: number, width: number, height: number): [number, number] {
  const [right, bottom] = [width - 1 - x, height - 1 - y];
  const places: Record<Orientation, [number, number]> = {
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
