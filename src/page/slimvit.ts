/** SlimViT on the page's thread: sends pictures to the worker that it shares, and gives back what it answers. */
import { asSlimViTError, SlimViTError, throwIfAborted } from "../errors.ts";
import type {
  BatchResult,
  Classification,
  ClassifyAllOptions,
  ClassifyOptions,
  EmbedOptions,
  FrameSource,
  ImageInput,
  LoadOptions,
  LoadRequest,
  ModelInfo,
  ModelSource,
  RunRequest,
  RunResult,
  StreamOptions,
  UseRequest,
  VariantRequest,
} from "../protocol.ts";
import { absoluteUrl, resolveSource } from "./addresses.ts";
import { advise } from "./advise.ts";
import { eachOf, MIN_IN_FLIGHT } from "./batch.ts";
import { checkOptions } from "./options.ts";
import { disposedError, PendingCalls } from "./pendingCalls.ts";
import { handOver, prepareTransfer } from "./pictures.ts";
import { type Shared, type SharedModel, share, type User } from "./sharedModel.ts";

/** A loaded model. Calls are answered in order; `dispose()` frees worker and memory. */
export class SlimViT {
  private readonly user: User;
  private readonly shared: SharedModel;
  private readonly calls = new PendingCalls();

  /** The variant that `use` asked for; undefined for the one that loading chose. */
  private variant: string | undefined;

  private constructor(shared: Shared, { onProgress, onVariant }: LoadOptions) {
    this.user = { onProgress, onVariant, onLost: (error) => this.calls.rejectAll(error) };
    this.shared = share(shared, this.user);
  }

  /** What was loaded and how it runs. Another object when that changes, as after a lost GPU or with another variant. */
  get info(): ModelInfo {
    const { info, infos } = this.shared;
    return infos.get(this.variant ?? info!.variant)!; // `load` resolves only when it is there
  }

  /**
   * Loads of one folder with the same options share a worker; it ends with the last `dispose()`.
   *
   * @param source folder URL (slimvit.json inside), "hf:owner/name", or the folder's files; in Node also a folder's path
   * @throws SlimViTError `network`, `bad-model`, `integrity`, `bad-option`, `unsupported`, `aborted`, `out-of-memory`,
   * `worker-lost`
   */
  static async load(source: ModelSource, options: LoadOptions = {}): Promise<SlimViT> {
    await checkOptions("load", options);
    throwIfAborted(options.signal);
    try {
      return await SlimViT.loadChecked(source, options);
    } catch (error) {
      throw asSlimViTError(error);
    }
  }

  private static async loadChecked(source: ModelSource, options: LoadOptions): Promise<SlimViT> {
    const { cache = true, workerUrl, engines, host, signal } = options;
    const store = typeof cache === "object" ? cache : undefined;
    const vit = new SlimViT({ request: await requestOf(source, options), store, engines, host, workerUrl }, options);
    try {
      await vit.calls.settle(signal, () => vit.shared.connect(vit.user));
      return vit;
    } catch (error) {
      vit.dispose();
      throw error;
    }
  }

  /**
   * @param image any size; the original is left alone. Of an array, several are on their way at once.
   * @returns the `topK` best classes, best first; scores over all classes sum to 1, but for multi-label models
   * @throws SlimViTError `bad-input` for what is no picture, `network` for one that cannot be fetched, `bad-option`,
   * `unsupported` for `profile` and `explain` on the onnx engines and for an embedding model without `classes`, `aborted`,
   * `worker-lost`, `device-lost`, `out-of-memory`, `disposed` after `dispose()`
   */
  classify(image: ImageInput, options?: ClassifyOptions): Promise<Classification>;
  classify(images: readonly ImageInput[], options?: ClassifyOptions): Promise<Classification[]>;
  async classify(image: ImageInput | readonly ImageInput[], options: ClassifyOptions = {}) {
    const refused = checkOptions("classify", options);
    if (refused) return refused;
    return eachOf(image, this.inFlight, (one) => this.classifyOne(one, options));
  }

