/** The forms of a picture that a caller may pass. Part of protocol.ts, which exports them. */
import type { Drawable, Instance } from "./platform.ts";

/**
 * Anything the browser can draw, a URL, a Response, a picture file's bytes, or RGBA pixels (the one form that also works
 * in Node).
 */
export type ImageInput =
  | Drawable
  | string
  | Instance<"URL">
  | Instance<"Response">
  | ArrayBuffer
  | Uint8Array<ArrayBuffer>
  | RawImage;

/** RGBA, row-major, straight alpha. Alpha is dropped, as Pillow's `convert("RGB")` does. */
export interface RawImage {
  data: Uint8ClampedArray | Uint8Array;
  width: number;
  height: number;
}

/** In pixels of the image. */
export interface Region {
  x: number;
  y: number;
  width: number;
  height: number;
}

/** A playing video, a camera's frames (MediaStreamTrackProcessor), or any source of pictures. */
export type FrameSource<T> = Instance<"HTMLVideoElement"> | Instance<"ReadableStream"> | AsyncIterable<T>;
