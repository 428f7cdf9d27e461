/** SlimViT on the page's thread: sends pictures to the worker that it shares, and returns the worker's results. */
import { asSlimViTError, throwIfAborted } from "../errors.ts";
import type { Instance } from "../platform.ts";
import type {
  BatchResult,
  Classification,
  ClassifyAllOptions,
  ClassifyOptions,
  EmbedAllOptions,
  EmbedOptions,
  FrameSource,
  ImageInput,
  LoadOptions,
  ModelInfo,
  ModelSource,
  SaveOptions,
  StreamOptions,
  TeachOptions,
  TeachPictures,
  VariantRequest,
} from "../protocol.ts";
import { eachOf } from "./batch.ts";
import { type Client, openClient } from "./client.ts";
import { CLASSIFY, checkOptions, EMBED, LOAD } from "./options.ts";
import { part } from "./parts.ts";

/** A loaded model. Calls are answered in order; `dispose()` frees worker and memory. */
export class SlimViT {
  private constructor(private readonly client: Client) {}

  /**
   * What was loaded and how it runs. It is a new object after each change, for example of the engine or the variant.
   */
  get info(): ModelInfo {
    return this.client.info;
  }

  /**
   * Loads of one folder with the same options share a worker, which ends with the last `dispose()`.
   *
   * @param source folder URL (slimvit.json inside), "hf:owner/name", "npm:name@version", a model's npm package, or the
   * folder's files; in Node also a folder's path
   * @throws SlimViTError `network`, `bad-model`, `integrity`, `bad-option`, `unsupported`, `aborted`, `out-of-memory`,
   * `worker-lost`
   */
  static async load(source: ModelSource, options: LoadOptions = {}): Promise<SlimViT> {
    await checkOptions("load", options, LOAD);
    throwIfAborted(options.signal);
    try {
      return new SlimViT(await openClient(source, options));
    } catch (error) {
      throw asSlimViTError(error);
    }
  }

  /**
   * @param image any size; the original is left alone. Several pictures of an array are in flight at once.
   * @returns the `topK` best classes, best first. Scores over all classes sum to 1, except in multi-label models.
   * @throws SlimViTError `bad-input` for a value that is not a picture, `network` for one that cannot be fetched,
   * `bad-option`, `unsupported` for `profile` on the onnx engines and `webnn` and for an embedding model without
   * `classes`, `aborted`, `worker-lost`, `device-lost`, `out-of-memory`, `disposed` after `dispose()`
   */
  classify(image: ImageInput, options?: ClassifyOptions): Promise<Classification>;
  classify(images: readonly ImageInput[], options?: ClassifyOptions): Promise<Classification[]>;
  async classify(image: ImageInput | readonly ImageInput[], options: ClassifyOptions = {}) {
    const refused = checkOptions("classify", options, CLASSIFY);
    if (refused) return refused;
    return eachOf(image, this.client.inFlight, (one) => this.client.classify(one, options));
  }

  /**
   * Classifies any number of pictures and gives each one's result or error in turn. One bad file does not stop the others.
   * Leave the loop to stop.
   *
   * @param inputs a list, or any iterable or async iterable, which is read only as fast as pictures are classified
   * @throws SlimViTError `aborted`, `disposed`, `bad-option`, `bad-input` for inputs that are no list; what `inputs` throws
   */
  async *classifyAll<T extends ImageInput>(
    inputs: Iterable<T> | AsyncIterable<T>,
    options: ClassifyAllOptions = {},
  ): AsyncGenerator<BatchResult<T>> {
    const { classifyAll } = await part(import("./batchOf.ts"));
    yield* classifyAll(this.client, inputs, options);
  }

  /** A picture's features, [featureDim]: the pooled tokens after the final norm, in the space of zero-shot classes. */
  embed(image: ImageInput, options?: EmbedOptions): Promise<Float32Array>;
  embed(images: readonly ImageInput[], options?: EmbedOptions): Promise<Float32Array[]>;
  async embed(image: ImageInput | readonly ImageInput[], options: EmbedOptions = {}) {
    const refused = checkOptions("embed", options, EMBED);
    if (refused) return refused;
    return eachOf(image, this.client.inFlight, (one) => this.client.embed(one, options));
  }

  /** `embed` for any number of pictures, as `classifyAll` classifies them. */
  async *embedAll<T extends ImageInput>(
    inputs: Iterable<T> | AsyncIterable<T>,
    options: EmbedAllOptions = {},
  ): AsyncGenerator<BatchResult<T, Float32Array>> {
    const { embedAll } = await part(import("./batchOf.ts"));
    yield* embedAll(this.client, inputs, options);
  }

  /**
   * Teaches classes of the caller's own: the pictures are embedded, and a head is fitted to their embeddings in the worker.
   *
   * @param pictures by class name, at least two for each class; a taught model keeps its classes and pictures and gains these
   * @returns another model, which shares this one's worker and weights; for a taught model, the same model with more
   * classes and pictures
   * @throws SlimViTError `bad-input` naming the class and the picture, or for fewer than two classes; `bad-option`;
   * `unsupported` for a model that was saved without its embeddings; as `embed`. A failure leaves the model as it was.
   */
  async teach(pictures: TeachPictures, options: TeachOptions = {}): Promise<SlimViT> {
    const { teach } = await part(import("./teaching.ts"));
    const client = await teach(this.client, pictures, options);
    return client === this.client ? this : new SlimViT(client);
  }

  /**
   * Removes classes of a taught model, with their pictures.
   *
   * @throws SlimViTError `bad-option` for a class that the model does not have, `bad-input` where fewer than two would
   * be left, `unsupported` for a model that was not taught, or was saved without its embeddings
   */
  async forget(classes: string | readonly string[], options: TeachOptions = {}): Promise<SlimViT> {
    await (await part(import("./teaching.ts"))).forget(this.client, [classes].flat(), options);
    return this;
  }

  /**
   * @returns the files of a taught model's folder, for `load`, a download or a server
   * @throws SlimViTError `unsupported` for a model that was not taught; `network` and `integrity` where its weights, which
   * are read once more, are no longer there
   */
  async save(options: SaveOptions = {}): Promise<Instance<"File">[]> {
    return (await part(import("./teaching.ts"))).save(this.client, options);
  }

  /**
   * Answers with another of the folder's variants from the next call on. Variants that are `ready` in `info.variants` need
   * no download. Other objects that loaded the same folder keep their variants.
   *
   * @param variant its name, or a budget for which the best variant is found
   * @returns its `info`
   * @throws SlimViTError `bad-option` for an unknown name, and as `load`; the present variant then stays
   */
  use(variant: VariantRequest): Promise<ModelInfo> {
    return this.client.use(variant);
  }

  /**
   * Classifies pictures as they come. From a video it always takes the newest frame, so that answers never lag behind;
   * frames that cannot be read yet are skipped. From any other source every picture is classified. Leave the loop to
   * stop.
   *
   * @param source a video element, a stream of VideoFrames (closed here), or any async iterable of pictures. A camera whose
   *   track is stopped does not end the loop, so abort as well.
   * @throws SlimViTError as `classify`, and what the source throws
   */
  async *stream(source: FrameSource<ImageInput>, options: StreamOptions = {}): AsyncGenerator<Classification> {
    const { classifyFrames } = await part(import("./videoFrames.ts"));
    yield* classifyFrames(this.client, source, options);
  }

  /** Frees worker, weights and memory; calls in flight reject with `disposed`. Idempotent. */
  dispose(): void {
    this.client.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.dispose();
  }
}
