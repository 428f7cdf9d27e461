/** SlimViT on the page's thread: starts the worker, sends it pictures, and makes sure that every promise settles. */
import { proxy, type Remote, transfer } from "comlink";
import type { WireImage } from "./decode.ts";
import type { EngineName } from "./engines/engine.ts";
import { SlimViTError, throwIfAborted } from "./errors.ts";
import type { WeightsDtype } from "./format/model.ts";
import type { CallId, Host } from "./host.ts";
import type { RawImage } from "./image.ts";
import type { Progress, Source, WeightsStore } from "./load.ts";
import type {
  ModelInfo,
  ScoredClass,
  ClassifyOptions as SessionOptions,
  SessionRequest,
  SessionResult,
} from "./session.ts";
import { spawnWorker } from "./spawn.ts";

export interface LoadOptions {
  /** default "auto": the fastest that works here */
  engine?: EngineName | "auto";
  /** default "auto": f16 where the folder has it */
  dtype?: WeightsDtype | "auto";
  /** default "auto"; more than one needs a cross-origin isolated page */
  threads?: number | "auto";
  /** keep weights between visits, keyed by their sha256; default true. Or a store of one's own. */
  cache?: boolean | WeightsStore;
  onProgress?: (progress: Progress) => void;
  signal?: AbortSignal;
  /** where worker.js is served, when the bundler does not find it */
  workerUrl?: string | URL;
  /** where optional packages are served, by package name, when the bundler does not resolve them */
  engineUrls?: Record<string, string>;
}

export interface ClassifyOptions extends SessionOptions {
  signal?: AbortSignal;
}

export interface Classification {
  /** best first */
  classes: ScoredClass[];
  /** `preprocess` and `inference` in the worker; `total` as the caller waited */
  latencyMs: { preprocess: number; inference: number; total: number };
  engine: EngineName;
  /** with `profile`: milliseconds a block */
  blockMs?: number[];
  /** with `explain`: for each block, the class token's attention over its `keepIdx` */
  attention?: Float32Array[];
}

/** Anything the browser can draw, a URL, or RGBA pixels (the one form that also works in Node). */
export type ImageInput = ImageBitmapSource | VideoFrame | string | RawImage;

type CallableHost = Host | Remote<Host>;

/** A loaded model. Calls are answered in order; `dispose()` frees worker and memory. */
export class SlimViT {
  private nextCall: CallId = 1;
  private disposed = false;
  private connection: Promise<Connection> | undefined;
  private loaded: ModelInfo | undefined;
  private readonly pending = new Set<(error: SlimViTError) => void>();

  private constructor(
    private readonly request: Omit<SessionRequest, "onProgress" | "signal" | "cache">,
    private readonly options: LoadOptions,
  ) {}

  /** What was loaded and how it runs. */
  get info(): ModelInfo {
    return this.loaded!; // `load` resolves only when it is there
  }

  /**
   * @param source folder URL (slimvit.json inside), "hf:owner/name", or the folder's files; in Node also a folder's path
   * @throws SlimViTError `network`, `bad-model`, `integrity`, `bad-option`, `unsupported`, `aborted`, `out-of-memory`
   */
  static async load(source: string | URL | readonly File[], options: LoadOptions = {}): Promise<SlimViT> {
    throwIfAborted(options.signal);
    const { engine = "auto", dtype = "auto", threads = "auto", engineUrls } = options;
    const request = { source: await resolveSource(source), engine, dtype, threads, engineUrls: absolute(engineUrls) };
    const vit = new SlimViT(request, options);
    try {
      vit.loaded = (await vit.connect(options.signal, options.onProgress)).info;
      return vit;
    } catch (error) {
      vit.dispose();
      throw error;
    }
  }

  /**
   * @param image any size; the original is left alone
   * @returns the `topK` best classes, best first; scores over all classes sum to 1
   * @throws SlimViTError `bad-input` for what is no picture, `aborted`, `worker-lost`, `disposed` after `dispose()`
   */
  async classify(image: ImageInput, { signal, ...options }: ClassifyOptions = {}): Promise<Classification> {
    const start = performance.now();
    const { classes, blockMs, attention, preprocessMs, inferenceMs } = await this.run(image, options, signal);
    return {
      classes,
      latencyMs: { preprocess: preprocessMs, inference: inferenceMs, total: performance.now() - start },
      engine: this.info.engine,
      ...(blockMs && { blockMs }),
      ...(attention && { attention }),
    };
  }

  /** The class token after the final norm, [embedDim]: a picture's features. */
  async embed(
    image: ImageInput,
    { signal, region }: Pick<ClassifyOptions, "signal" | "region"> = {},
  ): Promise<Float32Array> {
    return (await this.run(image, { topK: 1, region }, signal)).features;
  }

