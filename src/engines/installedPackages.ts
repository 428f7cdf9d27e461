/**
 * Packages that the app has installed, by bare names that its bundler resolves. Without one, and where the package is
 * missing, such an import fails at once, without a request. Each is in a `try`, where bundlers forgive a missing package.
 */
import { messageOf } from "../errors.ts";
import type { EngineName } from "./engine.ts";

export const inNode = typeof process !== "undefined" && process.versions?.node !== undefined;

/**
 * Engines whose packages are installed; none in Node, where onnxruntime-web takes memory and threads that it never gives
 * back. Of onnx-webgpu there is no import to try: bundlers would copy 26 MB into every application that has onnxruntime-web.
 */
export async function findInstalled(): Promise<EngineName[]> {
  const found: EngineName[] = [];
  if (inNode) return found;
  try {
    await import("onnxruntime-web/wasm");
    found.push("onnx-wasm");
  } catch {} // it is not installed
  try {
    await import("@tensorflow/tfjs-backend-webgpu/dist/version.js"); // one line: whether there is an adapter is asked next
    found.push("tfjs-webgpu");
  } catch {} // nor is this
  return found;
}

export type TfPackages = [typeof import("@tensorflow/tfjs-core"), typeof import("@tensorflow/tfjs-backend-webgpu")];

/** TensorFlow.js and its backend, for webgpu.js: bundlers copy that as it is, with its bare names unresolved. */
export async function importTf(): Promise<TfPackages> {
  try {
    return [await import("@tensorflow/tfjs-core"), await import("@tensorflow/tfjs-backend-webgpu")];
  } catch (error) {
    throw new Error(messageOf(error)); // `loadTf` has more to say
  }
}
