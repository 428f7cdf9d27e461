import type { Manifest, Model } from "../format/model.ts";
import type { LoadLinks, LoadRequest, ModelInfo } from "../protocol.ts";

/** What the worker provides: a loaded model and functions. */
export interface TeachHost {
  manifest: Manifest;
  info: ModelInfo;
  request: LoadRequest;
  links: LoadLinks;
  signal: AbortSignal;
  onProgress?(done: number): void;
  /** Runs the engine when it is this call's turn. */
  run(pixels: Float32Array): Promise<{ features: Float32Array }>;
  loadModel(request: LoadRequest, links: LoadLinks & { signal: AbortSignal }): Promise<{ model: Model }>;
  openFolder(
    source: LoadRequest["source"],
    signal: AbortSignal,
  ): Promise<{ read(file: string, options: { limit: number }): Promise<Uint8Array> }>;
  digest(bytes: Uint8Array): Promise<string>;
  /** Lets messages of the page arrive. */
  nextMacrotask(): Promise<void>;
}
