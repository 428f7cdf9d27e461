/**
 * The slim network on onnxruntime-web, with its WASM or WebGPU kernels. The package is an optional peer dependency. It
 * is loaded when one of these engines is opened.
 */
import type * as Ort from "onnxruntime-web/wasm";
import { messageOf, SlimViTError, throwIfAborted } from "../../errors.ts";
import type { Model } from "../../format/model.ts";
import type { Engine, EngineOptions, OpenEngine, RunOptions, RunOutput } from "../engine.ts";
import type { DeviceWatch } from "../gpuDevice.ts";
import { importPackage, inNode } from "../installedPackages.ts";
import { explainResults } from "./explain.ts";
import { INPUT, type OnnxOptions, writeOnnx } from "./graph.ts";

export type Runtime = typeof Ort;
type Name = "onnx-wasm" | "onnx-webgpu";

export const PACKAGE = "onnxruntime-web";
/** The build with WebGPU kernels, which is twice the download. `engineUrls` may give it an address of its own. */
export const WEBGPU_BUILD = `${PACKAGE}/webgpu`;

/**
 * @param options.threads taken by the first engine of a page or process: onnxruntime-web sets its threads up once, so
 * later engines run with what the first one got, and `threads` says so
 * @throws SlimViTError `unsupported` where onnxruntime-web is not installed or does not start, `out-of-memory`
 */
export const openOnnx: OpenEngine = async (model, options) => {
  const url = options.engineUrls?.[PACKAGE];
  let runtime: Runtime;
  try {
    runtime = await runtimeFrom(PACKAGE, options);
  } catch (error) {
    throw notLoaded("onnx-wasm", url, error);
  }
  setUp(runtime, options.threads, url);
  const open: OpenSession = (graph) => createSession(runtime, model, "wasm", graph);
  const session = await open({});
  return new OnnxEngine("onnx-wasm", runtime, model, session, open, runtime.env.wasm.numThreads ?? 1);
};

/** Runtimes whose settings are fixed: onnxruntime-web ignores all settings after its first session. */
const started = new WeakSet<Runtime>();

export async function runtimeFrom(name: string, options: EngineOptions): Promise<Runtime> {
  const module = (await importPackage(name, options)) as Runtime;
  if (!module.InferenceSession) throw new Error("it exports no InferenceSession");
  return module;
}

export function notLoaded(name: Name, url: string | undefined, error: unknown): SlimViTError {
  const where = url === undefined ? "is not here" : `did not load from ${url}`;
  const [key, file, entry, value] =
    name === "onnx-wasm"
      ? [PACKAGE, "ort.wasm", "onnx", "onnx"]
      : [WEBGPU_BUILD, "ort.webgpu", "onnx-webgpu", "onnxWebgpu"];
  return new SlimViTError(
    "unsupported",
    `Engine "${name}" needs the package ${PACKAGE}, which ${where} (${messageOf(error)}). Run "npm install ${PACKAGE}", ` +
      `import { ${value} } from "slimvit/engines/${entry}" and pass engines: [${value}]; without a bundler, pass ` +
      `engineUrls: { "${key}": "URL of its ${file}.bundle.min.mjs" }.`,
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

/** Opens a session on the engine's own device. */
export type OpenSession = (graph: OnnxOptions) => Promise<Ort.InferenceSession>;

export async function createSession(
  { InferenceSession }: Runtime,
  model: Model,
  provider: Ort.InferenceSession.ExecutionProviderConfig,
  graph: OnnxOptions,
): Promise<Ort.InferenceSession> {
  try {
    return await InferenceSession.create(writeOnnx(model, graph), {
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
  /** opened when it is first asked for; it has the weights once more */
  private explaining: Promise<Ort.InferenceSession> | undefined;

  constructor(
    readonly name: Name,
    private readonly runtime: Runtime,
    private readonly model: Model,
    private readonly session: Ort.InferenceSession,
    private readonly open: OpenSession,
    readonly threads: number,
    private readonly watch?: DeviceWatch,
  ) {}

  async run(pixels: Float32Array, { signal, profile, explain }: RunOptions = {}): Promise<RunOutput> {
    if (this.disposed) throw new SlimViTError("disposed", "This engine has been disposed of.");
    if (profile) {
      const advice = 'use "simd", "tfjs-webgpu" or "reference"';
      throw new SlimViTError(
        "unsupported",
        `Engine "${this.name}" runs the network as a whole, so cannot profile; ${advice}.`,
      );
    }
    throwIfAborted(signal);
    const output = await (this.watch?.guard(() => this.infer(pixels, explain)) ?? this.infer(pixels, explain));
    throwIfAborted(signal);
    return output;
  }

  private async infer(pixels: Float32Array, explain?: boolean): Promise<RunOutput> {
    const { name, imageSize } = this.model.manifest;
    if (explain) this.explaining ??= this.open({ explain });
    const session = explain ? await this.explaining! : this.session;
    try {
      const input = new this.runtime.Tensor("float32", pixels, [1, 3, ...imageSize]);
      const outputs = await session.run({ [INPUT]: input });
      const results: Record<string, Float32Array> = {};
      for (const [key, tensor] of Object.entries(outputs)) results[key] = (await tensor.getData()) as Float32Array;
      const { logits = new Float32Array(0), features } = results;
      return { logits, features, ...(explain && explainResults(this.model.manifest, results)) };
    } catch (error) {
      throw failure(`could not run ${name}`, error);
    }
  }

  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    const sessions = [Promise.resolve(this.session), ...(this.explaining ? [this.explaining] : [])];
    // Nothing can be done about a session that fails to be released.
    const released = sessions.map((session) => session.then((opened) => opened.release()).catch(() => {}));
    void Promise.all(released).finally(() => this.watch?.close());
  }
}
