/// <reference lib="esnext.disposable" />
/** One transformer block after slimming. */
interface BlockShape {
    /** Channels kept in each surviving head, every one ≥ 1; empty when the block has lost all its heads. */
    headDims: number[];
    /** Units kept between fc1 and fc2; 0 when the block has lost its MLP. */
    mlpHidden: number;
    /** Tokens that enter the block: original indices, ascending, prefix tokens first; a subset of the block before. */
    keepIdx: number[];
}
interface Label {
    id: string;
    label: string;
}
type WeightsDtype = "f32" | "f16" | "int8";

type EngineName = "simd" | "onnx-wasm" | "onnx-webgpu" | "tfjs-webgpu" | "reference";

/** What went wrong, for programs. The message says it for people. */
type SlimViTErrorCode = "bad-model" | "bad-input" | "bad-option" | "unsupported" | "network" | "integrity" | "aborted" | "disposed" | "worker-lost" | "device-lost" | "out-of-memory";
/** The one error class of this package. `cause` holds the underlying error where there is one. */
declare class SlimViTError extends Error {
    readonly code: SlimViTErrorCode;
    readonly name = "SlimViTError";
    constructor(code: SlimViTErrorCode, message: string, options?: ErrorOptions);
    /** Of any copy of this class: the GPU engines' file has one of its own. */
    static [Symbol.hasInstance](value: unknown): value is SlimViTError;
}

interface Progress {
    /** file being read */
    file: string;
    loadedBytes: number;
    /** from slimvit.json, so it is known before the first byte */
    totalBytes: number;
    /** true when the bytes came from the cache */
    cached: boolean;
}
/** Where weights are kept between visits, by the lower-case hex of their sha256; what it returns is checked like a download. */
interface WeightsStore {
    get(sha256: string): Promise<Uint8Array | undefined>;
    put(sha256: string, bytes: Uint8Array): Promise<void>;
}

/** RGBA, row-major, straight alpha. Alpha is dropped, as Pillow's `convert("RGB")` does. */
interface RawImage {
    data: Uint8ClampedArray | Uint8Array;
    width: number;
    height: number;
}
/** In pixels of the image. */
interface Region {
    x: number;
    y: number;
    width: number;
    height: number;
}

/** An engine that "auto" tried and did not take. */
interface TriedEngine {
    engine: EngineName;
    /** why not */
    reason: string;
    /** median of a few runs, in milliseconds, where it came to be measured */
    ms?: number;
}

/** On which pictures, and by what. */
interface SetAccuracy {
    /** fraction of 1 */
    top1: number;
    /** pictures */
    n: number;
    data: string;
    split: string;
    engine: string;
    dtype: string;
}
interface SetMember {
    /** below the set's own folder: "deit-tiny-slim" */
    folder: string;
    macs: number;
    params: number;
    /** size of the weights file of each dtype that the folder has */
    bytes: Partial<Record<WeightsDtype, number>>;
    /** all members' on the same pictures */
    accuracy: SetAccuracy;
}

/** A playing video, a camera's frames (MediaStreamTrackProcessor), or any source of pictures. */
type FrameSource<T> = HTMLVideoElement | ReadableStream<T> | AsyncIterable<T>;