  /** Frees worker, weights and memory; calls in flight reject with `disposed`. Idempotent. */
  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    this.rejectPending(new SlimViTError("disposed", "The model was disposed of."));
    this.connection?.then(
      ({ close }) => close(),
      () => {}, // it never opened
    );
    this.connection = undefined;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.dispose();
  }

  private async run(image: ImageInput, options: SessionOptions, signal?: AbortSignal): Promise<SessionResult> {
    this.throwIfDisposed();
    throwIfAborted(signal);
    const wire = await toWire(image);
    this.throwIfDisposed();
    const { host } = await this.connect(signal);
    const sent = wire.kind === "bitmap" ? transfer(wire, [wire.bitmap]) : wire; // our own copy of the caller's image
    return this.settle((call) => host.run(call, sent, options) as Promise<SessionResult>, host, signal);
  }

  /** The worker, started again if it was lost; its model is loaded when this resolves. */
  private connect(signal?: AbortSignal, onProgress?: (progress: Progress) => void): Promise<Connection> {
    this.connection ??= this.open(signal, onProgress).catch((error) => {
      this.connection = undefined;
      throw error;
    });
    return this.connection;
  }

  private async open(signal?: AbortSignal, onProgress?: (progress: Progress) => void): Promise<Connection> {
    const { host, worker } = await startHost(this.options.workerUrl);
    const close = () => {
      if (worker) worker.terminate();
      else host.dispose();
    };
    const lost = (event: Event) => {
      event.preventDefault?.();
      close();
      this.connection = undefined;
      this.rejectPending(
        new SlimViTError("worker-lost", "The worker stopped unexpectedly. The next call starts a fresh one."),
      );
    };
    worker?.addEventListener("error", lost);
    try {
      const { cache = true } = this.options;
      const store = typeof cache === "object" && worker ? proxy(cache) : cache;
      const report = onProgress && (worker ? proxy(onProgress) : onProgress);
      const info = await this.settle(
        (call) => host.load(call, this.request, store, report) as Promise<ModelInfo>,
        host,
        signal,
      );
      return { host, info, close };
    } catch (error) {
      close();
      throw error;
    }
  }

  /** Settles with the call, or as soon as the worker is lost, the model disposed of or the caller aborts. */
  private settle<T>(start: (call: CallId) => Promise<T>, host: CallableHost, signal?: AbortSignal): Promise<T> {
    const call = this.nextCall++;
    return new Promise<T>((resolve, reject) => {
      const finish = (settleWith: () => void) => {
        this.pending.delete(fail);
        signal?.removeEventListener("abort", aborted);
        settleWith();
      };
      const fail = (error: SlimViTError) => finish(() => reject(error));
      const aborted = () => {
        void host.abort(call);
        fail(new SlimViTError("aborted", "The caller aborted the operation.", { cause: signal?.reason }));
      };
      this.pending.add(fail);
      signal?.addEventListener("abort", aborted);
      start(call).then(
        (value) => finish(() => resolve(value)),
        (error) => finish(() => reject(error)),
      );
    });
  }

  private rejectPending(error: SlimViTError): void {
    for (const reject of [...this.pending]) reject(error);
  }

  private throwIfDisposed(): void {
    if (this.disposed) throw new SlimViTError("disposed", "The model was disposed of.");
  }
}

interface Connection {
  host: CallableHost;
  info: ModelInfo;
  close: () => void;
}

async function startHost(workerUrl?: string | URL): Promise<{ host: CallableHost; worker?: Worker }> {
  if (typeof Worker !== "undefined") return spawnWorker(workerUrl);
  // Node: the same code in this process.
  const { createHost } = await import("./worker.js");
  return { host: createHost() };
}

async function resolveSource(source: string | URL | readonly File[]): Promise<Source> {
  if (Array.isArray(source)) {
    return { files: source.map((file: File) => ({ name: file.name, blob: file })) };
  }
  const text = String(source);
  const hub = text.match(/^hf:([\w.-]+\/[\w.-]+)$/);
  if (hub) return { url: `https://huggingface.co/${hub[1]}/resolve/main/` };
  if (text.startsWith("hf:"))
    throw new SlimViTError("bad-option", `"${text}" is no Hugging Face name; expected "hf:owner/name".`);
  return { url: withSlash((await baseUrl(text)).href) };
}

async function baseUrl(text: string): Promise<URL> {
  try {
    if (/^[a-z][a-z\d+.-]+:/i.test(text)) return new URL(text);
    if (typeof location !== "undefined") return new URL(text, location.href);
    const module = "node:url"; // a variable, so that bundlers for the browser leave it alone
    const { pathToFileURL } = (await import(
      /* @vite-ignore */ /* webpackIgnore: true */ module
    )) as typeof import("node:url");
    return pathToFileURL(text);
  } catch {
    throw new SlimViTError("bad-option", `"${text}" is no address of a model folder.`);
  }
}

/** The folder, also when its manifest was named. */
function withSlash(href: string): string {
  const folder = href.replace(/[?#].*$/, "").replace(/slimvit\.json$/, "");
  return folder.endsWith("/") ? folder : `${folder}/`;
}

/** A worker from a blob has no base to resolve addresses against. */
function absolute(urls?: Record<string, string>): Record<string, string> | undefined {
  if (!urls || typeof location === "undefined") return urls;
  return Object.fromEntries(Object.entries(urls).map(([name, url]) => [name, new URL(url, location.href).href]));
}

/** @throws SlimViTError `bad-input` */
async function toWire(image: ImageInput): Promise<WireImage> {
  if (typeof image === "string")
    return { kind: "url", url: typeof location === "undefined" ? image : new URL(image, location.href).href };
  if (typeof Blob !== "undefined" && image instanceof Blob)
    return { kind: "blob", blob: image, name: (image as File).name ?? "The blob" };
  if (isRawImage(image))
    return { kind: "pixels", image: { data: image.data, width: image.width, height: image.height } };
  if (typeof createImageBitmap === "undefined") {
    throw new SlimViTError(
      "bad-input",
      "The image has none of the forms that work here; pass { data, width, height } RGBA pixels.",
    );
  }
  try {
    return {
      kind: "bitmap",
      bitmap: await createImageBitmap(image as ImageBitmapSource, { premultiplyAlpha: "none" }),
    };
  } catch (error) {
    throw new SlimViTError(
      "bad-input",
      "The image cannot be read: it has no pixels yet, or is none of the forms classify takes.",
      { cause: error },
    );
  }
}

function isRawImage(image: ImageInput): image is RawImage {
  const { data, width, height } = image as RawImage;
  return (
    (data instanceof Uint8ClampedArray || data instanceof Uint8Array) &&
    typeof width === "number" &&
    typeof height === "number"
  );
}
