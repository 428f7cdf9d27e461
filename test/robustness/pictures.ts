/** Hostile and odd pictures, most of them made here byte by byte, as no encoder would write them. */
import { crc32, deflateSync } from "node:zlib";
import sharp, { type Sharp } from "sharp";

export interface HostilePicture {
  name: string;
  bytes: Uint8Array;
  /** "drawn": classified; "refused": bad-input; "either": whatever this browser's decoder says */
  expected: "drawn" | "refused" | "either";
  /** part of the message of a refusal, where it must be ours and not the decoder's */
  fault?: RegExp;
}

function pngChunk(type: string, data: Uint8Array): Buffer {
  const chunk = Buffer.alloc(12 + data.length);
  chunk.writeUInt32BE(data.length);
  chunk.write(type, 4, "latin1");
  chunk.set(data, 8);
  chunk.writeUInt32BE(crc32(chunk.subarray(4, 8 + data.length)), 8 + data.length);
  return chunk;
}

/** A PNG that claims a size, with as much compressed data as is given. */
export function png(width: number, height: number, data = new Uint8Array(10), bits = 8, colour = 0): Buffer {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width);
  header.writeUInt32BE(height, 4);
  header.set([bits, colour, 0, 0, 0], 8);
  const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
  const chunks = [pngChunk("IHDR", header), pngChunk("IDAT", deflateSync(data)), pngChunk("IEND", new Uint8Array(0))];
  return Buffer.concat([signature, ...chunks]);
}

/** A JPEG whose frame claims a size, after these bytes and before others. */
function jpegFrame(width: number, height: number, before: number[] = []): Buffer {
  const frame = [0xff, 0xc0, 0, 11, 8, height >> 8, height & 255, width >> 8, width & 255, 1, 1, 0x11, 0];
  return Buffer.from([0xff, 0xd8, ...before, ...frame, 0xff, 0xd9]);
}

/** A GIF whose screen and first frame claim sizes. */
function gifFrame(screen: [number, number], frame: [number, number]): Buffer {
  const u16 = (...values: number[]) => values.flatMap((v) => [v & 255, v >> 8]);
  const head = [...Buffer.from("GIF89a"), ...u16(...screen), 0x80, 0, 0, 0, 0, 0, 255, 255, 255];
  return Buffer.from([...head, 0x21, 0xfe, 2, 65, 66, 0, 0x2c, ...u16(0, 0, ...frame), 0, 2, 2, 0x44, 1, 0, 0x3b]);
}

function bmp(width: number, height: number): Buffer {
  const file = Buffer.alloc(54 + 12);
  file.write("BM");
  file.writeUInt32LE(file.length, 2);
  file.writeUInt32LE(54, 10);
  file.writeUInt32LE(40, 14);
  file.writeInt32LE(width, 18);
  file.writeInt32LE(height, 22);
  file.writeUInt16LE(1, 26);
  file.writeUInt16LE(24, 28);
  return file;
}

/** A WebP container of one chunk. */
function webp(kind: string, data: number[]): Buffer {
  const file = Buffer.alloc(20 + data.length);
  file.write("RIFF");
  file.writeUInt32LE(12 + data.length, 4);
  file.write(`WEBP${kind}`, 8);
  file.writeUInt32LE(data.length, 16);
  file.set(data, 20);
  return file;
}

/** 48×40 */
async function gradient(): Promise<Sharp> {
  const data = Buffer.alloc(48 * 40 * 3);
  for (let i = 0; i < data.length; i++) data[i] = (i * 7 + (i >> 6)) % 256;
  return sharp(
    await sharp(data, { raw: { width: 48, height: 40, channels: 3 } })
      .png()
      .toBuffer(),
  );
}

/** Bytes of a real file with its size overwritten by `edit`. */
const edited = (bytes: Buffer, edit: (bytes: Buffer) => void) => {
  const copy = Buffer.from(bytes);
  edit(copy);
  return copy;
};

