/** Windows bitmaps, which browsers read and sharp does not: uncompressed, with 1, 4, 8, 16, 24 or 32 bits a pixel. */
import type { RawImage } from "../../src/image/resample.ts";

const [BI_RGB, BI_BITFIELDS] = [0, 3];

export const isBmp = (file: Uint8Array): boolean => file[0] === 0x42 && file[1] === 0x4d;

/**
 * @param file whose size was checked
 * @returns RGBA, opaque
 * @throws Error for a kind that is not read, or a file that ends early
 */
export function decodeBmp(file: Uint8Array): RawImage {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  const headerSize = view.getUint32(14, true);
  const isOld = headerSize === 12; // OS/2's first form
  const width = isOld ? view.getUint16(18, true) : view.getInt32(18, true);
  const signed = isOld ? view.getUint16(20, true) : view.getInt32(22, true);
  const height = Math.abs(signed);
  const bits = view.getUint16(isOld ? 24 : 28, true);
  const compression = isOld ? BI_RGB : view.getUint32(30, true);
  if (![1, 4, 8, 16, 24, 32].includes(bits) || ![BI_RGB, BI_BITFIELDS].includes(compression))
    throw new Error(`it is a BMP with ${bits} bits a pixel and compression ${compression}`);
  const stride = 4 * Math.ceil((width * bits) / 32);
  const start = view.getUint32(10, true);
  if (width < 1 || height < 1 || start + stride * height > file.length) throw new Error("it is cut off");
  const read = bits <= 8 ? fromPalette(file, view, 14 + headerSize, isOld ? 3 : 4) : fromMasks(view, bits, compression);
  const data = new Uint8ClampedArray(4 * width * height);
  for (let y = 0; y < height; y++) {
    const row = start + stride * (signed < 0 ? y : height - 1 - y);
    for (let x = 0; x < width; x++) read(row, x, bits, data, 4 * (y * width + x));
  }
  return { data, width, height };
}

type ReadPixel = (row: number, x: number, bits: number, out: Uint8ClampedArray, at: number) => void;

/** @param size bytes of an entry: blue, green, red, and one that is not used */
function fromPalette(file: Uint8Array, view: DataView, palette: number, size: number): ReadPixel {
  return (row, x, bits, out, at) => {
    const bit = x * bits;
    const index = (view.getUint8(row + (bit >> 3)) >> (8 - bits - (bit & 7))) & ((1 << bits) - 1);
    const entry = palette + size * index;
    out.set([file[entry + 2], file[entry + 1], file[entry], 255], at);
  };
}

function fromMasks(view: DataView, bits: number, compression: number): ReadPixel {
  if (bits === 24)
    return (row, x, _, out, at) => {
      const from = row + 3 * x;
      out.set([view.getUint8(from + 2), view.getUint8(from + 1), view.getUint8(from), 255], at);
    };
  const usual = bits === 16 ? [0x7c00, 0x3e0, 0x1f] : [0xff0000, 0xff00, 0xff];
  const masks = compression === BI_BITFIELDS ? [54, 58, 62].map((at) => view.getUint32(at, true)) : usual;
  const channels = masks.map((mask) => {
    const shift = mask ? Math.clz32(mask & -mask) ^ 31 : 0;
    return { mask, shift, most: Math.max(1, mask >>> shift) };
  });
  return (row, x, _, out, at) => {
    const value = bits === 16 ? view.getUint16(row + 2 * x, true) : view.getUint32(row + 4 * x, true);
    channels.forEach(({ mask, shift, most }, c) => {
      out[at + c] = (255 * ((value & mask) >>> shift)) / most;
    });
    out[at + 3] = 255;
  };
}
