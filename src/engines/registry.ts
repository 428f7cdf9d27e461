/** Engines by name. Each is imported when it is asked for: an application downloads none that it does not run. */
import { messageOf, SlimViTError } from "../errors.ts";
import type { Model } from "../format/model.ts";
import type { Engine, EngineName, EngineOptions, OpenEngine } from "./engine.ts";
import { importTf } from "./installedPackages.ts";
import { selfTest } from "./selfTest.ts";

export interface CheckedEngine {
  engine: Engine;
  /** of the first run, which warms it up and checks it */
  firstRunMs: number;
}

/** An engine that "auto" tried and did not take. */
export interface TriedEngine {
  engine: EngineName;
  /** why not */
  reason: string;
  /** median of a few runs, in milliseconds, where it came to be measured */
  ms?: number;
}

export interface OpenedEngine extends CheckedEngine {
  tried: TriedEngine[];
  /** why this one */
  reason: string;
}

const ENGINES: Record<EngineName, (urls?: Record<string, string>) => Promise<OpenEngine>> = {
  reference: async () => (await import("./reference.ts")).openReference,
  "onnx-wasm": async () => (await import("./onnx/engine.ts")).openOnnx,
  simd: async () => (await import("./simd/engine.ts")).openSimd,
  webgpu: async (urls) => (await loadWebgpuEngine(urls)).openWebgpu,
  "onnx-webgpu": async (urls) => (await loadGpuEngines(urls)).openOnnxWebgpu,
  "tfjs-webgpu": async (urls) => {
    const { openTfjs } = await loadGpuEngines(urls);
    return (model, options) => openTfjs(model, options, importTf);
  },
};

/** The engines on WebGPU that other packages bring, and our own, where their files are named. */
export const GPU_ENGINES = "slimvit/webgpu.js";
export const WEBGPU_ENGINE = "slimvit/engine-webgpu.js";

export const isOnGpu = (engine: EngineName): boolean => engine.endsWith("webgpu");

/** @throws SlimViTError `bad-option` for a name that is none */
export function checkEngineName(name: string): void {
  if (name === "auto" || Object.hasOwn(ENGINES, name)) return;
  const names = Object.keys(ENGINES).join(", ");
  throw new SlimViTError("bad-option", `engine is ${JSON.stringify(name)}; expected "auto" or one of ${names}.`);
}

/**
 * Opens an engine and holds it against the manifest's self-test.
 *
 * @throws SlimViTError `unsupported` for an engine that cannot run here or computes
 * wrong results; and what the engine itself throws
 */
export async function openNamed(name: EngineName, model: Model, options: EngineOptions): Promise<CheckedEngine> {
  const engine = await (await ENGINES[name](options.engineUrls))(model, options);
  const start = performance.now();
  try {
    await selfTest(engine, model);
  } catch (error) {
    engine.dispose();
    throw error;
  }
  return { engine, firstRunMs: performance.now() - start };
}

/** Best first, where nothing is measured. */
const WITHOUT_GPU: readonly EngineName[] = ["simd", "onnx-wasm", "reference"];

/** The first that opens of those that need no GPU. */
export async function openWithoutGpu(model: Model, options: EngineOptions): Promise<OpenedEngine> {
  const tried: TriedEngine[] = [];
  for (const candidate of WITHOUT_GPU) {
    try {
      const opened = await openNamed(candidate, model, options);
      return { ...opened, tried, reason: tried.length ? "the first that opened" : "no other is installed or named" };
    } catch (error) {
      if (isCallersFault(error)) throw error;
      tried.push({ engine: candidate, reason: messageOf(error) });
    }
  }
  throw new SlimViTError("unsupported", `No engine opens here. ${tried.map(({ reason }) => reason).join(" ")}`);
}

/** In a file beside this one, which only pages that choose these engines load. */
export async function loadGpuEngines(urls?: Record<string, string>): Promise<typeof import("./gpuEngines.ts")> {
  const url = urls?.[GPU_ENGINES] ?? new URL("./webgpu.js", import.meta.url).href; // the form that bundlers look for
  return loadFile(GPU_ENGINES, url);
}

/** In a file of its own, which only pages with a GPU load. */
export async function loadWebgpuEngine(urls?: Record<string, string>): Promise<typeof import("./webgpu/entry.ts")> {
  const url = urls?.[WEBGPU_ENGINE] ?? new URL("./engine-webgpu.js", import.meta.url).href;
  return loadFile(WEBGPU_ENGINE, url);
}

/** @param name as `engineUrls` has it */
async function loadFile<T>(name: string, url: string): Promise<T> {
  try {
    return await import(/* @vite-ignore */ /* webpackIgnore: true */ url);
  } catch (error) {
    const file = name.replace("slimvit/", "");
    throw new SlimViTError(
      "unsupported",
      `The package's ${file} did not load (${messageOf(error)}). Serve it from your own origin and pass ` +
        `engineUrls: { "${name}": "its URL" }.`,
      { cause: error },
    );
  }
}

/** A fault that the next engine would find again. */
function isCallersFault(error: unknown): boolean {
  return error instanceof SlimViTError && ["bad-model", "bad-option", "aborted"].includes(error.code);
}
