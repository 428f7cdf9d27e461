/** Opens engines by name. Each is imported when it is asked for: an application downloads none that it does not run. */
import { messageOf, SlimViTError } from "../errors.ts";
import type { Model } from "../format/model.ts";
import type { Engine, EngineName, EngineOptions, OpenEngine } from "./engine.ts";

export interface OpenedEngine {
  engine: Engine;
  /** the engines that "auto" would have liked better, and why each did not open */
  tried: { engine: EngineName; reason: string }[];
}

/** Best first. */
const AUTO: readonly EngineName[] = ["simd", "onnx-wasm", "reference"];

const ENGINES: Record<EngineName, (urls?: Record<string, string>) => Promise<OpenEngine>> = {
  reference: async () => (await import("./reference.ts")).openReference,
  "onnx-wasm": async () => (await import("./onnx/engine.ts")).openOnnx,
  simd: async () => (await import("./simd/engine.ts")).openSimd,
  "onnx-webgpu": async (urls) => (await loadGpuEngines(urls)).openOnnxWebgpu,
  "tfjs-webgpu": async (urls) => (await loadGpuEngines(urls)).openTfjs,
};

/**
 * @param name "auto" takes the fastest that opens here
 * @throws SlimViTError `bad-option` for a name that is none, `unsupported` for an engine that cannot run here; and what
 * the engine itself throws
 */
export async function openEngine(
  name: EngineName | "auto",
  model: Model,
  options: EngineOptions = {},
): Promise<OpenedEngine> {
  if (name !== "auto") return { engine: await open(name, model, options), tried: [] };
  const tried: OpenedEngine["tried"] = [];
  for (const candidate of AUTO) {
    try {
      return { engine: await open(candidate, model, options), tried };
    } catch (error) {
      if (isCallersFault(error)) throw error;
      tried.push({ engine: candidate, reason: messageOf(error) });
    }
  }
  throw new SlimViTError("unsupported", `No engine opens here. ${tried.map(({ reason }) => reason).join(" ")}`);
}

async function open(name: EngineName, model: Model, options: EngineOptions): Promise<Engine> {
  if (!Object.hasOwn(ENGINES, name)) {
    throw new SlimViTError(
      "bad-option",
      `engine is ${JSON.stringify(name)}; expected "auto" or one of ${Object.keys(ENGINES).join(", ")}.`,
    );
  }
  return (await ENGINES[name](options.engineUrls))(model, options);
}

/** In a file beside this one, which only pages that choose these engines load. */
async function loadGpuEngines(urls?: Record<string, string>): Promise<typeof import("./webgpu.ts")> {
  try {
    const url = urls?.["slimvit/webgpu.js"] ?? new URL("./webgpu.js", import.meta.url).href; // the form that bundlers look for
    return await import(/* @vite-ignore */ /* webpackIgnore: true */ url);
  } catch (error) {
    throw new SlimViTError(
      "unsupported",
      `The package's webgpu.js did not load (${messageOf(error)}). Serve it from your own origin and pass ` +
        'engineUrls: { "slimvit/webgpu.js": "its URL" }.',
      { cause: error },
    );
  }
}

/** A fault that the next engine would find again. */
function isCallersFault(error: unknown): boolean {
  return error instanceof SlimViTError && ["bad-model", "bad-option", "aborted"].includes(error.code);
}
