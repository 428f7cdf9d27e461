/** The interface that every engine implements. */
import type { Model } from "../format/model.ts";
import type { EngineName, WebnnOptions } from "../protocol.ts";
import type { RunOptions, RunOutput } from "../reference/forward.ts";

export type { EngineName, RunOptions, RunOutput };

/** One loaded network on one device. The caller waits for one run before it starts the next. */
export interface Engine {
  readonly name: EngineName;
  readonly threads: number;
  /** Which kernels `simd` runs: with WebAssembly's relaxed SIMD or without. */
  readonly simd?: "relaxed" | "plain";
  /** Which device `webnn` asked for; undefined where the browser chose. */
  readonly deviceType?: WebnnOptions["deviceType"];
  /** Bytes of weights and activations. Only an engine that allocates its own memory knows them. */
  readonly memoryBytes?: number;
  /** With `runBatch`: how many pictures it takes at once. */
  readonly batchSize?: number;
  /**
   * @param pixels [3, height, width], normalised
   * @throws SlimViTError `aborted`; `unsupported` for an option that the engine does not support
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
  /** With `use`: the variants of the folder whose weights it has. */
  readonly variants?: readonly string[];
  /** Switches to another of its `variants`, from the next run on. */
  use?(variant: string): void;
  /** GPU programs that one picture launches, where the engine counts them. */
  readonly dispatches?: number;
  /** Frees everything. Idempotent. */
  dispose(): void;
}

/** Variants that can share their weights, smallest first. Only the largest comes with the numbers of its weights. */
export interface SharedFamily {
  models: Map<string, Model>;
  largest: Model;
}

/** An engine that is replaced by another when its device is lost. */
export interface LastingEngine {
  readonly engine: Engine;
  run(pixels: Float32Array, options: RunOptions): Promise<RunOutput>;
  dispose(): void;
}

export interface EngineOptions {
  /** How many threads are wanted. An engine takes as many as it can get and reports the number in `threads`. */
  threads?: number;
  /** Where optional packages are served, by package name, for workers that cannot resolve bare names. */
  engineUrls?: Record<string, string>;
  /** Names of the optional packages that the app has handed over; `locate` knows where each is. */
  packages?: readonly string[];
  /** Asks the page for the address of a package or of an engine's file, such as "slimvit/engine-onnx.js". */
  locate?(name: string): Promise<string | object>;
  webnn?: WebnnOptions;
  /** Finds out whether variants can share their weights. Without it an engine is opened for a single variant. */
  sharedFamily?(model: Model): SharedFamily | undefined;
}

export type OpenEngine = (model: Model, options: EngineOptions) => Promise<Engine>;

/** What a chunk's file exports: its engines by name. */
export type EngineChunk = { engines: Partial<Record<EngineName, OpenEngine>> };