  /**
   * Classifies any number of pictures and gives each one's result or error in turn: none is dropped, and one bad file does
   * not cost the others. Leave the loop to stop.
   *
   * @param inputs a list, or any iterable or async iterable, which is read as fast as pictures are answered
   * @throws SlimViTError `aborted`, `disposed`, `bad-option`; what the source of inputs throws
   */
  async *classifyAll<T extends ImageInput>(
    inputs: Iterable<T> | AsyncIterable<T>,
    options: ClassifyAllOptions = {},
  ): AsyncGenerator<BatchResult<T>> {
    await checkOptions("classifyAll", options);
    const { concurrency = this.inFlight, onProgress, signal, ...rest } = options;
    const { batchOf } = await import("./batchOf.ts");
    const settle = <R>(work: () => Promise<R>) => this.calls.settle(signal, work);
    yield* batchOf(inputs, { concurrency, onProgress, settle }, (one, left) =>
      this.classifyOne(one, { ...rest, signal: left }),
    );
  }

  /** A picture's features, [featureDim]: the pooled tokens after the final norm, in the space of zero-shot classes. */
  embed(image: ImageInput, options?: EmbedOptions): Promise<Float32Array>;
  embed(images: readonly ImageInput[], options?: EmbedOptions): Promise<Float32Array[]>;
  async embed(image: ImageInput | readonly ImageInput[], options: EmbedOptions = {}) {
    const refused = checkOptions("embed", options);
    if (refused) return refused;
    const { region, signal } = options;
    return eachOf(image, this.inFlight, async (one) => {
      return (await this.run(one, { want: "features", region }, signal)).features;
    });
  }

  /**
   * Answers with another of the folder's variants from the next call on. Those that `info.variants` calls ready need no
   * download. Others that loaded the same model are not changed.
   *
   * @param variant its name, or the budget for which the best is found
   * @returns its `info`
   * @throws SlimViTError `bad-option` for a name that is none, and as `load`; the present variant goes on then
   */
  use(variant: VariantRequest): Promise<ModelInfo> {
    return this.calls.settle(undefined, async (call) => {
      const host = await this.shared.connect(this.user);
      const info = (await host.use(call, variantRequest(variant)).catch((error) => {
        throw asSlimViTError(error);
      })) as ModelInfo;
      this.shared.note(info);
      this.variant = info.variant;
      return info;
    });
  }

  /**
   * Classifies pictures as they come. Of a video it is always the newest frame, so that answers never lag behind; frames
   * that cannot be read yet are skipped. Of any other source every picture is classified. Leave the loop to stop.
   *
   * @param source a video element, a stream of VideoFrames (closed here), or any async iterable of pictures. A camera whose
   *   track is stopped does not end: abort then.
   * @throws SlimViTError as `classify`, and what the source throws
   */
  async *stream(source: FrameSource<ImageInput>, options: StreamOptions = {}): AsyncGenerator<Classification> {
    await checkOptions("stream", options);
    const { answersTo, pacedBy } = await import("./videoFrames.ts");
    const { latencyMs, onVariant, ...rest } = options;
    const settle = <R>(work: () => Promise<R>) => this.calls.settle(options.signal, work);
    const classify = (picture: ImageInput, variant?: string) => this.classifyOne(picture, rest, variant);
    const infoOf = (variant: string) => this.shared.infos.get(variant) ?? this.info;
    const paced = latencyMs === undefined ? classify : pacedBy(latencyMs, () => this.info, classify, infoOf, onVariant);
    yield* answersTo(source, settle, (picture) => paced(picture));
  }

  /** Frees worker, weights and memory; calls in flight reject with `disposed`. Idempotent. */
  dispose(): void {
    this.calls.close();
    this.shared.leave(this.user);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.dispose();
  }

