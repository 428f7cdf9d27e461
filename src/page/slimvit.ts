/** SlimViT on the page's thread: starts the worker, sends it pictures, and makes sure that every promise settles. */
import { transfer } from "comlink";
import type { EngineName } from "../engines/engine.ts";
import { SlimViTError, type SlimViTErrorCode, throwIfAborted } from "../errors.ts";
import type { WeightsDtype } from "../format/model.ts";
import type { WireImage } from "../image/decode.ts";
import { checkSize } from "../image/imageSize.ts";
import type { RawImage } from "../image/preprocess.ts";
import type { Progress, Source, WeightsStore } from "../loading/loadModel.ts";
import type { CallId } from "../worker/host.ts";
import type { ModelInfo, ScoredClass, ClassifyOptions as SessionOptions, SessionResult } from "../worker/session.ts";
import type { EnginePackage } from "./packages/address.ts";
import { type SharedModel, type SharedRequest, share, type User } from "./sharedModel.ts";
import { type FrameSource, newestFrames } from "./videoFrames.ts";

export interface LoadOptions {
  /** default "auto": the fastest of `simd` and what `engines` and `engineUrls` bring, measured on the first visit */
  engine?: EngineName | "auto";
  /** default "auto": f16 where the folder has it; with engine "simd", int8 */
  dtype?: WeightsDtype | "auto";
  /** default "auto"; more than one needs a cross-origin isolated page */
  threads?: number | "auto";
  /** keep weights between visits, keyed by their sha256; default true. Or a store of one's own. */
  cache?: boolean | WeightsStore;
  onProgress?: (progress: Progress) => void;
  signal?: AbortSignal;
  /** where worker.js is served, when the bundler does not find it */
  workerUrl?: string | URL;
  /** packages of optional engines, which the app has installed: exports of slimvit/engines/onnx and its neighbours */
  engines?: readonly EnginePackage[];
  /** where optional packages are served, by package name, when there is no bundler to resolve them */
  engineUrls?: Record<string, string>;
  /** of a set: the most accurate member that takes at most so many milliseconds of inference here, measured; default the most accurate */
  latencyMs?: number;
}

export interface ClassifyOptions extends SessionOptions {
  signal?: AbortSignal;
}

export type EmbedOptions = Pick<ClassifyOptions, "signal" | "region">;

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

let nextCall: CallId = 1;

