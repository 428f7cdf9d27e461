/** All that passes between the page and its worker. */

export type EngineName = "simd" | "onnx-wasm" | "onnx-webgpu" | "tfjs-webgpu" | "reference";

/** Which device the engine `webnn` asks the browser for. */
export interface WebnnOptions {
  deviceType?: "cpu" | "gpu" | "npu";
  powerPreference?: "default" | "high-performance" | "low-power";
}

/** An engine that `auto` tried and did not take. */
export interface TriedEngine {
  engine: EngineName;
  /** why not */
  reason: string;
  /** Median milliseconds of a few runs, if it was measured. */
  ms?: number;
}

/** Name of our workers and of their Trusted Types policy. By it worker.js knows that it is to answer calls. */
export const WORKER_NAME = "slimvit";
