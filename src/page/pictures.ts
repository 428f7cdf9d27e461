/** A picture in any form that `classify` accepts → the form in which it is sent to the worker. */
import { transfer } from "comlink";
import { SlimViTError } from "../errors.ts";
import { checkSize, MAX_FILE_BYTES } from "../image/imageSize.ts";
import type { ImageInput, RawImage, TransferredImage } from "../protocol.ts";
import { absoluteUrl } from "./addresses.ts";
import { advise } from "./advise.ts";
import { part } from "./parts.ts";

/** Whether an error is of a video or frame that shows nothing (yet): `stream` waits for the next one. */
export function isUnreadableFrame(error: unknown): boolean {
  return (error as { isUnreadableFrame?: boolean })?.isUnreadableFrame === true;
}

/** @throws SlimViTError `bad-input`; `network` for a Response that failed */
export async function prepareTransfer(image: ImageInput, signal?: AbortSignal): Promise<TransferredImage> {
  if (typeof image === "string" || image instanceof URL) return fromUrl(absoluteUrl(image, "bad-input"), signal);
  if (typeof Blob !== "undefined" && image instanceof Blob) return fromBlob(image, (image as File).name ?? "The blob");
  if (typeof Response !== "undefined" && image instanceof Response) return fromResponse(image);
  if (isRawImage(image)) {
    const { data, width, height } = image;
    return { kind: "pixels", image: { data: new Uint8ClampedArray(data), width, height } }; // the caller keeps the original
  }
  if (image instanceof ArrayBuffer || image instanceof Uint8Array) {
    const file = image as Uint8Array<ArrayBuffer>;
    return fromBlob(new Blob([file]), `The picture of ${file.byteLength} bytes`);
  }
  return fromDrawable(image as ImageBitmapSource | VideoFrame);
}

/** Marks the picture's memory for transfer without another copy, as `prepareTransfer` has made one. */
export function handOver(image: TransferredImage): TransferredImage {
  if (image.kind === "bitmap") return transfer(image, [image.bitmap]);
  if (image.kind === "pixels") return transfer(image, [image.image.data.buffer]);
  return image;
}

/** A URL is fetched by the worker; only what has to be drawn on the page is fetched here. */
async function fromUrl(url: string, signal?: AbortSignal): Promise<TransferredImage> {
  const isSvg = /^data:image\/svg\+xml/i.test(url) || /\.svg$/i.test(url.replace(/[?#].*$/, ""));
  if (!isSvg || typeof document === "undefined") return { kind: "url", url };
  const { fetchSvg } = await part(import("./drawSvg.ts"));
  return fromResponse(await fetchSvg(url, signal));
}

async function fromResponse(response: Response): Promise<TransferredImage> {
  const name = response.url || "The response";
  if (!response.ok)
    throw new SlimViTError("network", `${name}: the server answered ${response.status}; expected a picture.`);
  if (response.bodyUsed) {
    throw new SlimViTError("bad-input", `${name}: its body was read already; pass response.clone() before that.`);
  }
  try {
    return await fromBlob(await response.blob(), name);
  } catch (error) {
    if (error instanceof SlimViTError) throw error;
    throw new SlimViTError("network", `${name}: broke off while it was read.`, { cause: error });
  }
}

async function fromBlob(blob: Blob, name: string): Promise<TransferredImage> {
  const isSvg = /^image\/svg\+xml/.test(blob.type) || (!blob.type && /\.svg$/i.test(name));
  if (!isSvg || typeof document === "undefined" || blob.size > MAX_FILE_BYTES) return { kind: "blob", blob, name };
  const { drawSvg } = await part(import("./drawSvg.ts"));
  return { kind: "bitmap", bitmap: await drawSvg(blob, name) };
}

async function fromDrawable(image: ImageBitmapSource | VideoFrame): Promise<TransferredImage> {
  if (typeof createImageBitmap === "undefined") {
    throw new SlimViTError("bad-input", "The image is no { data, width, height } of RGBA pixels, nor a file.");
  }
  try {
    if (typeof HTMLImageElement !== "undefined" && image instanceof HTMLImageElement) {
      if (!image.complete) await image.decode();
      if (image.naturalWidth) checkSize("The image", image.naturalWidth, image.naturalHeight);
    }
    return { kind: "bitmap", bitmap: await createImageBitmap(image, { premultiplyAlpha: "none" }) };
  } catch (error) {
    if (error instanceof SlimViTError) throw error;
    const fault = await advise(({ noPicture }) => noPicture(), "The image cannot be read.");
    throw Object.assign(new SlimViTError("bad-input", fault, { cause: error }), { isUnreadableFrame: isVideo(image) });
  }
}

export function isVideo(image: unknown): boolean {
  return (
    (typeof HTMLVideoElement !== "undefined" && image instanceof HTMLVideoElement) ||
    (typeof VideoFrame !== "undefined" && image instanceof VideoFrame)
  );
}

function isRawImage(image: ImageInput): image is RawImage {
  const { data, width, height } = (image ?? {}) as RawImage;
  return (
    (data instanceof Uint8ClampedArray || data instanceof Uint8Array) &&
    typeof width === "number" &&
    typeof height === "number"
  );
}
