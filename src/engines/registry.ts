/**
 * Who there is. An engine is one line of `ENGINES` and its name in src/protocol.ts. The code of an engine is imported when it
 * is first asked for; one with a `chunk` is a file of its own beside worker.js, which only pages that open it download.
 */
import { messageOf, SlimViTError } from "../errors.ts";
import type { EngineChunk, EngineName, EngineOptions, OpenEngine } from "./engine.ts";

/** Hardware that an engine cannot run without, and that it can lose while it runs. */
export type Device = "gpu" | "npu";

/** A file beside worker.js. An app may serve it elsewhere and say so by `name` in `engineUrls`. */
interface Chunk {
  name: `slimvit/engine-${string}.js`;
  /** The build writes such an import as the address of dist/engine-*.js: see rollup.config.ts. */
  load(): Promise<EngineChunk>;
}

interface EngineEntry {
  /** of an engine in worker.js itself */
  open?(): Promise<OpenEngine>;
  /** work that can begin while the model's files are on their way */
  prepare?(options: EngineOptions): Promise<void>;
  chunk?: Chunk;
  device?: Device;
  /** `auto` measures it on every machine that has its device; it needs no package. */
  isOwn?: boolean;
  /** `auto` measures it when one of these is named in `engineUrls`. */
  namedBy?: readonly string[];
}

const ONNX: Chunk = { name: "slimvit/engine-onnx.js", load: () => import("./onnx/index.ts") };
const TFJS: Chunk = { name: "slimvit/engine-tfjs.js", load: () => import("./tfjs-webgpu/index.ts") };

const WEBGPU: Chunk = { name: "slimvit/engine-webgpu.js", load: () => import("./webgpu/index.ts") };

const ENGINES: Record<EngineName, EngineEntry> = {
  simd: {
    open: async () => (await import("./simd/engine.ts")).openSimd,
    prepare: async (options) => (await import("./simd/engine.ts")).prepare(options),
  },
  webgpu: { chunk: WEBGPU, device: "gpu", isOwn: true },
  reference: { open: async () => (await import("./reference.ts")).openReference },
  "onnx-wasm": { chunk: ONNX, namedBy: ["onnxruntime-web"] },
  "onnx-webgpu": { chunk: ONNX, device: "gpu", namedBy: ["onnxruntime-web/webgpu"] },
  "tfjs-webgpu": { chunk: TFJS, device: "gpu", namedBy: ["@tensorflow/tfjs-backend-webgpu"] },
};

/** Engines that run on any machine, fastest first: `auto` falls back on the first of them that opens. */
export const EVERYWHERE: readonly EngineName[] = ["simd", "onnx-wasm", "reference"];

/** @throws SlimViTError `bad-option` for a name that is none */
export function checkEngineName(name: string): void {
  if (name === "auto" || Object.hasOwn(ENGINES, name)) return;
  const names = Object.keys(ENGINES).join(", ");
  throw new SlimViTError("bad-option", `engine is ${JSON.stringify(name)}; expected "auto" or one of ${names}.`);
}

export function deviceOf(name: EngineName): Device | undefined {
  return ENGINES[name].device;
}

/** The engines that `auto` measures beside the first of `EVERYWHERE`: our own, and those that `engineUrls` names. */
export function candidates(engineUrls: Record<string, string> = {}): EngineName[] {
  const names = Object.keys(ENGINES) as EngineName[];
  return names.filter((name) => {
    const { isOwn, namedBy = [], device, chunk } = ENGINES[name];
    const keys = device && chunk ? [...namedBy, chunk.name] : namedBy;
    return isOwn || keys.some((key) => Object.hasOwn(engineUrls, key));
  });
}

/** Begins what the engine can do without the model. A fault is reported when the engine is opened. */
export function prepareEngine(name: EngineName | "auto", options: EngineOptions): void {
  void ENGINES[name === "auto" ? EVERYWHERE[0] : name].prepare?.(options).catch(() => {});
}

/** @throws SlimViTError `unsupported` when the engine's file does not load */
export async function loadEngine(name: EngineName, { engineUrls }: EngineOptions): Promise<OpenEngine> {
  const { open, chunk } = ENGINES[name];
  if (open) return open();
  const { engines } = await loadChunk(chunk!, engineUrls);
  return engines[name]!;
}

async function loadChunk({ name, load }: Chunk, engineUrls: Record<string, string> = {}): Promise<EngineChunk> {
  try {
    const url = engineUrls[name];
    return await (url === undefined ? load() : import(/* @vite-ignore */ /* webpackIgnore: true */ url));
  } catch (error) {
    throw new SlimViTError(
      "unsupported",
      `The package's ${name.replace("slimvit/", "")} did not load (${messageOf(error)}). Serve it from your own origin ` +
        `and pass engineUrls: { "${name}": "its URL" }.`,
      { cause: error },
    );
  }
}
