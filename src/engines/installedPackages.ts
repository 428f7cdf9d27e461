/**
 * Packages that the app has installed, by bare names that its bundler resolves. Where the page has no bundler, or the
 * package is missing, such an import fails at once, without a request. Each import stands in a `try`, where bundlers
 * forgive a package that is missing.
 */
import { messageOf } from "../errors.ts";
import type { EngineName } from "../protocol.ts";

export const inNode = typeof process !== "undefined" && process.versions?.node !== undefined;

/**
 * Engines whose packages are installed. There are none in Node, where onnxruntime-web takes memory and threads that it
 * never gives back. For onnx-webgpu there is no import to try, because bundlers would copy 26 MB into every app that has
 * onnxruntime-web.
 */
export async function findInstalled(): Promise<EngineName[]> {
  const found: EngineName[] = [];
  if (inNode) return found;
  try {
    await import("onnxruntime-web/wasm");
    found.push("onnx-wasm");
  } catch {} // onnxruntime-web is not installed
  try {
    await import("@tensorflow/tfjs-backend-webgpu/dist/version.js"); // a file of one line: `auto` looks for an adapter next
    found.push("tfjs-webgpu");
  } catch {} // TensorFlow.js is not installed
  return found;
}

export type OrtPackage = typeof import("onnxruntime-web/wasm");
export type TfPackages = [typeof import("@tensorflow/tfjs-core"), typeof import("@tensorflow/tfjs-backend-webgpu")];

/**
 * Bundlers copy the engines' chunks as they are, bare names unresolved. So the imports stand here, in the worker, and are
 * handed to the engine.
 */
export interface InstalledPackages {
  importOrt(): Promise<OrtPackage>;
  importTf(): Promise<TfPackages>;
}

export const installedPackages: InstalledPackages = {
  async importOrt() {
    const main = "onnxruntime-web"; // a variable hides Node's entry, and the larger WASM that it brings, from bundlers
    try {
      // In Node only the main entry starts threads.
      return await (inNode
        ? import(/* @vite-ignore */ /* webpackIgnore: true */ main)
        : import("onnxruntime-web/wasm"));
    } catch (error) {
      throw new Error(messageOf(error)); // the engine's own error adds what to do
    }
  },
  async importTf() {
    try {
      return [await import("@tensorflow/tfjs-core"), await import("@tensorflow/tfjs-backend-webgpu")];
    } catch (error) {
      throw new Error(messageOf(error)); // the engine's own error adds what to do
    }
  },
};
