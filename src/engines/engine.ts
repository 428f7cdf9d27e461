/** The one interface of all engines. */
import type { Model } from "../format/model.ts";
import type { EngineName, WebnnOptions } from "../protocol.ts";
import type { RunOptions, RunOutput } from "../reference/forward.ts";
import type { InstalledPackages } from "./installedPackages.ts";

export type { EngineName, RunOptions, RunOutput };

/** One loaded network on one device. The caller waits for one run before it starts the next. */
export interface Engine {
  readonly name: EngineName;
  readonly threads: number;
  /** Which kernels `simd` runs: with WebAssembly's relaxed SIMD or without. */
  readonly simd?: "relaxed" | "plain";
  /** Bytes of weights and activations. Only an engine that allocates its own memory knows them. */
  readonly memoryBytes?: number;
  /** GPU programs that one picture launches, where the engine counts them. */
  readonly dispatches?: number;
  /** With `runBatch`: how many pictures it takes at once. */
  readonly batchSize?: number;
  /**
   * @param pixels [3, height, width], normalised
   * @throws SlimViTError `aborted`; `unsupported` for an option that the engine does not answer
   */
  run(pixels: Float32Array, options?: RunOptions): Promise<RunOutput>;
  /**
   * Several pictures in one submission, for engines where that is faster than one after the other. A picture's output
   * does not depend on what else is in the batch.
   *
   * @param pictures 1 to `batchSize` of them, each as `run` takes it
   * @returns one output for each picture, in their order
   */
  runBatch?(pictures: readonly Float32Array[], options?: RunOptions): Promise<RunOutput[]>;
  /** Frees everything. Idempotent. */
  dispose(): void;
}

export interface EngineOptions {
  /** How many are wanted. An engine takes what it can get and reports it in `threads`. */
  threads?: number;
  /** Where optional packages are served, by package name, for workers that cannot resolve bare names. */
  engineUrls?: Record<string, string>;
  webnn?: WebnnOptions;
}

/** @param installed imports the app's optional packages by their bare names, which a chunk of its own cannot resolve */
export type OpenEngine = (model: Model, options: EngineOptions, installed: InstalledPackages) => Promise<Engine>;

/** What a chunk's file exports: its engines by name. */
export type EngineChunk = { engines: Partial<Record<EngineName, OpenEngine>> };