/** A set of models, by its name. */
const SET = /set\.json($|[?#])/;

/** A loaded model. Calls are answered in order; `dispose()` frees worker and memory. */
export class SlimViT {
  private disposed = false;
  private readonly user: User;
  private readonly shared: SharedModel;
  /** rejects a call that has not settled */
  private readonly pending = new Set<(error: SlimViTError) => void>();

  private constructor(request: SharedRequest, onProgress: LoadOptions["onProgress"]) {
    this.user = { onProgress, onLost: (error) => this.rejectPending(error) };
    this.shared = share(request, this.user);
  }

  /** What was loaded and how it runs. */
  get info(): ModelInfo {
    return this.shared.info!; // `load` resolves only when it is there
  }

  /**
   * Loads of one folder with the same options share a worker; it ends with the last `dispose()`.
   *
   * @param source folder URL (slimvit.json inside), "hf:owner/name", or the folder's files; in Node also a folder's path
   * @throws SlimViTError `network`, `bad-model`, `integrity`, `bad-option`, `unsupported`, `aborted`, `out-of-memory`,
   * `worker-lost`
   */
  static async load(source: ModelSource, options: LoadOptions = {}): Promise<SlimViT> {
    throwIfAborted(options.signal);
    if (options.latencyMs !== undefined || SET.test(String(source)))
      return (await import("./set.ts")).loadFromSet({ load: SlimViT.load, baseUrl }, source, options);
    const {
      engine = "auto",
      dtype = "auto",
      threads = "auto",
      cache = true,
      workerUrl,
      engineUrls,
      engines = [],
    } = options;
    const urls = engineUrls && Object.entries(engineUrls).map(([name, url]) => [name, absolute(url, "bad-option")]);
    const model = {
      source: await resolveSource(source),
      engine,
      dtype,
      threads,
      engineUrls: urls && Object.fromEntries(urls),
    };
    const vit = new SlimViT({ ...model, cache, engines: [...engines], workerUrl }, options.onProgress);
    try {
      await vit.settle(options.signal, () => vit.shared.connect(vit.user));
      return vit;
    } catch (error) {
      vit.dispose();
      throw error;
    }
  }

  /**
   * @param image any size; the original is left alone. Of an array, each is on its way while the one before is in work.
   * @returns the `topK` best classes, best first; scores over all classes sum to 1
   * @throws SlimViTError `bad-input` for what is no picture, `network` for one that cannot be fetched, `bad-option`,
   * `unsupported` for `profile` and `explain` on the onnx engines, `aborted`, `worker-lost`, `device-lost`,
   * `out-of-memory`, `disposed` after `dispose()`
   */
  classify(image: ImageInput, options?: ClassifyOptions): Promise<Classification>;
  classify(images: readonly ImageInput[], options?: ClassifyOptions): Promise<Classification[]>;
  async classify(image: ImageInput | readonly ImageInput[], { signal, ...options }: ClassifyOptions = {}) {
    return eachOf(image, async (one) => {
      const start = performance.now();
      const { classes, blockMs, attention, preprocessMs, inferenceMs } = await this.run(one, options, signal);
      return {
        classes,
        latencyMs: { preprocess: preprocessMs, inference: inferenceMs, total: performance.now() - start },
        engine: this.info.engine,
        ...(blockMs && { blockMs }),
        ...(attention && { attention }),
      };
    });
  }

  /** The class token after the final norm, [embedDim]: a picture's features. */
  embed(image: ImageInput, options?: EmbedOptions): Promise<Float32Array>;
  embed(images: readonly ImageInput[], options?: EmbedOptions): Promise<Float32Array[]>;
  async embed(image: ImageInput | readonly ImageInput[], { signal, region }: EmbedOptions = {}) {
    return eachOf(image, async (one) => (await this.run(one, { topK: 1, region }, signal)).features);
  }

  /**
   * Classifies a video while it plays: always the newest frame, so that answers never lag behind. Leave the loop to stop.
   *
   * @param source a video element, a stream of VideoFrames (closed here), or any async iterable of pictures; a camera whose track is stopped does not end, abort then
   * @throws SlimViTError as `classify`, and what the source throws
   */
  async *stream(source: FrameSource<ImageInput>, options: ClassifyOptions = {}): AsyncGenerator<Classification> {
    const left = new AbortController();
    const frames = newestFrames(source, left.signal);
    try {
      for (;;) {
        const { done, value } = await this.settle(options.signal, () => frames.next());
        if (done) return;
        yield await this.classify(value, options);
      }
    } finally {
      left.abort(); // it may be waiting for a frame that never comes
      await frames.return(undefined);
    }
  }

  /** Frees worker, weights and memory; calls in flight reject with `disposed`. Idempotent. */
  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    this.rejectPending(disposedError());
    this.shared.leave(this.user);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.dispose();
  }

  private run(image: ImageInput, options: SessionOptions, signal?: AbortSignal): Promise<SessionResult> {
    return this.settle(signal, async (call, ended) => {
      const wire = await toWire(image);
      try {
        const host = ended.aborted ? undefined : await this.shared.connect(this.user);
        if (!host || ended.aborted) throw disposedError(); // heard by no one
        ended.addEventListener("abort", () => void host.abort(call));
        const result = (await host.run(call, handOver(wire), plain(options))) as SessionResult;
        if (result.info) this.shared.info = result.info;
        return result;
      } catch (error) {
        if (wire.kind !== "bitmap" || (error as Error)?.name !== "DataCloneError") throw error;
        throw new SlimViTError(
          "bad-input",
          "The image is from another origin that does not allow its pixels to be read. Serve it with CORS headers and set crossorigin on the element.",
          { cause: error },
        );
      } finally {
        if (wire.kind === "bitmap") wire.bitmap.close(); // without effect on one that was handed over
      }
    });
  }

  /** Settles with the work, or as soon as the caller aborts, the model is disposed of or the worker is lost. */
  private settle<T>(
    signal: AbortSignal | undefined,
    work: (call: CallId, ended: AbortSignal) => Promise<T>,
  ): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.disposed) throw disposedError();
      throwIfAborted(signal);
      const ended = new AbortController();
      const finish = () => {
        this.pending.delete(fail);
        signal?.removeEventListener("abort", abort);
      };
      const fail = (error: unknown) => {
        finish();
        ended.abort();
        reject(error);
      };
      const abort = () => {
        fail(new SlimViTError("aborted", "The caller aborted the operation.", { cause: signal?.reason }));
      };
      this.pending.add(fail);
      signal?.addEventListener("abort", abort);
      work(nextCall++, ended.signal).then((value) => {
        finish();
        resolve(value);
      }, fail);
    });
  }

  private rejectPending(error: SlimViTError): void {
    for (const reject of [...this.pending]) reject(error);
  }
}

