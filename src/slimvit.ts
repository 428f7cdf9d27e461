/** SlimViT on the page's thread: starts the worker, sends it pictures, and makes sure that every promise settles. */
import { proxy, type Remote, transfer } from "comlink";
import type { WireImage } from "./decode.ts";
import type { EngineName } from "./engines/engine.ts";
import { SlimViTError, throwIfAborted } from "./errors.ts";
import type { WeightsDtype } from "./format/model.ts";
import type { CallId, Host } from "./host.ts";
import type { RawImage } from "./image.ts";
import { checkSize } from "./imagesize.ts";
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
export type ImageInput = ImageBitmapSource | VideoFrame | string | URL | RawImage;

/** The folder's URL, "hf:owner/name", or its files; in Node also its path. */
export type ModelSource = string | URL | Iterable<File>;

const LOAD: CallId = 0;

/** A loaded model. Calls are answered in order; `dispose()` frees worker and memory. */
export class SlimViT {
  private nextCall: CallId = LOAD + 1;
  private disposed = false;
  private connection: Promise<Connection> | undefined;
  private close = () => {};
  private loaded: ModelInfo | undefined;
  /** rejects a call that has not settled */
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
  static async load(source: ModelSource, options: LoadOptions = {}): Promise<SlimViT> {
    throwIfAborted(options.signal);
    const { engine = "auto", dtype = "auto", threads = "auto", engineUrls } = options;
    const request = { source: await resolveSource(source), engine, dtype, threads, engineUrls: absolute(engineUrls) };
    const vit = new SlimViT(request, options);
    try {
      await vit.settle(options.signal, () => vit.connect(options.onProgress));
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
    this.rejectPending(disposedError());
    this.disconnect();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.dispose();
  }

  private run(image: ImageInput, options: SessionOptions, signal?: AbortSignal): Promise<SessionResult> {
    return this.settle(signal, async (call, isSettled) => {
      const wire = await toWire(image);
      const { host } = await this.connect();
      if (isSettled()) {
        if (wire.kind === "bitmap") wire.bitmap.close();
        throw disposedError(); // heard by no one
      }
      const abort = () => void host.abort(call);
      signal?.addEventListener("abort", abort);
      try {
        return (await host.run(call, handOver(wire), options)) as SessionResult;
      } catch (error) {
        if ((error as Error)?.name !== "DataCloneError") throw error;
        throw new SlimViTError(
          "bad-input",
          "The image is from another origin that does not allow its pixels to be read. Serve it with CORS headers and set crossorigin on the element.",
          { cause: error },
        );
      } finally {
        signal?.removeEventListener("abort", abort);
      }
    });
  }

  /** The worker with its model, started again if it was lost. */
  private connect(onProgress?: (progress: Progress) => void): Promise<Connection> {
    this.connection ??= this.open(onProgress).catch((error) => {
      this.disconnect();
      throw error;
    });
    return this.connection;
  }

  private disconnect(): void {
    this.close();
    this.close = () => {};
    this.connection = undefined;
  }

  private async open(onProgress?: (progress: Progress) => void): Promise<Connection> {
    const { host, close } = await startHost(this.options.workerUrl, () => {
      this.disconnect();
      this.rejectPending(
        new SlimViTError("worker-lost", "The worker stopped unexpectedly. The next call starts a fresh one."),
      );
    });
    this.close = close;
    if (this.disposed) throw disposedError();
    const { cache = true } = this.options;
    const inWorker = typeof Worker !== "undefined";
    const store = typeof cache === "object" && inWorker ? proxy(cache) : cache;
    const report = onProgress && inWorker ? proxy(onProgress) : onProgress;
    this.loaded = (await host.load(LOAD, this.request, store, report)) as ModelInfo;
    return { host, close };
  }

  /** Settles with the work, or as soon as the caller aborts, the model is disposed of or the worker is lost. */
  private settle<T>(
    signal: AbortSignal | undefined,
    work: (call: CallId, isSettled: () => boolean) => Promise<T>,
  ): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.disposed) throw disposedError();
      throwIfAborted(signal);
      const finish = () => {
        this.pending.delete(fail);
        signal?.removeEventListener("abort", abort);
      };
      const fail = (error: unknown) => {
        finish();
        reject(error);
      };
      const abort = () => {
        fail(new SlimViTError("aborted", "The caller aborted the operation.", { cause: signal?.reason }));
      };
      this.pending.add(fail);
      signal?.addEventListener("abort", abort);
      work(this.nextCall++, () => !this.pending.has(fail)).then((value) => {
        finish();
        resolve(value);
      }, fail);
    });
  }

  private rejectPending(error: SlimViTError): void {
    for (const reject of [...this.pending]) reject(error);
  }
}

