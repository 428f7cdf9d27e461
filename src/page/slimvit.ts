/** SlimViT on the page's thread: sends pictures to the worker that it shares, and gives back what it answers. */
import { asSlimViTError, SlimViTError, throwIfAborted } from "../errors.ts";
import type { Instance } from "../platform.ts";
import type {
  BatchResult,
  CallId,
  Classification,
  ClassifyAllOptions,
  ClassifyOptions,
  EmbedAllOptions,
  EmbedOptions,
  FrameSource,
  ImageInput,
  LoadOptions,
  LoadRequest,
  ModelInfo,
  ModelSource,
  RunRequest,
  RunResult,
  SaveOptions,
  StreamOptions,
  TaughtModel,
  TeachOptions,
  TeachPictures,
  TeachRequest,
  TeachResult,
  UseRequest,
  VariantRequest,
} from "../protocol.ts";
import { absoluteUrl, resolveSource } from "./addresses.ts";
import { advise } from "./advise.ts";
import { eachOf, MIN_IN_FLIGHT } from "./batch.ts";
import { checkOptions } from "./options.ts";
import { part } from "./parts.ts";
import { disposedError, PendingCalls } from "./pendingCalls.ts";
import { handOver, prepareTransfer } from "./pictures.ts";
import { type Shared, type SharedModel, share, type User } from "./sharedModel.ts";
import type { AnyHost } from "./startHost.ts";

/** A loaded model. Calls are answered in order; `dispose()` frees worker and memory. */
export class SlimViT {
  private readonly user: User;
  private readonly shared: SharedModel;
  private readonly calls = new PendingCalls();
  /** The variant that `use` asked for; undefined for the one that loading chose. */
  private variant: string | undefined;
  private model: TaughtModel | undefined;
  /** What others that share the model do not have. */
  private ownInfo: Partial<ModelInfo> | undefined;
  /** `info` with the own part, and the info that it was made from */
  private mergedInfo: { from: ModelInfo; info: ModelInfo } | undefined;

  private constructor(join: (user: User) => SharedModel, { onProgress, onVariant }: LoadOptions = {}) {
    this.user = { onProgress, onVariant, onLost: (error) => this.calls.rejectAll(error) };
    this.shared = join(this.user);
  }

  /** What was loaded and how it runs. Another object when that changes, as after a lost GPU or with another variant. */
  get info(): ModelInfo {
    const { info: chosen, infos } = this.shared;
    const info = infos.get(this.variant ?? chosen!.variant)!; // `load` resolves only when it is there
    if (!this.ownInfo) return info;
    if (this.mergedInfo?.from !== info) this.mergedInfo = { from: info, info: { ...info, ...this.ownInfo } };
    return this.mergedInfo.info;
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
    const shared: Shared = { request: await requestOf(source, options), store, engines, host, workerUrl };
    const vit = new SlimViT((user) => share(shared, user), options);
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
    yield* this.allOf(inputs, options, (one, rest) => this.classifyOne(one, rest));
  }

  /** A picture's features, [featureDim]: the pooled tokens after the final norm, in the space of zero-shot classes. */
  embed(image: ImageInput, options?: EmbedOptions): Promise<Float32Array>;
  embed(images: readonly ImageInput[], options?: EmbedOptions): Promise<Float32Array[]>;
  async embed(image: ImageInput | readonly ImageInput[], options: EmbedOptions = {}) {
    const refused = checkOptions("embed", options);
    if (refused) return refused;
    return eachOf(image, this.inFlight, (one) => this.embedOne(one, options));
  }

  /** `embed` for any number of pictures, as `classifyAll` classifies them. */
  async *embedAll<T extends ImageInput>(
    inputs: Iterable<T> | AsyncIterable<T>,
    options: EmbedAllOptions = {},
  ): AsyncGenerator<BatchResult<T, Float32Array>> {
    await checkOptions("embedAll", options);
    yield* this.allOf(inputs, options, (one, rest) => this.embedOne(one, rest));
  }

  /**
   * Teaches classes of the caller's own: the pictures are embedded, and a head is fitted to their embeddings in the worker.
   *
   * @param pictures by the name of a class, at least two of each; classes and pictures are added to what a taught model knows
   * @returns another model, which shares this one's worker and weights; of a taught model, the same one with more knowledge
   * @throws SlimViTError `bad-input` naming the class and the picture, or for fewer than two classes; `bad-option`;
   * `unsupported` for a model that was saved without its embeddings; as `embed`. What was known before stays.
   */
  async teach(pictures: TeachPictures, options: TeachOptions = {}): Promise<SlimViT> {
    await checkOptions("teach", options);
    if (this.shared.mayChange)
      throw new SlimViTError("unsupported", await advise(({ oneVariant }) => oneVariant(), "Load it with variant."));
    const { inOrder, teach } = await part(import("./teaching.ts"));
    const learn = () => teach(this.pupil(), pictures, options);
    if (this.info.taught) return this.become(() => inOrder(this, learn));
    const mine = new SlimViT((user) => this.shared.join(user));
    try {
      mine.ownInfo = this.ownInfo;
      return await mine.become(learn);
    } catch (error) {
      mine.dispose();
      throw error;
    }
  }