interface LoadOptions {
    /** default "auto": the fastest of `simd` and what is installed or named in `engineUrls`, measured on the first visit */
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
    /** where optional packages are served, by package name, when the bundler does not resolve them */
    engineUrls?: Record<string, string>;
    /** of a set: the most accurate member that takes at most so many milliseconds of inference here, measured; default the most accurate */
    latencyMs?: number;
}
interface ClassifyOptions$1 extends ClassifyOptions {
    signal?: AbortSignal;
}
type EmbedOptions = Pick<ClassifyOptions$1, "signal" | "region">;
interface Classification {
    /** best first */
    classes: ScoredClass[];
    /** `preprocess` and `inference` in the worker; `total` as the caller waited */
    latencyMs: {
        preprocess: number;
        inference: number;
        total: number;
    };
    engine: EngineName;
    /** with `profile`: milliseconds a block */
    blockMs?: number[];
    /** with `explain`: for each block, the class token's attention over its `keepIdx` */
    attention?: Float32Array[];
}
/** Anything the browser can draw, a URL, or RGBA pixels (the one form that also works in Node). */
type ImageInput = ImageBitmapSource | VideoFrame | string | URL | RawImage;
/** The folder's URL, "hf:owner/name", or its files; in Node also its path. */
type ModelSource = string | URL | Iterable<File>;
/** A loaded model. Calls are answered in order; `dispose()` frees worker and memory. */
declare class SlimViT {
    private disposed;
    private readonly user;
    private readonly shared;
    /** rejects a call that has not settled */
    private readonly pending;
    private constructor();
    /** What was loaded and how it runs. */
    get info(): ModelInfo;
    /**
     * Loads of one folder with the same options share a worker; it ends with the last `dispose()`.
     *
     * @param source folder URL (slimvit.json inside), "hf:owner/name", or the folder's files; in Node also a folder's path
     * @throws SlimViTError `network`, `bad-model`, `integrity`, `bad-option`, `unsupported`, `aborted`, `out-of-memory`,
     * `worker-lost`
     */
    static load(source: ModelSource, options?: LoadOptions): Promise<SlimViT>;
    /**
     * @param image any size; the original is left alone. Of an array, each is on its way while the one before is in work.
     * @returns the `topK` best classes, best first; scores over all classes sum to 1
     * @throws SlimViTError `bad-input` for what is no picture, `network` for one that cannot be fetched, `bad-option`,
     * `unsupported` for `profile` and `explain` on the onnx engines, `aborted`, `worker-lost`, `device-lost`,
     * `out-of-memory`, `disposed` after `dispose()`
     */
    classify(image: ImageInput, options?: ClassifyOptions$1): Promise<Classification>;
    classify(images: readonly ImageInput[], options?: ClassifyOptions$1): Promise<Classification[]>;
    /** The class token after the final norm, [embedDim]: a picture's features. */
    embed(image: ImageInput, options?: EmbedOptions): Promise<Float32Array>;
    embed(images: readonly ImageInput[], options?: EmbedOptions): Promise<Float32Array[]>;
    /**
     * Classifies a video while it plays: always the newest frame, so that answers never lag behind. Leave the loop to stop.
     *
     * @param source a video element, a stream of VideoFrames (closed here), or any async iterable of pictures; a camera whose track is stopped does not end, abort then
     * @throws SlimViTError as `classify`, and what the source throws
     */
    stream(source: FrameSource<ImageInput>, options?: ClassifyOptions$1): AsyncGenerator<Classification>;
    /** Frees worker, weights and memory; calls in flight reject with `disposed`. Idempotent. */
    dispose(): void;
    [Symbol.dispose](): void;
    [Symbol.asyncDispose](): Promise<void>;
    private run;
    /** Settles with the work, or as soon as the caller aborts, the model is disposed of or the worker is lost. */
    private settle;
    private rejectPending;
}

/** Which member of a set was taken, and why. */
interface SetChoice {
    /** of set.json */
    name: string;
    /** the member's folder in the set */
    member: string;
    /** fraction of the `n` pictures of `data` that it labels rightly, as set.json has it */
    accuracy: SetMember["accuracy"];
    /** the budget asked for, milliseconds of inference */
    latencyMs?: number;
    /** whether the member was measured to meet it; undefined without a budget */
    meets?: boolean;
    /** members that were measured, the cheapest first */
    measured: MeasuredMember[];
    /** why this one, in people's words */
    reason: string;
}
interface MeasuredMember {
    member: string;
    /** median inference of a few pictures; undefined where it did not run */
    ms?: number;
    /** now, or on an earlier visit, from which it was kept */
    when: "now" | "earlier";
    /** why it did not run */
    fault?: string;
}

/** One loaded model on one engine: image → pixels → logits → top classes. Lives in the worker; in Node, in the process. */

interface ModelInfo {
    name: string;
    license: string;
    embedDim: number;
    /** [height, width] */
    imageSize: [number, number];
    labels: Label[];
    params: number;
    /** multiply-accumulates of one picture */
    macs: number;
    dtype: WeightsDtype;
    /** those that the folder has */
    dtypes: WeightsDtype[];
    /** of the weights as downloaded */
    sizeBytes: number;
    engine: EngineName;
    threads: number;
    /** which kernels the simd engine runs: with WebAssembly's relaxed SIMD, or with what every browser has */
    simd?: "relaxed" | "plain";
    /** what the engine holds, weights and activations; undefined where it cannot be known */
    memoryBytes?: number;
    /** how long loading took, in milliseconds: files, from wherever they came; engine; its first run, which checks it */
    loadMs: {
        files: number;
        engine: number;
        firstRun: number;
    };
    blocks: BlockShape[];
    /** why this engine */
    engineReason: string;
    /** engines that `auto` tried and did not take: those that did not open, and those that were slower */
    tried: TriedEngine[];
    /** what could not be done here, in people's words */
    notes: string[];
    /** of a model out of a set: which member, and why */
    set?: SetChoice;
}
interface ClassifyOptions {
    /** how many classes to return; default 5 */
    topK?: number;
    /** leave out classes that score less */
    scoreThreshold?: number;
    /** only these labels or ids */
    allow?: string[];
    /** none of these labels or ids */
    deny?: string[];
    /** part of the picture, in its pixels as it is shown; taken as if the rest were not there */
    region?: Region;
    /** milliseconds a block */
    profile?: boolean;
    /** the class token's attention over the surviving patches, a block */
    explain?: boolean;
}
interface ScoredClass extends Label {
    /** position in the model's output */
    index: number;
    /** softmax over all classes */
    score: number;
}

export { SlimViT, SlimViTError };
export type { BlockShape, Classification, ClassifyOptions$1 as ClassifyOptions, EmbedOptions, EngineName, FrameSource, ImageInput, Label, LoadOptions, MeasuredMember, ModelInfo, ModelSource, Progress, RawImage, Region, ScoredClass, SetChoice, SlimViTErrorCode, WeightsDtype, WeightsStore };
