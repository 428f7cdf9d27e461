/** A picture in the forms that decoders treat differently, for `npm run agreement -- --odd` and tests. */
import { crc32 } from "node:zlib";
import sharp from "sharp";

export const ODD_KINDS = [
  "alpha",
  "hidden",
  "gamma",
  "wide gamut",
  "WebP turned",
  "JPEG turned",
  "16 bits",
  "palette",
] as const;
export type OddKind = (typeof ODD_KINDS)[number];

/** @param file any picture */
export async function oddPicture(file: Buffer, kind: OddKind): Promise<Buffer> {
  const { data, info } = await sharp(file)
    .rotate()
    .toColourspace("srgb")
    .removeAlpha()
    .raw()
    .toBuffer({ resolveWithObject: true });
  const { width, height } = info;
  const opaque = () => sharp(data, { raw: { width, height, channels: 3 } });
  const withAlpha = (alphaAt: (x: number, y: number) => number) => {
    const rgba = Buffer.alloc(4 * width * height);
    for (let k = 0; k < width * height; k++) {
      data.copy(rgba, 4 * k, 3 * k, 3 * k + 3);
      rgba[4 * k + 3] = alphaAt(k % width, Math.floor(k / width));
    }
    return sharp(rgba, { raw: { width, height, channels: 4 } });
  };
  if (kind === "alpha")
    return withAlpha((x) => Math.round((255 * x) / width))
      .png()
      .toBuffer();
  if (kind === "hidden")
    return withAlpha((x, y) => (Math.hypot(x - width / 2, y - height / 2) < height / 3 ? 255 : 0))
      .png()
      .toBuffer();
  if (kind === "gamma") return withChunks(await opaque().png().toBuffer(), { gAMA: numbers(0.7) });
  if (kind === "wide gamut") {
    const displayP3 = numbers(0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06);
    return withChunks(await opaque().png().toBuffer(), { gAMA: numbers(0.45455), cHRM: displayP3 });
  }
  if (kind === "WebP turned") return opaque().withMetadata({ orientation: 6 }).webp({ lossless: true }).toBuffer();
  if (kind === "JPEG turned") return opaque().withMetadata({ orientation: 6 }).jpeg({ quality: 95 }).toBuffer();
  if (kind === "16 bits") return opaque().toColourspace("rgb16").png().toBuffer();
  return withAlpha((x) => (x % 16 < 8 ? 255 : 100))
    .png({ palette: true })
    .toBuffer();
}

/** Numbers as PNG stores them, in hundred thousandths. */
function numbers(...values: number[]): Buffer {
  const bytes = Buffer.alloc(4 * values.length);
  values.forEach((value, k) => void bytes.writeUInt32BE(Math.round(100000 * value), 4 * k));
  return bytes;
}

/** Inserts chunks behind the header, before anything else. */
export function withChunks(png: Buffer, chunks: Record<string, Buffer>): Buffer {
  const HEADER = 33;
  const made = Object.entries(chunks).map(([kind, content]) => {
    const chunk = Buffer.alloc(12 + content.length);
    chunk.writeUInt32BE(content.length);
    chunk.write(kind, 4, "latin1");
    content.copy(chunk, 8);
    chunk.writeUInt32BE(crc32(chunk.subarray(4, 8 + content.length)), 8 + content.length);
    return chunk;
  });
  return Buffer.concat([png.subarray(0, HEADER), ...made, png.subarray(HEADER)]);
}