export async function hostilePictures(): Promise<HostilePicture[]> {
  const plain = await gradient();
  const [asPng, asJpeg, asWebp, asLossless, asGif, asAvif] = await Promise.all([
    plain.clone().png().toBuffer(),
    plain.clone().jpeg().toBuffer(),
    plain.clone().webp().toBuffer(),
    plain.clone().webp({ lossless: true }).toBuffer(),
    plain.clone().gif().toBuffer(),
    plain.clone().avif({ effort: 0 }).toBuffer(),
  ]);
  const ispe = asAvif.indexOf("ispe") + 8;
  const size = /is -?\d+×\d+; expected 1 to 67108864 pixels/;
  const unread = /are no picture whose size can be read/;
  const drawing = /is an SVG drawing, which a worker cannot draw/;
  const refused = (name: string, bytes: Uint8Array, fault: RegExp): HostilePicture => ({
    name,
    bytes,
    expected: "refused",
    fault,
  });
  const drawn = (name: string, bytes: Uint8Array): HostilePicture => ({ name, bytes, expected: "drawn" });
  const either = (name: string, bytes: Uint8Array): HostilePicture => ({ name, bytes, expected: "either" });
  const svg = (body: string) =>
    Buffer.from(`<svg xmlns="http://www.w3.org/2000/svg" width="99" height="99">${body}</svg>`);

  const turned = await Promise.all(
    [1, 2, 3, 4, 5, 6, 7, 8].map(async (orientation) =>
      drawn(`EXIF orientation ${orientation}`, await plain.clone().withMetadata({ orientation }).jpeg().toBuffer()),
    ),
  );
  return [
    ...turned,
    refused("PNG of 0×0", png(0, 0), size),
    refused("PNG of 0×5", png(0, 5), size),
    refused("PNG of 65,535²", png(65_535, 65_535), size),
    refused("PNG of 2³²−1", png(2 ** 32 - 1, 2 ** 32 - 1), size),
    refused("PNG bomb: 12,000² of one colour, whole", png(12_000, 12_000, new Uint8Array(12_000 * 12_001)), size),
    refused("JPEG of 65,535²", jpegFrame(65_535, 65_535), size),
    refused("JPEG of height 0", jpegFrame(8, 0), size),
    refused(
      "JPEG of 65,535² behind padding",
      jpegFrame(65_535, 65_535, [0xff, 0xfe, 0, 2, 0, 7, 0xff, 0xff, 0xff, 0xd0]),
      size,
    ),
    refused(
      "JPEG of 65,535² with a small frame in its metadata",
      jpegFrame(65_535, 65_535, [0xff, 0xe1, 0, 15, ...jpegFrame(8, 8).subarray(2, 15)]),
      size,
    ),
    refused("GIF of 0×65,535", gifFrame([0, 0], [0, 65_535]), size),
    refused("GIF of 65,535²", gifFrame([65_535, 65_535], [1, 1]), size),
    refused("GIF of 1×1 whose frame is 65,535²", gifFrame([1, 1], [65_535, 65_535]), size),
    refused("WebP canvas of 2²⁴", webp("VP8X", [0, 0, 0, 0, 255, 255, 255, 255, 255, 255]), size),
    refused("lossless WebP of 16,384²", webp("VP8L", [0x2f, 255, 255, 255, 15]), size),
    refused("lossy WebP of 16,383²", webp("VP8 ", [0, 0, 0, 0x9d, 1, 0x2a, 255, 63, 255, 63]), size),
    refused("BMP of 2³¹−1 a side", bmp(2 ** 31 - 1, 2 ** 31 - 1), size),
    refused("BMP of negative width", bmp(-2, 2), size),
    refused("BMP of 60,000 × −60,000", bmp(60_000, -60_000), size),
    refused(
      "AVIF of 65,535²",
      edited(asAvif, (b) => b.fill("0000ffff0000ffff", ispe, ispe + 8, "hex")),
      size,
    ),
    refused(
      "AVIF without a size",
      edited(asAvif, (b) => b.write("ispx", ispe - 8)),
      unread,
    ),
    refused("no byte", new Uint8Array(0), unread),
    refused("one byte", Uint8Array.of(0x89), unread),
    refused("PNG cut in its header", asPng.subarray(0, 20), unread),
    refused("JPEG cut before its frame", asJpeg.subarray(0, 12), unread),
    refused("JPEG without end of metadata", Buffer.alloc(70_000, 0xff).fill(0xd8, 1, 2), unread),
    refused("GIF cut in its colours", asGif.subarray(0, 20), unread),
    refused("SVG", svg("<rect width='9' height='9'/>"), drawing),
    refused("SVG with a script", svg("<script>self.harmed = true</script>"), drawing),
    refused("SVG with entities of entities", svg("<!DOCTYPE a [<!ENTITY b 'c'><!ENTITY d '&b;&b;'>]>&d;"), drawing),
    refused("HTML", Buffer.from("<!doctype html><h1>404</h1>"), unread),
    refused("ICO", Buffer.from([0, 0, 1, 0, 1, 0, 1, 1, 0, 0, 1, 0, 24, 0]), unread),
    either("PNG cut in its data", asPng.subarray(0, asPng.length - 200)),
    either("JPEG cut in its data", asJpeg.subarray(0, asJpeg.length >> 1)),
    either("WebP cut in its data", asWebp.subarray(0, asWebp.length >> 1)),
    either("AVIF cut in its data", asAvif.subarray(0, asAvif.length - 100)),
    either("PNG whose data is noise", png(64, 64, new Uint8Array(3))),
    either(
      "PNG with a wrong checksum",
      edited(asPng, (b) => (b[30] ^= 1)),
    ),
    either("PNG with text after it", Buffer.concat([asPng, Buffer.from("<script>1</script>")])),
    drawn("PNG", asPng),
    drawn("JPEG", asJpeg),
    drawn("WebP", asWebp),
    drawn("lossless WebP", asLossless),
    drawn("GIF", asGif),
    drawn("AVIF", asAvif),
    drawn("BMP", bmp(2, 1)),
    drawn("BMP, top row first", bmp(2, -1)),
    drawn("PNG of 1×1", await sharp(asPng).resize(1, 1).png().toBuffer()),
    drawn("PNG of 1×3,000", await sharp(asPng).resize(1, 3000, { fit: "fill" }).png().toBuffer()),
    drawn("PNG of 16 bits", await sharp(asPng).toColourspace("rgb16").png().toBuffer()),
    drawn("PNG of one bit, grey", png(9, 9, new Uint8Array(9 * 3), 1)),
    drawn("PNG with palette and alpha", await sharp(asPng).ensureAlpha(0.5).png({ palette: true }).toBuffer()),
    drawn("CMYK JPEG", await sharp(asPng).toColourspace("cmyk").jpeg().toBuffer()),
    drawn("grey JPEG", await sharp(asPng).greyscale().jpeg().toBuffer()),
    drawn("progressive JPEG", await sharp(asPng).jpeg({ progressive: true }).toBuffer()),
    drawn("animated GIF", await animated("gif")),
    drawn("animated WebP", await animated("webp")),
  ];
}

async function animated(kind: "gif" | "webp"): Promise<Buffer> {
  const frames = await Promise.all(
    [0, 120, 240].map((level) =>
      sharp({ create: { width: 24, height: 20, channels: 3, background: { r: level, g: 99, b: 9 } } })
        .png()
        .toBuffer(),
    ),
  );
  return sharp(frames, { join: { animated: true } })
    .toFormat(kind)
    .toBuffer();
}