  /**
   * Takes classes of a taught model away, with their pictures.
   *
   * @throws SlimViTError `bad-option` for a class that is not there, `bad-input` where fewer than two would be left,
   * `unsupported` for a model that was not taught, or was saved without its embeddings
   */
  async forget(classes: string | readonly string[], options: TeachOptions = {}): Promise<SlimViT> {
    await checkOptions("forget", options);
    const { forget, inOrder } = await part(import("./teaching.ts"));
    return this.become(() => inOrder(this, () => forget(this.pupil(), [classes].flat(), options)));
  }

  /**
   * @returns the files of a taught model's folder, for `load`, a download or a server
   * @throws SlimViTError `unsupported` for a model that was not taught; `network` and `integrity` where its weights, which
   * are read once more, are no longer there
   */
  async save(options: SaveOptions = {}): Promise<Instance<"File">[]> {
    await checkOptions("save", options);
    return (await part(import("./teaching.ts"))).save(this.pupil(), options);
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
      if (this.model)
        throw new SlimViTError("unsupported", await advise(({ oneVariant }) => oneVariant(), "It was taught."));
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
    const { answersTo, pacedBy } = await part(import("./videoFrames.ts"));
    const { latencyMs, onVariant, ...rest } = options;
    const settle = <R>(work: () => Promise<R>) => this.calls.settle(options.signal, work);
    const classify = (picture: ImageInput, variant?: string) => this.classifyOne(picture, rest, variant);
    const infoOf = (variant: string) => this.shared.infos.get(variant) ?? this.info;
    const paced =
      latencyMs === undefined || this.model
        ? classify
        : pacedBy(latencyMs, () => this.info, classify, infoOf, onVariant);
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

  private async become(learn: () => Promise<TaughtModel>): Promise<SlimViT> {
    this.model = await learn();
    const { head, info, params, macs } = this.model;
    this.addInfo({ labels: head.labels, taught: info, params, macs });
    return this;
  }

  private addInfo(own: Partial<ModelInfo>): void {
    this.ownInfo = { ...this.ownInfo, ...own };
    this.mergedInfo = undefined;
  }

  private pupil() {
    const { info, model } = this;
    return {
      info,
      model,
      embedAll: (inputs: ImageInput[], options: EmbedAllOptions) => this.embedAll(inputs, options),
      ask: (request: TeachRequest, signal?: AbortSignal, onProgress?: (done: number) => void): Promise<TeachResult> =>
        this.calls.settle(signal, async (call, ended) => {
          const host = await this.hostFor(call, ended);
          return host.teach(call, request, onProgress && this.shared.pass(onProgress)) as Promise<TeachResult>;
        }),
    };
  }

  private async *allOf<T extends ImageInput, R>(
    inputs: Iterable<T> | AsyncIterable<T>,
    { concurrency = this.inFlight, onProgress, signal, ...rest }: ClassifyAllOptions,
    work: (one: T, options: ClassifyOptions) => Promise<R>,
  ): AsyncGenerator<BatchResult<T, R>> {
    const { batchOf } = await part(import("./batchOf.ts"));
    const settle = <S>(step: () => Promise<S>) => this.calls.settle(signal, step);
    yield* batchOf(inputs, { concurrency, onProgress, settle }, (one, left) => work(one, { ...rest, signal: left }));
  }

  private async embedOne(image: ImageInput, { region, signal }: EmbedOptions): Promise<Float32Array> {
    return (await this.run(image, { want: "features", region }, signal)).features;
  }

  private async classifyOne(
    image: ImageInput,
    { signal, ...options }: ClassifyOptions,
    wanted?: string,
  ): Promise<Classification> {
    const start = performance.now();
    const { head } = this.model ?? {};
    const result = await this.run(image, { ...plainCopy(options), want: "classes", head, variant: wanted }, signal);
    const { classes, unknown, variant, preprocessMs, inferenceMs, blockMs, attention, groups } = result;
    return {
      classes,
      latencyMs: { preprocess: preprocessMs, inference: inferenceMs, total: performance.now() - start },
      engine: this.shared.infos.get(variant)!.engine,
      variant,
      ...(unknown !== undefined && { unknown }),
      ...(blockMs && { blockMs }),
      ...(attention && { attention }),
      ...(groups && { groups }),
    };
  }

  /** @param ended fires when nobody waits for the call any more */
  private async hostFor(call: CallId, ended: AbortSignal): Promise<AnyHost> {
    const host = ended.aborted ? undefined : await this.shared.connect(this.user);
    if (!host || ended.aborted) throw disposedError();
    ended.addEventListener("abort", () => void host.abort(call));
    return host;
  }

  private run(image: ImageInput, request: RunRequest, signal?: AbortSignal): Promise<RunResult> {
    return this.calls.settle(signal, async (call, ended) => {
      const picture = await prepareTransfer(image, ended);
      try {
        const host = await this.hostFor(call, ended);
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
