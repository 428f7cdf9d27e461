/** Chooses the backend of TensorFlow.js, prints it, and refuses one that is far too slow. */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import util from "node:util";
import { messageOf, SlimViTError } from "../../src/errors.ts";
import type { TF } from "../../src/tfjs/ops.ts";
import { besides } from "../shared/runtime.ts";
import { say } from "../shared/terminal.ts";

export const BACKENDS = ["tfjs-node-gpu", "tfjs-node", "webgpu", "wasm"] as const;
export type BackendName = (typeof BACKENDS)[number];

/** How matrix products round on CPUs that have bf16 units: `bf16` is several times faster and trains as well. */
export type Precision = "f32" | "bf16";

export interface Backend {
  tf: TF;
  name: BackendName;
  precision: Precision;
}

/**
 * The first of `BACKENDS` that works, or the wanted one.
 * @throws SlimViTError `unsupported` when none does; the plain cpu backend, a thousand times slower, is never taken
 */
export async function openBackend(wanted?: BackendName, precision: Precision = "f32"): Promise<Backend> {
  process.env.TF_CPP_MIN_LOG_LEVEL ??= "2";
  // Read when TensorFlow loads. By itself it uses oneDNN only on CPUs with AVX-512 VNNI or newer units.
  process.env.TF_ENABLE_ONEDNN_OPTS ??= "1";
  if (precision === "bf16") process.env.TF_SET_ONEDNN_FPMATH_MODE = "BF16";
  const refused: string[] = [];
  for (const name of wanted ? [wanted] : BACKENDS) {
    try {
      const tf = await OPENERS[name]();
      await tf.ready();
      const exact = name === "tfjs-node" ? precision : "f32"; // only oneDNN has the switch
      say(`backend: ${name} (${tf.getBackend()}), matrix products in ${exact}`);
      return { tf, name, precision: exact };
    } catch (error) {
      refused.push(`${name}: ${messageOf(error).split("\n")[0]}`);
    }
  }
  throw new SlimViTError(
    "unsupported",
    `No TensorFlow.js backend works here (${refused.join("; ")}). Run "npm run setup:tools" first.`,
  );
}

/**
 * The versions that a repetition of a run needs: "node 20.20.2, tfjs 4.22.0, tfjs-node (TensorFlow 2.18.1), linux-x64,
 * f32"
 */
export function environmentOf({ tf, name, precision }: Backend): string {
  const binding = (tf.backend() as { binding?: { TF_Version?: string } }).binding;
  const backend = binding?.TF_Version ? `${name} (TensorFlow ${binding.TF_Version})` : name;
  return `node ${process.versions.node}, tfjs ${tf.version_core}, ${backend}, ${process.platform}-${process.arch}, ${precision}`;
}

const OPENERS: Record<BackendName, () => Promise<TF>> = {
  "tfjs-node-gpu": () => {
    requireGpu();
    return openNative("@tensorflow/tfjs-node-gpu");
  },
  "tfjs-node": () => {
    bringUpTfjsNode();
    return openNative("@tensorflow/tfjs-node");
  },
  webgpu: async () => {
    await provideWebGpu();
    await import("@tensorflow/tfjs");
    await optional("@tensorflow/tfjs-backend-webgpu");
    return use(await import("@tensorflow/tfjs"), "webgpu");
  },
  wasm: async () => {
    const wasm = await import("@tensorflow/tfjs-backend-wasm");
    const require = createRequire(import.meta.url);
    wasm.setWasmPaths(`${dirname(require.resolve("@tensorflow/tfjs-backend-wasm/package.json"))}/dist/`);
    return use(await import("@tensorflow/tfjs"), "wasm");
  },
};

/**
 * Gives Node a `navigator.gpu`: Dawn's, and lets its queue write from shared memory, as browsers do and its binding does
 * not: onnxruntime-web's heap is shared. `DAWN_FLAGS` in the environment goes to Dawn.
 * @throws Error where npm's `webgpu` is not installed or has no binary for this system
 */
export async function provideWebGpu(): Promise<void> {
  const { create, globals } = await optional("webgpu");
  Object.assign(globalThis, globals, { self: globalThis });
  const { writeBuffer } = GPUQueue.prototype;
  GPUQueue.prototype.writeBuffer = function (buffer, offset, data, ...range) {
    const isShared = data instanceof Uint8Array && data.buffer instanceof SharedArrayBuffer;
    return writeBuffer.call(this, buffer, offset, isShared ? data.slice() : data, ...range); // a slice is not shared
  };
  Object.defineProperty(globalThis, "navigator", {
    value: { gpu: create(process.env.DAWN_FLAGS?.split(" ") ?? []) },
    configurable: true,
  });
}

async function openNative(name: string): Promise<TF> {
  // Removed in Node 24, but still used by tfjs-node 4.22.
  const legacy = util as unknown as Record<string, unknown>;
  legacy.isNullOrUndefined ??= (v: unknown) => v == null;
  legacy.isArray ??= Array.isArray;
  return use(await optional(name), "tensorflow");
}

/** `setBackend` answers false and leaves the cpu backend in place where it fails. */
async function use(module: unknown, backend: string): Promise<TF> {
  const tf = (module as { default?: TF }).default ?? (module as TF);
  if (!(await tf.setBackend(backend)) || tf.getBackend() !== backend)
    throw new Error(`has no working "${backend}" backend`);
  return tf;
}

// biome-ignore lint/suspicious/noExplicitAny: packages that need not be installed have no types to check
async function optional(name: string): Promise<any> {
  try {
    return await import(name);
  } catch (error) {
    throw new Error(
      (error as NodeJS.ErrnoException).code === "ERR_MODULE_NOT_FOUND" ? "not installed" : messageOf(error),
    );
  }
}

/** Installs the native library, which a fresh install of the package lacks, by the set-up script. */
function bringUpTfjsNode(): void {
  const require = createRequire(import.meta.url);
  const packageDir = dirname(require.resolve("@tensorflow/tfjs-node/package.json"));
  if (existsSync(join(packageDir, "lib", "napi-v8", "tfjs_binding.node"))) return;
  if (spawnSync(process.execPath, [setupScript()], { stdio: ["ignore", 2, 2] }).status !== 0)
    throw new Error("its native library cannot be installed");
}

/**
 * Checks for a GPU. Without a driver TensorFlow's GPU build runs on the CPU, and after its import tfjs-node cannot be
 * imported, so the check runs in a process of its own.
 */
function requireGpu(): void {
  try {
    createRequire(import.meta.url).resolve("@tensorflow/tfjs-node-gpu/package.json");
  } catch {
    throw new Error("not installed");
  }
  const { status, stderr } = spawnSync(process.execPath, [setupScript(), "--gpu", "--check"], { encoding: "utf8" });
  if (status !== 0)
    throw new Error(
      stderr
        .trim()
        .split("\n")
        .at(-1)!
        .replace(/^setup: /, ""),
    );
}

const setupScript = () => besides(import.meta.url, "setup-tfjs-node.mjs", "../../scripts/setup-tfjs-node.mjs");
