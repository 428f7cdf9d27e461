/**
 * The slim network on onnxruntime-web, by its WASM kernels or its WebGPU ones. The package is an optional peer, loaded
 * when one of these engines is asked for.
 */
import type * as Ort from "onnxruntime-web/wasm";
import { messageOf, SlimViTError, throwIfAborted } from "../../errors.ts";
import type { Manifest, Model } from "../../format/model.ts";
import type { Engine, OpenEngine, RunOptions, RunOutput } from "../engine.ts";
import type { DeviceWatch } from "../gpuDevice.ts";
import { inNode } from "../installedPackages.ts";
import { writeOnnx } from "./graph.ts";

export type Runtime = typeof Ort;
type Name = "onnx-wasm" | "onnx-webgpu";

export const PACKAGE = "onnxruntime-web";
/** The build with WebGPU kernels, twice the download. In `engineUrls` it may be named by itself. */
export const WEBGPU_BUILD = `${PACKAGE}/webgpu`;

/**
 * @param options.threads taken by the first engine of a page or process: onnxruntime-web sets its threads up once, so
 * later engines run with what the first one got, and `threads` says so
 * @throws SlimViTError `unsupported` where onnxruntime-web is not installed or does not start, `out-of-memory`
 */
export const openOnnx: OpenEngine = async (model, options, { importOrt }) => {
  const url = options.engineUrls?.[PACKAGE];
  let runtime: Runtime;
  try {
    runtime = await (url === undefined ? importOrt() : runtimeFrom(url));
  } catch (error) {
    throw notLoaded("onnx-wasm", url, error);
  }
  setUp(runtime, options.threads, url);
  const session = await createSession(runtime, model, "wasm");
  return new OnnxEngine("onnx-wasm", runtime, session, model.manifest, runtime.env.wasm.numThreads ?? 1);
};

/** Runtimes whose settings are taken: onnxruntime-web hears of none after its first session. */
const started = new WeakSet<Runtime>();

export async function runtimeFrom(url: string): Promise<Runtime> {
  const module = await import(/* @vite-ignore */ /* webpackIgnore: true */ url);
  if (!module.InferenceSession) throw new Error("it exports no InferenceSession");
  return module;
}

export function notLoaded(name: Name, url: string | undefined, error: unknown): SlimViTError {
  const where = url === undefined ? "is not installed" : `did not load from ${url}`;
  const [key, file] = name === "onnx-wasm" ? [PACKAGE, "ort.wasm"] : [WEBGPU_BUILD, "ort.webgpu"];
  return new SlimViTError(
    "unsupported",
    `Engine "${name}" needs the package ${PACKAGE}, which ${where} (${messageOf(error)}). ` +
      `Run "npm install ${PACKAGE}", or pass engineUrls: { "${key}": "URL of its ${file}.bundle.min.mjs" }.`,
    { cause: error },
  );
}

export function setUp(runtime: Runtime, threads = 1, url?: string): void {
  if (started.has(runtime)) return;
  started.add(runtime);
  const { wasm } = runtime.env;
  const shared = inNode || globalThis.crossOriginIsolated === true; // threads need SharedArrayBuffer
  wasm.numThreads = shared ? Math.max(1, Math.floor(threads)) : 1;
  wasm.proxy = false; // we are in a worker already
  runtime.env.logLevel = "error";
  if (url !== undefined) wasm.wasmPaths = new URL("./", new URL(url, globalThis.location?.href)).href;
}

export async function createSession(
  { InferenceSession }: Runtime,
  model: Model,
  provider: Ort.InferenceSession.ExecutionProviderConfig,
  graph = writeOnnx(model),
): Promise<Ort.InferenceSession> {
  try {
    return await InferenceSession.create(graph, {
      executionProviders: [provider],
      executionMode: "sequential",
      graphOptimizationLevel: "all",
      logSeverityLevel: 3, // errors
    });
  } catch (error) {
    throw failure(`could not open ${model.manifest.name}`, error);
  }
}

function failure(what: string, error: unknown): SlimViTError {
  const full = /bad_alloc|out of memory|allocat/i.test(messageOf(error));
  const code = full ? "out-of-memory" : "unsupported";
  return new SlimViTError(code, `${PACKAGE} ${what} (${messageOf(error)}).`, { cause: error });
}

export class OnnxEngine implements Engine {
  private disposed = false;

  constructor(
    readonly name: Name,
    private readonly runtime: Runtime,
    private readonly session: Ort.InferenceSession,
    private readonly manifest: Manifest,
    readonly threads: number,
    private readonly watch?: DeviceWatch,
  ) {}

  async run(pixels: Float32Array, options: RunOptions = {}): Promise<RunOutput> {
    if (this.disposed) throw new SlimViTError("disposed", "This engine has been disposed of.");
    for (const option of ["profile", "explain"] as const) {
      if (options[option]) {
        throw new SlimViTError(
          "unsupported",
          `Engine "${this.name}" cannot ${option}; use "simd", "tfjs-webgpu" or "reference".`,
        );
      }
    }
    throwIfAborted(options.signal);
    const output = await (this.watch?.guard(() => this.infer(pixels)) ?? this.infer(pixels));
    throwIfAborted(options.signal);
    return output;
  }

  private async infer(pixels: Float32Array): Promise<RunOutput> {
    const { name, imageSize } = this.manifest;
    try {
      const input = new this.runtime.Tensor("float32", pixels, [1, 3, ...imageSize]);
      const { logits, features } = await this.session.run({ pixels: input });
      return { logits: await values(logits), features: await values(features) };
    } catch (error) {
      throw failure(`could not run ${name}`, error);
    }
  }

  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    this.session
      .release()
      .catch(() => {}) // nothing is left to be told
      .finally(() => this.watch?.close());
  }
}

async function values(tensor: Ort.Tensor): Promise<Float32Array> {
  return (await tensor.getData()) as Float32Array;
}
