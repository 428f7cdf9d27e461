import type { Model } from "../format/model.ts";
import type { RunOptions, RunOutput } from "../reference/forward.ts";

export type { RunOptions, RunOutput };

export type EngineName = "simd" | "webgpu" | "onnx-wasm" | "onnx-webgpu" | "tfjs-webgpu" | "reference";

/** One loaded network on one device. Runs are one at a time; the caller waits for one before it starts the next. */
export interface Engine {
  readonly name: EngineName;
  readonly threads: number;
  /** which kernels `simd` runs: with WebAssembly's relaxed SIMD or without */
  readonly simd?: "relaxed" | "plain";
  /** weights, activations and all; only an engine that takes its memory itself knows */
  readonly memoryBytes?: number;
  /**
   * @param pixels [3, height, width], normalised
   * @throws SlimViTError `aborted`; `unsupported` for an option the engine has no answer to
   */
  run(pixels: Float32Array, options?: RunOptions): Promise<RunOutput>;
  /** Several pictures in fewer submissions, in their order, where an engine gains by it. Throws as `run`. */
  runBatch?(pixels: Float32Array[], options?: RunOptions): Promise<RunOutput[]>;
  /** GPU programs launched for one picture, where the engine counts them */
  readonly dispatches?: number;
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
