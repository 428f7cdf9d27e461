/**
 * Browsers' types in the package's public ones. A project's compiler may know them not at all, as in Node, or in part, as in
 * a worker; a name that is missing is `never` there instead of an error in the package's types.
 */
export type Instance<Name extends string> = typeof globalThis extends { [K in Name]: { prototype: infer T } }
  ? T
  : never;

/** What createImageBitmap takes. */
export type Drawable =
  | Instance<"HTMLImageElement">
  | Instance<"SVGImageElement">
  | Instance<"HTMLVideoElement">
  | Instance<"HTMLCanvasElement">
  | Instance<"ImageBitmap">
  | Instance<"OffscreenCanvas">
  | Instance<"VideoFrame">
  | Instance<"Blob">
  | Instance<"ImageData">;
