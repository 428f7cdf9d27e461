/**
 * Loads the packages of the optional engines. In browsers the app passes them in `engines`, or serves them and names
 * their addresses in `engineUrls`. An import by package name here would have to be resolved by every app's bundler, even
 * where the package is not installed.
 */
import { messageOf, SlimViTError } from "../errors.ts";
import { PACKAGES } from "../handOver.ts";
import type { EngineOptions } from "./engine.ts";

export const inNode = typeof process !== "undefined" && process.versions?.node !== undefined;

export type OrtPackage = typeof import("onnxruntime-web/wasm");
export type TfPackages = [typeof import("@tensorflow/tfjs-core"), typeof import("@tensorflow/tfjs-backend-webgpu")];

/** @throws Error when the package is not installed; the engine's own error adds what to do */
export async function importPackage(
  name: string,
  { engineUrls = {}, packages, locate }: EngineOptions,
): Promise<object> {
  try {
    if (engineUrls[name] !== undefined) return await importUrl(engineUrls[name]);
    if (inNode) return await importUrl(name);
    if (!packages?.includes(name) || !locate) throw new Error(`${name} is not among the engines handed to load`);
    const url = (await locate(name)) as string;
    if (runScript(url)) return await handedOver(name);
    const module = await importUrl(url);
    return packagesHere()?.[name] ?? module;
  } catch (error) {
    if (error instanceof SlimViTError) throw error;
    throw new Error(messageOf(error));
  }
}

/**
 * webpack and similar bundlers write scripts that load their other parts by importScripts. That works in workers that
 * are not modules, but not in a module that such a worker imports.
 *
 * @returns whether this worker is not a module and the script has run
 */
function runScript(url: string): boolean {
  const { importScripts } = globalThis as { importScripts?: (url: string) => void };
  try {
    importScripts?.(url);
    return importScripts !== undefined;
  } catch {
    return false; // A module has no such function, or this one refuses.
  }
}

/** How long a script may take to load its other parts. */
const LOAD_MS = 30_000;

async function handedOver(name: string): Promise<object> {
  for (const start = performance.now(); performance.now() - start < LOAD_MS; ) {
    const here = packagesHere()?.[name];
    if (here) return here;
    await new Promise((resolve) => setTimeout(resolve));
  }
  throw new Error(`${name} was not handed over by its script`);
}

function packagesHere(): Record<string, object> | undefined {
  return (globalThis as { [PACKAGES]?: Record<string, object> })[PACKAGES];
}

/** Imports by a variable, which bundlers leave alone. */
export function importUrl(url: string): Promise<object> {
  return import(/* @vite-ignore */ /* webpackIgnore: true */ url);
}