  /** Pictures on their way at once: while an engine computes one batch, the next is sent. */
  private get inFlight(): number {
    return Math.max(MIN_IN_FLIGHT, 2 * (this.shared.info?.batchSize ?? 1));
  }

  private async classifyOne(
    image: ImageInput,
    { signal, ...options }: ClassifyOptions,
    wanted?: string,
  ): Promise<Classification> {
    const start = performance.now();
    const result = await this.run(image, { ...plainCopy(options), want: "classes", variant: wanted }, signal);
    const { classes, variant, preprocessMs, inferenceMs, blockMs, attention, groups } = result;
    return {
      classes,
      latencyMs: { preprocess: preprocessMs, inference: inferenceMs, total: performance.now() - start },
      engine: this.shared.infos.get(variant)!.engine,
      variant,
      ...(blockMs && { blockMs }),
      ...(attention && { attention }),
      ...(groups && { groups }),
    };
  }

  private run(image: ImageInput, request: RunRequest, signal?: AbortSignal): Promise<RunResult> {
    return this.calls.settle(signal, async (call, ended) => {
      const picture = await prepareTransfer(image, ended);
      try {
        const host = ended.aborted ? undefined : await this.shared.connect(this.user);
        if (!host || ended.aborted) throw disposedError(); // nobody waits for it any more
        ended.addEventListener("abort", () => void host.abort(call));
        const named = { ...request, variant: request.variant ?? this.variant };
        const result = (await host.run(call, handOver(picture), named)) as RunResult;
        if (result.info) this.shared.note(result.info);
        return result;
      } catch (error) {
        if (picture.kind !== "bitmap" || (error as Error)?.name !== "DataCloneError") throw asSlimViTError(error);
        const fault = await advise(({ unreadable }) => unreadable(), "The image's pixels may not be read.");
        throw new SlimViTError("bad-input", fault, { cause: error });
      } finally {
        if (picture.kind === "bitmap") picture.bitmap.close(); // without effect on one that was handed over
      }
    });
  }
}

async function requestOf(source: ModelSource, options: LoadOptions): Promise<LoadRequest> {
  const {
    engine = "auto",
    dtype = "auto",
    threads = "auto",
    cache = true,
    variant,
    latencyMs,
    engineUrls,
    engines,
    webnn,
  } = options;
  const urls = engineUrls && Object.entries(engineUrls).map(([name, url]) => [name, absoluteUrl(url, "bad-option")]);
  return {
    source: await resolveSource(source, options.npmUrl),
    engine,
    dtype,
    threads,
    cache: cache === true,
    ...(variant !== undefined && { variant }),
    ...(latencyMs !== undefined && { latencyMs: checkLatency(latencyMs) }),
    ...(engines && { packages: engines.flatMap(({ packages }) => Object.keys(packages)) }),
    ...(urls && { engineUrls: Object.fromEntries(urls) }),
    ...(webnn && { webnn: { ...webnn } }),
  };
}

function variantRequest(wanted: VariantRequest): UseRequest {
  return typeof wanted === "string" ? { variant: wanted } : { latencyMs: checkLatency(wanted?.latencyMs) };
}

function checkLatency(latencyMs: number): number {
  if (typeof latencyMs === "number" && latencyMs > 0) return latencyMs;
  throw new SlimViTError("bad-option", `latencyMs is ${String(latencyMs)}; expected milliseconds above 0.`);
}

/** Proxies, which the frameworks make of lists and objects, do not cross to a worker. */
function plainCopy(options: Omit<ClassifyOptions, "signal">): Omit<ClassifyOptions, "signal"> {
  const { allow, deny, region, classes } = options;
  const list = (names?: readonly string[]) => (Array.isArray(names) ? [...names] : names);
  const vectors = classes && Object.entries(classes).map(([name, vector]) => [name, Float32Array.from(vector ?? [])]);
  return {
    ...options,
    allow: list(allow),
    deny: list(deny),
    region: region && { ...region },
    classes: vectors && Object.fromEntries(vectors),
  };
}
