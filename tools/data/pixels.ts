/** A picture's file → the pixels that a model sees. */
import sharp from "sharp";
import { messageOf, SlimViTError } from "../../src/errors.ts";
import type { Preprocess } from "../../src/format/model.ts";
import { checkSize, imageSize, MAX_PIXELS } from "../../src/image/imageSize.ts";
import { preprocess, type RawImage } from "../../src/image/resample.ts";
import { openResampler } from "../../src/image/resampleWasm.ts";

/** One picture, not yet read. */
export interface Picture {
  /** data set and path within, for messages */
  name: string;
  /** "" for a picture of unlabelled data that lies in no class folder */
  className: string;
  read: () => Promise<Buffer>;
}

/**
 * @returns RGBA as decoded, turned upright by its EXIF orientation
 * @throws SlimViTError `bad-input` naming the picture
 */
export async function decode(buffer: Buffer, name: string): Promise<RawImage> {
  try {
    const { data, info } = await sharp(buffer, { failOn: "error", limitInputPixels: MAX_PIXELS })
      .rotate()
      .toColourspace("srgb")
      .ensureAlpha()
      .raw()
      .toBuffer({ resolveWithObject: true });
    return { data, width: info.width, height: info.height };
  } catch (error) {
    throw new SlimViTError(
      "bad-input",
      `${name}: is no picture that can be read (${messageOf(error).split("\n")[0]}).`,
    );
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
