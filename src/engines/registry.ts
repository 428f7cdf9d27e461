/**
 * The list of engines. An engine is one line of `ENGINES` and its name in src/protocol.ts. Its code is imported when it
 * is first requested. An engine with a `chunk` is a file of its own beside worker.js, which only pages that open it
 * download.
 */
import { SlimViTError } from "../errors.ts";
import { type Chunk, loadChunk } from "./chunks.ts";
import type { EngineChunk, EngineName, EngineOptions, OpenEngine } from "./engine.ts";

/** Hardware that an engine cannot run without, and that it can lose while it runs. */
export type Device = "gpu" | "hardware-gpu" | "npu";

interface EngineEntry {
  /** opens an engine that is part of worker.js itself */
  open?(): Promise<OpenEngine>;
  /** work that can begin while the model's files are on their way */
  prepare?(options: EngineOptions): Promise<void>;
  chunk?: Chunk<EngineChunk>;
  device?: Device;
  /** `auto` measures it on every machine that has its device; it needs no package. */
  isOwn?: boolean;
  /** `auto` measures it when the app brings one of these: named in `engineUrls`, or handed over with `engines`. */
  namedBy?: readonly string[];
}

const ONNX: Chunk<EngineChunk> = { name: "slimvit/engine-onnx.js", load: () => import("./onnx/index.ts") };
const REFERENCE: Chunk<EngineChunk> = {
  name: "slimvit/engine-reference.js",
  load: () => import("./reference/index.ts"),
};
const TFJS: Chunk<EngineChunk> = { name: "slimvit/engine-tfjs.js", load: () => import("./tfjs-webgpu/index.ts") };
const WEBGPU: Chunk<EngineChunk> = { name: "slimvit/engine-webgpu.js", load: () => import("./webgpu/index.ts") };
const WEBNN: Chunk<EngineChunk> = { name: "slimvit/engine-webnn.js", load: () => import("./webnn/index.ts") };

const ENGINES: Record<EngineName, EngineEntry> = {
  simd: {
    open: async () => (await import("./simd/engine.ts")).openSimd,
    prepare: async (options) => (await import("./simd/engine.ts")).prepare(options),
  },
  reference: { chunk: REFERENCE },
  "onnx-wasm": { chunk: ONNX, namedBy: ["onnxruntime-web"] },
  webgpu: { chunk: WEBGPU, device: "hardware-gpu", isOwn: true },
  "onnx-webgpu": { chunk: ONNX, device: "gpu", namedBy: ["onnxruntime-web/webgpu"] },
  "tfjs-webgpu": { chunk: TFJS, device: "gpu", namedBy: ["@tensorflow/tfjs-backend-webgpu"] },
  webnn: { chunk: WEBNN, device: "npu", isOwn: true },
};

/** Engines that run on any machine, fastest first: `auto` falls back on the first of them that opens. */
export const EVERYWHERE: readonly EngineName[] = ["simd", "onnx-wasm", "reference"];

/** @throws SlimViTError `bad-option` for an unknown name */
export function checkEngineName(name: string): void {
  if (name === "auto" || Object.hasOwn(ENGINES, name)) return;
  const names = Object.keys(ENGINES).join(", ");
  throw new SlimViTError("bad-option", `engine is ${JSON.stringify(name)}; expected "auto" or one of ${names}.`);
}

export function deviceOf(name: EngineName): Device | undefined {
  return ENGINES[name].device;
}

/** The engines that `auto` measures beside the first of `EVERYWHERE`: our own, and those that the app brings. */
export function candidates(options: EngineOptions): EngineName[] {
  const names = Object.keys(ENGINES) as EngineName[];
  return names.filter((name) => ENGINES[name].isOwn || (ENGINES[name].namedBy && hasPackages(name, options)));
}

/**
 * Whether the app has named or handed over what the engine needs. Node looks for installed packages when the engine is
 * opened.
 */
export function hasPackages(name: EngineName, { engineUrls = {}, packages = [] }: EngineOptions): boolean {
  const { namedBy } = ENGINES[name];
  return !namedBy || namedBy.some((key) => Object.hasOwn(engineUrls, key) || packages.includes(key));
}

/** Starts the work that the engine can do without the model. A fault is reported when the engine is opened. */
export function prepareEngine(name: EngineName | "auto", options: EngineOptions): void {
  void ENGINES[name === "auto" ? EVERYWHERE[0] : name].prepare?.(options).catch(() => {});
}

/** @throws SlimViTError `unsupported` when the engine's file does not load */
export async function loadEngine(name: EngineName, options: EngineOptions): Promise<OpenEngine> {
  const { open, chunk } = ENGINES[name];
  if (open) return open();
  const { engines } = await loadChunk(chunk!, options);
  return engines[name]!;
}

/** The code for folders with several variants. */
export type FamilyChunk = typeof import("./family/index.ts");

const FAMILY: Chunk<FamilyChunk> = { name: "slimvit/engine-family.js", load: () => import("./family/index.ts") };

/** @throws SlimViTError `unsupported` when the file does not load */
export function loadFamily(options: EngineOptions): Promise<FamilyChunk> {
  return loadChunk(FAMILY, options);
}
