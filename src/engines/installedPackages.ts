/**
 * The packages of the optional engines. In browsers the app hands them over with `engines`, or serves them and names them in
 * `engineUrls`: a bare name here would be an import that every app's bundler has to resolve, also where nobody has the
 * package.
 */
import { messageOf, SlimViTError } from "../errors.ts";
import { PACKAGES } from "../handOver.ts";
import type { EngineOptions } from "./engine.ts";

export const inNode = typeof process !== "undefined" && process.versions?.node !== undefined;

export type OrtPackage = typeof import("onnxruntime-web/wasm");
export type TfPackages = [typeof import("@tensorflow/tfjs-core"), typeof import("@tensorflow/tfjs-backend-webgpu")];

/** @throws Error when the package is not there; the engine's own error adds what to do */
export async function importPackage(
  name: string,
  { engineUrls = {}, packages, locate }: EngineOptions,
): Promise<object> {
  try {
    if (engineUrls[name] !== undefined) return await importUrl(engineUrls[name]);
    if (inNode) return await importUrl(name);
    if (!packages?.includes(name) || !locate) throw new Error(`${name} is not among the engines handed to load`);
    const module = await importUrl(await locate(name));
    return (globalThis as { [PACKAGES]?: Record<string, object> })[PACKAGES]?.[name] ?? module;
  } catch (error) {
    if (error instanceof SlimViTError) throw error;
    throw new Error(messageOf(error));
  }
}

/** By a variable, which bundlers leave alone. */
export function importUrl(url: string): Promise<object> {
  return import(/* @vite-ignore */ /* webpackIgnore: true */ url);
}
