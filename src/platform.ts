/**
 * Browser types that the package's public types use. A project's compiler may not know them, as in Node, or know only
 * some, as in a worker. An unknown name is `never` there instead of an error in the package's types.
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
