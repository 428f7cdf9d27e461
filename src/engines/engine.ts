import type { Model } from "../format/model.ts";

export type EngineName = "simd" | "onnx-wasm" | "onnx-webgpu" | "tfjs-webgpu" | "reference";

export interface RunOptions {
  /** seen between blocks where the engine can, else after the run */
  signal?: AbortSignal;
  /** milliseconds of each block */
  profile?: boolean;
  /** the class token's attention in each block */
  explain?: boolean;
}

export interface EngineOutput {
  /** [classes] */
  logits: Float32Array;
  /** [embedDim]: the class token after the final norm */
  features: Float32Array;
  /** with `profile`: [blocks] */
  blockMs?: number[];
  /** with `explain`: for each block, attention of the class token over `keepIdx`, averaged over heads; empty for a block without heads */
  attention?: Float32Array[];
}

/** One loaded network on one device. Runs are one at a time; the caller waits for one before it starts the next. */
export interface Engine {
  readonly name: EngineName;
  readonly threads: number;
  /**
   * @param pixels [3, height, width], normalised
   * @throws SlimViTError `aborted`; `unsupported` for an option the engine has no answer to
   */
  run(pixels: Float32Array, options?: RunOptions): Promise<EngineOutput>;
  /** Frees everything. Idempotent. */
  dispose(): void;
}

export interface EngineOptions {
  /** wanted; an engine takes what it can get and says so in `threads` */
  threads?: number;
  /** where optional packages are served, by package name, for workers that cannot resolve bare names */
  engineUrls?: Record<string, string>;
}

export type OpenEngine = (model: Model, options: EngineOptions) => Promise<Engine>;