/** Two at a time: one in work, one on its way. */
async function eachOf<R>(
  image: ImageInput | readonly ImageInput[],
  work: (one: ImageInput) => Promise<R>,
): Promise<R | R[]> {
  if (!Array.isArray(image)) return work(image as ImageInput);
  const results: R[] = [];
  const start = (i: number) => {
    const result = work(image[i]);
    result.catch(() => {}); // heard when its turn comes
    return result;
  };
  let next = image.length ? start(0) : undefined;
  for (let i = 0; next; i++) {
    const current: Promise<R> = next;
    next = i + 1 < image.length ? start(i + 1) : undefined;
    try {
      results.push(await current);
    } catch (error) {
      if (!(error instanceof SlimViTError)) throw error;
      const message = `Picture ${i + 1} of ${image.length}: ${error.message}`;
      throw new SlimViTError(error.code, message, { cause: error });
    }
  }
  return results;
}

function disposedError(): SlimViTError {
  return new SlimViTError("disposed", "The model was disposed of; load it again.");
}

async function resolveSource(source: ModelSource): Promise<Source> {
  if (typeof source === "object" && source && Symbol.iterator in source) {
    return { files: Array.from(source, (file) => ({ name: file.name, blob: file })) };
  }
  const text = String(source);
  if (typeof source !== "string" && !(source instanceof URL)) {
    throw new SlimViTError(
      "bad-option",
      `The model's source is ${text}; expected its folder's URL, "hf:owner/name" or a list of its files.`,
    );
  }
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

/** @throws SlimViTError `code` for what is no address; Node has no page to ask */
function absolute(url: string | URL, code: SlimViTErrorCode): string {
  if (typeof location === "undefined") return String(url);
  try {
    return new URL(url, pageUrl()).href;
  } catch (error) {
    throw new SlimViTError(code, `"${url}" is no address.`, { cause: error });
  }
}

/** Proxies, which the frameworks make of lists and objects, do not cross to a worker. */
function plain({ allow, deny, region, ...rest }: SessionOptions): SessionOptions {
  const list = (names?: string[]) => (Array.isArray(names) ? [...names] : names);
  return { ...rest, allow: list(allow), deny: list(deny), region: region && { ...region } };
}

/** @throws SlimViTError `bad-input` */
async function toWire(image: ImageInput): Promise<WireImage> {
  if (typeof image === "string" || image instanceof URL) return { kind: "url", url: absolute(image, "bad-input") };
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
