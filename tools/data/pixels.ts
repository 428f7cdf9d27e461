/** A picture's file → the pixels that a model sees. */
import sharp, { type Sharp } from "sharp";
import { messageOf, SlimViTError } from "../../src/errors.ts";
import type { Preprocess } from "../../src/format/model.ts";
import { checkSize, imageSize, MAX_PIXELS } from "../../src/image/imageSize.ts";
import { preprocess, type RawImage } from "../../src/image/resample.ts";
import { openResampler } from "../../src/image/resampleWasm.ts";
import { sayOnce } from "../shared/terminal.ts";
import { decodeBmp, isBmp } from "./bmp.ts";
import { pngColours, toSrgb } from "./pngColour.ts";

/** One picture that has not been read yet. */
export interface Picture {
  /** data set and path within, for messages */
  name: string;
  /** "" for a picture of unlabelled data that lies in no class folder */
  className: string;
  read: () => Promise<Buffer>;
}

/**
 * The picture as browsers decode it, so that training, evaluation and the page see the same pixels: turned upright by its EXIF
 * orientation (but for WebP, whose orientation browsers pass over), in sRGB, black where it is fully transparent.
 *
 * @returns RGBA
 * @throws SlimViTError `bad-input` naming the picture
 */
export async function decode(buffer: Buffer, name: string): Promise<RawImage> {
  const { plain, decoded } = await open(buffer, name);
  if (decoded) return decoded;
  return readable(name, async () => {
    const { data, info } = await plain.ensureAlpha().raw().toBuffer({ resolveWithObject: true });
    return { data, width: info.width, height: info.height };
  });
}

/** Opens the same picture for sharp to crop and resize: RGB, upright. */
export async function openForSharp(
  buffer: Buffer,
  name: string,
): Promise<{ image: Sharp; width: number; height: number }> {
  const { plain, decoded, width, height } = await open(buffer, name);
  if (!decoded) return { image: plain, width, height };
  const image = sharp(decoded.data, { raw: { width, height, channels: 4 } }).removeAlpha();
  // In two pipelines: sharp would multiply by the alpha that it removes only after resizing.
  const { data } = await image.raw().toBuffer({ resolveWithObject: true });
  return { image: sharp(data, { raw: { width, height, channels: 3 } }), width, height };
}

interface Opened {
  /** for pictures that sharp alone decodes as browsers do */
  plain: Sharp;
  /** for pictures that it decodes differently */
  decoded?: RawImage;
  width: number;
  height: number;
}

function open(buffer: Buffer, name: string): Promise<Opened> {
  return readable(name, async (): Promise<Opened> => {
    const plain = sharp(buffer, { failOn: "error", limitInputPixels: MAX_PIXELS });
    if (isBmp(buffer)) {
      const decoded = decodeBmp(buffer);
      return { plain, decoded, width: decoded.width, height: decoded.height };
    }
    const { format, space, depth, hasAlpha, autoOrient, width, height, icc } = await plain.metadata();
    if (depth === "float" || depth === "double" || depth === "complex" || depth === "dpcomplex")
      throw new Error(
        `its samples are of type ${depth}, whose value range the file does not state; save it with 8 or 16 bits`,
      );
    const upright = format === "webp" ? { width, height } : autoOrient;
    if (format !== "webp") plain.rotate();
    if (space === "cmyk" && !isPressProfile(icc)) return { plain, ...upright, decoded: await fromInk(plain) };
    const colours = format === "png" ? pngColours(buffer) : undefined;
    for (const doubt of doubtsOf({ format, space, hasAlpha, colours })) sayOnce(`${name}: ${doubt}`);
    plain.toColourspace("srgb");
    const isPlain = !hasAlpha && (colours === undefined || colours === "other");
    if (isPlain) return { plain, ...upright };
    const { data, info } = await plain.clone().ensureAlpha().raw().toBuffer({ resolveWithObject: true });
    if (typeof colours === "object") toSrgb(data, colours);
    if (hasAlpha) throughPremultiplied(data, format === "webp" ? Math.floor : Math.round);
    return { plain, ...upright, decoded: { data, width: info.width, height: info.height } };
  });
}

/** Whether a profile is for CMYK; one of another colour space does not describe inks. */
const isPressProfile = (icc: Buffer | undefined) => icc?.toString("latin1", 16, 20) === "CMYK";

/** Converts CMYK without a press profile: inks multiply the light that the paper reflects. */
async function fromInk(image: Sharp): Promise<RawImage> {
  const { data, info } = await image
    .pipelineColourspace("cmyk")
    .toColourspace("cmyk")
    .raw()
    .toBuffer({ resolveWithObject: true });
  const { width, height, channels } = info;
  const out = new Uint8ClampedArray(4 * width * height).fill(255);
  for (let k = 0; k < width * height; k++) {
    const black = 255 - data[channels * k + 3];
    for (let c = 0; c < 3; c++) out[4 * k + c] = ((255 - data[channels * k + c]) * black) / 255;
  }
  return { data: out, width, height };
}

/**
 * Properties with which no decoding can equal every browser, because browsers differ from one another or from libheif.
 */
function doubtsOf(of: { format: string; space: string; hasAlpha: boolean; colours: ReturnType<typeof pngColours> }) {
  const doubts: string[] = [];
  if (of.colours === "other")
    doubts.push("has colours (cICP) that each browser maps differently; they are read as sRGB here");
  if (of.space === "cmyk")
    doubts.push(
      "has CMYK inks with a press profile, which each browser applies differently; saturated and dark colours may differ by 60 of 255",
    );
  if (of.format === "heif" && of.hasAlpha)
    doubts.push(
      "is an AVIF with alpha, whose range browsers and libheif may read differently; pixels that are not opaque may differ by 12 of 255",
    );
  return doubts;
}

/**
 * Rounds as a canvas does, which keeps colours multiplied by alpha in 8 bits: fully transparent pixels become black,
 * and faint colours lose most of their bits.
 *
 * @param round how the product becomes 8 bits; libwebp cuts off what the other decoders round
 */
function throughPremultiplied(data: Uint8Array, round: (value: number) => number): void {
  for (let at = 0; at < data.length; at += 4) {
    const alpha = data[at + 3];
    if (alpha === 255) continue;
    for (let c = at; c < at + 3; c++)
      data[c] = alpha === 0 ? 0 : Math.min(255, Math.round((round((data[c] * alpha) / 255) * 255) / alpha));
  }
}

/** @throws SlimViTError `bad-input` naming the picture, for whatever the decoder throws */
export async function readable<T>(name: string, read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (error) {
    const [first] = messageOf(error).split("\n");
    throw new SlimViTError("bad-input", `${name}: is no picture that can be read (${first}).`);
  }
}

/** The picture as the model sees it at inference: [3, height, width]. */
export async function evalPixels(picture: Picture, how: Preprocess): Promise<Float32Array> {
  return preprocess(await decode(await readPicture(picture), picture.name), how, undefined, await openResampler());
}

/** @throws SlimViTError `bad-input` for one that cannot be read or has too many pixels, before it is decoded */
export async function readPicture(picture: Picture): Promise<Buffer> {
  let file: Buffer;
  try {
    file = await picture.read();
  } catch (error) {
    throw new SlimViTError("bad-input", `${picture.name}: cannot be read (${messageOf(error)}).`);
  }
  const size = imageSize(file);
  if (size) checkSize(picture.name, ...size);
  return file;
}