function disposedError(): SlimViTError {
  return new SlimViTError("disposed", "The model was disposed of; load it again.");
}

interface Connection {
  host: Host | Remote<Host>;
  close(): void;
}

async function startHost(workerUrl: string | URL | undefined, onLost: () => void): Promise<Connection> {
  if (typeof Worker !== "undefined") return spawnWorker(workerUrl, onLost);
  // Node: the same code in this process.
  const host = (await import("./worker.js")).createHost();
  return {
    host,
    close() {
      host.abort(LOAD);
      host.dispose();
    },
  };
}

async function resolveSource(source: ModelSource): Promise<Source> {
  if (typeof source === "object" && Symbol.iterator in source) {
    return { files: Array.from(source, (file) => ({ name: file.name, blob: file })) };
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
    if (typeof location !== "undefined") return new URL(text, pageUrl());
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

/** What relative addresses are relative to; a worker of our own may have come from a blob. */
function pageUrl(): string {
  return globalThis.document?.baseURI ?? location.href;
}

function absolute(urls?: Record<string, string>): Record<string, string> | undefined {
  if (!urls || typeof location === "undefined") return urls;
  return Object.fromEntries(Object.entries(urls).map(([name, url]) => [name, new URL(url, pageUrl()).href]));
}

/** @throws SlimViTError `bad-input` */
async function toWire(image: ImageInput): Promise<WireImage> {
  if (typeof image === "string" || image instanceof URL)
    return { kind: "url", url: typeof location === "undefined" ? String(image) : new URL(image, pageUrl()).href };
  if (typeof Blob !== "undefined" && image instanceof Blob)
    return { kind: "blob", blob: image, name: (image as File).name ?? "The blob" };
  if (isRawImage(image)) {
    const { data, width, height } = image;
    return { kind: "pixels", image: { data: new Uint8ClampedArray(data), width, height } }; // the caller keeps the original
  }
  if (typeof createImageBitmap === "undefined") {
    throw new SlimViTError(
      "bad-input",
      "The image has none of the forms that work here; pass { data, width, height } RGBA pixels.",
    );
  }
  try {
    if (typeof HTMLImageElement !== "undefined" && image instanceof HTMLImageElement) {
      if (!image.complete) await image.decode();
      if (image.naturalWidth) checkSize("The image", image.naturalWidth, image.naturalHeight);
    }
    return { kind: "bitmap", bitmap: await createImageBitmap(image, { premultiplyAlpha: "none" }) };
  } catch (error) {
    if (error instanceof SlimViTError) throw error;
    throw new SlimViTError(
      "bad-input",
      "The image cannot be read: it has no pixels yet, or is none of the forms classify takes.",
      { cause: error },
    );
  }
}

function isRawImage(image: ImageInput): image is RawImage {
  const { data, width, height } = (image ?? {}) as RawImage;
  return (
    (data instanceof Uint8ClampedArray || data instanceof Uint8Array) &&
    typeof width === "number" &&
    typeof height === "number"
  );
}

/** Without another copy: `toWire` has made one. */
function handOver(wire: WireImage): WireImage {
  if (wire.kind === "bitmap") return transfer(wire, [wire.bitmap]);
  if (wire.kind === "pixels") return transfer(wire, [wire.image.data.buffer]);
  return wire;
}
