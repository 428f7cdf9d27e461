/// <reference lib="esnext.disposable" />
/** What went wrong. The code is for programs, and the message is for people. */
type SlimViTErrorCode = "bad-model" | "bad-input" | "bad-option" | "unsupported" | "network" | "integrity" | "aborted" | "disposed" | "worker-lost" | "device-lost" | "out-of-memory";
/** The one error class of this package. `cause` holds the underlying error where there is one. */
declare class SlimViTError extends Error {
    readonly code: SlimViTErrorCode;
    readonly name = "SlimViTError";
    constructor(code: SlimViTErrorCode, message: string, options?: ErrorOptions);
    /** True for errors of every copy of this class: each chunk beside worker.js has one of its own. */
    static [Symbol.hasInstance](value: unknown): value is SlimViTError;
}

/**
 * The architectures of the network family: the fields that define a slim vision transformer's arithmetic, and the sizes
 * that follow from them. The arithmetic itself is in src/reference/forward.ts.
 */
/** One transformer block after slimming. */
interface BlockShape {
    /** Channels kept in each surviving head, every one ≥ 1; empty when the block has lost all its heads. Even with RoPE. */
    headDims: number[];
    /** Units kept between fc1 and fc2; 0 when the block has lost its MLP. */
    mlpHidden: number;
    /**
     * Tokens that are represented in the block: original indices, ascending, prefix tokens first; a subset of the block
     * before. After a merge several of them share one row: only `tokenCounts` says how many rows there are.
     */
    keepIdx: number[];
    /** Pairs of patches that become one between attention and MLP; 0 in a block that merges none. */
    merge: number;
}
type Pooling = "class" | "mean" | "class+mean" | "map";
/** A picture whose features have a lower cosine than `threshold` with every row of head.means shows none of the classes. */
interface UnknownRule {
    threshold: number;
    /** The share of pictures of its own classes that a rule made without them called unknown … */
    falseRejection: number;
    /** … and how many pictures that was measured on. */
    n: number;
}

/**
 * The shared types: what a slim vision transformer is, which tensors it has, and what it costs. The files are read in
 * read.ts and written in write.ts.
 */

interface Label {
    id: string;
    label: string;
}
type WeightsDtype = "f32" | "f16" | "int8";

/**
 * Browser types that the package's public types use. A project's compiler may not know them, as in Node, or know only
 * some, as in a worker. An unknown name is `never` there instead of an error in the package's types.
 */
type Instance<Name extends string> = typeof globalThis extends {
    [K in Name]: {
        prototype: infer T;
    };
} ? T : never;
/** What createImageBitmap takes. */
type Drawable = Instance<"HTMLImageElement"> | Instance<"SVGImageElement"> | Instance<"HTMLVideoElement"> | Instance<"HTMLCanvasElement"> | Instance<"ImageBitmap"> | Instance<"OffscreenCanvas"> | Instance<"VideoFrame"> | Instance<"Blob"> | Instance<"ImageData">;

/** What is known of a folder's variants on a device, and how one was chosen. */
/** A variant as `info` lists it. */
interface VariantInfo {
    name: string;
    macs: number;
    /** [height, width] */
    imageSize: [number, number];
    /** measured figures, each with the data and n it was measured on */
    metrics: Record<string, unknown>;
    /** whether it runs without a download */
    ready: boolean;
}
/** How a variant was chosen. */
interface VariantChoice {
    /** the budget: milliseconds of inference */
    latencyMs: number;
    /** whether the variant's measured time is within the budget */
    meets: boolean;
    /** for people */
    reason: string;
    /** Median milliseconds of the variants that were timed here, or the fault for which one is not used. */
    measured: {
        variant: string;
        ms?: number;
        fault?: string;
    }[];
}
/** A variant by its name, or the best within a budget. */
type VariantRequest = string | {
    latencyMs: number;
};

/** The forms of a picture that a caller may pass. Part of protocol.ts, which exports them. */

/**
 * Anything the browser can draw, a URL, a Response, a picture file's bytes, or RGBA pixels (the one form that also works
 * in Node).
 */
type ImageInput = Drawable | string | Instance<"URL"> | Instance<"Response"> | ArrayBuffer | Uint8Array<ArrayBuffer> | RawImage;
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
/** A playing video, a camera's frames (MediaStreamTrackProcessor), or any source of pictures. */
type FrameSource<T> = Instance<"HTMLVideoElement"> | Instance<"ReadableStream"> | AsyncIterable<T>;

/** What passes between page and worker for `teach`. Part of protocol.ts, which exports it. */

/** The pictures of each class, by the class's name. */
type TeachPictures = Readonly<Record<string, Iterable<ImageInput>>>;
interface TeachOptions {
    /**
     * The share of pictures of its own classes that the model may call unknown; default 0.05, or the model's present
     * share.
     */
    falseRejection?: number;
    onProgress?: (progress: TeachProgress) => void;
    signal?: Instance<"AbortSignal">;
}
interface TeachProgress {
    /** First all pictures are embedded, then the classes are fitted. */
    step: "embed" | "fit";
    /** pictures when embedding; the fraction from 0 to 1 when fitting */
    done: number;
    /** all pictures when embedding; 1 when fitting */
    total: number;
}
interface SaveOptions {
    /** The saved model's name; default the loaded model's name with "-taught". */
    name?: string;
    /** Saves the pictures' embeddings, so that the model can be taught more when it is loaded again; default true. */
    embeddings?: boolean;
}
/** What a model was taught with, and its measured accuracy. */
interface TaughtInfo {
    /** pictures of each class, in the order of `labels` */
    pictures: number[];
    /** Cross-validated: the share of the pictures that a fit without them classifies correctly. */
    accuracy: number;
    /** number of pictures behind `accuracy` */
    n: number;
    /** The number of parts that the pictures were split into. Each part is classified by a fit to the others. */
    folds: number;
    /** The inverse strength of the chosen penalty, for embeddings at a mean square of 1. */
    c: number;
    /** When `classify` calls a picture unknown. */
    unknown: UnknownRule;
    /** The `falseRejection` that was asked for. */
    accepted: number;
}

/**
 * Everything that passes between the page and its worker: options, calls and results. How errors travel is in
 * errorTransfer.ts.
 */

type EngineName = "simd" | "webgpu" | "onnx-wasm" | "onnx-webgpu" | "tfjs-webgpu" | "webnn" | "reference";
/** Which device the engine `webnn` asks the browser for. */
interface WebnnOptions {
    deviceType?: "cpu" | "gpu" | "npu";
    powerPreference?: "default" | "high-performance" | "low-power";
}
/** The folder's URL, "hf:owner/name", "npm:name@version", a model's npm package, or the folder's files; in Node also its path. */
type ModelSource = string | Instance<"URL"> | ModelPackage | Iterable<Instance<"File">>;
/** The default export of a model's npm package: where the app's bundler serves each file of the folder. */
interface ModelPackage {
    name: string;
    files: Readonly<Record<string, string>>;
}
interface LoadOptions {
    /**
     * Default "auto": the fastest of `simd`, `webgpu`, `webnn` and the engines of `engines` and `engineUrls`, measured on the first
     * visit.
     */
    engine?: EngineName | "auto";
    /**
     * Default "auto": the fastest dtype that passes its self-test here and whose measured accuracy is within 0.5 points of the
     * best in the folder. `info.dtypeReason` names the reason.
     */
    dtype?: WeightsDtype | "auto";
    /** The name of one of `info.variants`: only this one is loaded. By default `latencyMs` chooses. */
    variant?: string;
    /** Default "auto": 1 to 4, by the number of cores. More than one needs a cross-origin isolated page. */
    threads?: number | "auto";
    /** Whether weights are stored between visits, under their sha256; default true. Or a store of the app. */
    cache?: boolean | WeightsStore;
    onProgress?: (progress: Progress) => void;
    signal?: Instance<"AbortSignal">;
    /** Where "npm:name@version" is served; default "https://cdn.jsdelivr.net/npm/". */
    npmUrl?: string;
    /** The address of worker.js, when the bundler does not find it; may be a TrustedScriptURL. */
    workerUrl?: string | object;
    /** Packages of optional engines, which the app has installed: the exports of slimvit/engines/onnx and its neighbours. */
    engines?: readonly EnginePackage[];
    /** Addresses of optional packages, by package name, where no bundler resolves them. */
    engineUrls?: Record<string, string>;
    /**
     * `createHost` of slimvit/worker.js: runs the model in this thread. For service workers and backgrounds of extensions, which
     * cannot start a worker.
     */
    host?: () => ModelHost;
    webnn?: WebnnOptions;
    /**
     * For a folder with several variants: use the most accurate one whose inference, measured here, takes at most this
     * many milliseconds; default 50. The smallest variant answers until the chosen one is loaded. `variant` takes precedence.
     */
    latencyMs?: number;
    /** Called when another variant becomes the one that answers. */
    onVariant?: (info: ModelInfo) => void;
}
/** An optional engine's packages, as the app's bundler serves them: what slimvit/engines/* exports. */
interface EnginePackage {
    /** For each package, a function that gives the address of a script with that package. */
    readonly packages: Readonly<Record<string, () => Promise<string>>>;
}
/** A model in the thread that made it. Only `load` knows what to do with it. */
interface ModelHost {
    dispose(): void;
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
/** Stores weights between visits, under the lower-case hex of their sha256. What `get` returns is checked like a download. */
interface WeightsStore {
    get(sha256: string): Promise<Uint8Array | undefined>;
    put(sha256: string, bytes: Uint8Array): Promise<void>;
}
/** What was loaded and how it runs. */
interface ModelInfo {
    name: string;
    license: string;
    embedDim: number;
    /** [height, width] */
    imageSize: [number, number];
    /** Empty for an embedding model. */
    labels: Label[];
    params: number;
    /** multiply-accumulates of one picture */
    macs: number;
    dtype: WeightsDtype;
    /** why this dtype */
    dtypeReason: string;
    /** dtypes of the folder's weights */
    dtypes: WeightsDtype[];
    /** size of the weights as downloaded */
    sizeBytes: number;
    engine: EngineName;
    threads: number;
    /** Pictures that the engine computes together; 1 where that would not be faster than one after the other. */
    batchSize: number;
    /** Which kernels the simd engine runs: those with WebAssembly's relaxed SIMD, or those with plain SIMD. */
    simd?: "relaxed" | "plain";
    /** Which device the webnn engine asked for; undefined where the browser chose. */
    deviceType?: WebnnOptions["deviceType"];
    /** Memory for weights and activations; undefined where the engine cannot tell. */
    memoryBytes?: number;
    /** Milliseconds that loading took: the files, from wherever they came; the engine; its first run, which checks it. */
    loadMs: {
        files: number;
        engine: number;
        firstRun: number;
    };
    blocks: BlockShape[];
    /** Which tokens the features come from. */
    pooling: Pooling;
    /** The networks that this folder's weights make. */
    variants: VariantInfo[];
    /** name of the variant that answers */
    variant: string;
    /** How a latency budget chose the variant. Absent until it has chosen. */
    choice?: VariantChoice;
    /** why this engine */
    engineReason: string;
    /** Engines that `auto` tried and did not take: those that did not open, and those that were slower. */
    tried: TriedEngine[];
    /** for people: what this device or browser could not do */
    notes: string[];
    /** Present for a taught model. */
    taught?: TaughtInfo;
}

/** An engine that `auto` tried and did not take. */
interface TriedEngine {
    engine: EngineName;
    /** for `webnn`: the device that it asked for */
    deviceType?: WebnnOptions["deviceType"];
    /** why `auto` did not take it */
    reason: string;
    /** Median milliseconds of a few runs, if it was measured. */
    ms?: number;
}
interface ClassifyOptions {
    /** How many classes to return; default 5. */
    topK?: number;
    /** Leaves out classes that score less. */
    scoreThreshold?: number;
    /** only these labels or ids */
    allow?: readonly string[];
    /** none of these labels or ids */
    deny?: readonly string[];
    /** The part of the picture to look at, in pixels of the picture as it is shown. The rest is ignored. */
    region?: Region;
    /**
     * Zero-shot: classes of the caller's own by name, each a vector in the space of `embed`, such as CLIP's embedding of a
     * text. They take the place of the model's labels.
     */
    classes?: Readonly<Record<string, Float32Array | readonly number[]>>;
    /**
     * With `classes`: cosines are divided by this temperature. The default is the temperature of the training, where the
     * checkpoint states it, else CLIP's 0.01. SigLIP models then add their bias, and each class has its own probability.
     */
    temperature?: number;
    /** milliseconds of each block */
    profile?: boolean;
    /** the class token's attention over the surviving patches in each block */
    explain?: boolean;
    signal?: Instance<"AbortSignal">;
}
type EmbedOptions = Pick<ClassifyOptions, "signal" | "region">;
interface StreamOptions extends ClassifyOptions {
    /**
     * For a folder with several variants: milliseconds that a frame may take, from its call to its answer. A smaller variant
     * answers while this device is too slow for the present one, and a larger one when there is time for it again.
     */
    latencyMs?: number;
    /** Called when another variant answers from the next frame on. */
    onVariant?: (info: ModelInfo) => void;
}
interface ClassifyAllOptions extends ClassifyOptions {
    /** Pictures in flight at once; default is the number that the engine takes at once, at least 2. */
    concurrency?: number;
    onProgress?: (progress: BatchProgress) => void;
}
interface EmbedAllOptions extends EmbedOptions, Pick<ClassifyAllOptions, "concurrency" | "onProgress"> {
}
interface BatchProgress {
    /** pictures answered so far, failed ones included */
    done: number;
    failed: number;
    /** undefined for inputs without a length */
    total?: number;
}
/** One input of `classifyAll` or `embedAll`: its result or its error. */
type BatchResult<T, R = Classification> = {
    index: number;
    input: T;
} & ({
    result: R;
    error?: undefined;
} | {
    result?: undefined;
    error: SlimViTError;
});
interface ScoredClass extends Label {
    /** position in the model's output, or among `classes` */
    index: number;
    /** Softmax over all classes. In a multi-label model, the class's own probability. */
    score: number;
}
/** The answers to `profile` and `explain`. */
interface Insight {
    /** milliseconds of each block */
    blockMs?: number[];
    /** For each block, the class token's attention over its `keepIdx`. Merged patches share their row's attention equally. */
    attention?: Float32Array[];
    /**
     * For a model that merges tokens, for each block and patch of the grid: the token after the block that stands for the
     * patch, −1 where it was dropped.
     */
    groups?: Int32Array[];
}
interface Classification extends Insight {
    /** best first */
    classes: ScoredClass[];
    /** `preprocess` and `inference` are times in the worker. `total` is the time from the call to the answer. */
    latencyMs: {
        preprocess: number;
        inference: number;
        total: number;
    };
    engine: EngineName;
    /** name of the variant that answered */
    variant: string;
    /** For a taught model: whether the picture shows none of its classes, judged by the features. */
    unknown?: boolean;
}

/** A loaded model. Calls are answered in order; `dispose()` frees worker and memory. */
declare class SlimViT {
    private readonly client;
    private constructor();
    /**
     * What was loaded and how it runs. It is a new object after each change, for example of the engine or the variant.
     */
    get info(): ModelInfo;
    /**
     * Loads of one folder with the same options share a worker, which ends with the last `dispose()`.
     *
     * @param source folder URL (slimvit.json inside), "hf:owner/name", "npm:name@version", a model's npm package, or the
     * folder's files; in Node also a folder's path
     * @throws SlimViTError `network`, `bad-model`, `integrity`, `bad-option`, `unsupported`, `aborted`, `out-of-memory`,
     * `worker-lost`
     */
    static load(source: ModelSource, options?: LoadOptions): Promise<SlimViT>;
    /**
     * @param image any size; the original is left alone. Several pictures of an array are in flight at once.
     * @returns the `topK` best classes, best first. Scores over all classes sum to 1, except in multi-label models.
     * @throws SlimViTError `bad-input` for a value that is not a picture, `network` for one that cannot be fetched,
     * `bad-option`, `unsupported` for `profile` on the onnx engines and `webnn` and for an embedding model without
     * `classes`, `aborted`, `worker-lost`, `device-lost`, `out-of-memory`, `disposed` after `dispose()`
     */
    classify(image: ImageInput, options?: ClassifyOptions): Promise<Classification>;
    classify(images: readonly ImageInput[], options?: ClassifyOptions): Promise<Classification[]>;
    /**
     * Classifies any number of pictures and gives each one's result or error in turn. One bad file does not stop the others.
     * Leave the loop to stop.
     *
     * @param inputs a list, or any iterable or async iterable, which is read only as fast as pictures are classified
     * @throws SlimViTError `aborted`, `disposed`, `bad-option`, `bad-input` for inputs that are no list; what `inputs` throws
     */
    classifyAll<T extends ImageInput>(inputs: Iterable<T> | AsyncIterable<T>, options?: ClassifyAllOptions): AsyncGenerator<BatchResult<T>>;
    /** A picture's features, [featureDim]: the pooled tokens after the final norm, in the space of zero-shot classes. */
    embed(image: ImageInput, options?: EmbedOptions): Promise<Float32Array>;
    embed(images: readonly ImageInput[], options?: EmbedOptions): Promise<Float32Array[]>;
    /** `embed` for any number of pictures, as `classifyAll` classifies them. */
    embedAll<T extends ImageInput>(inputs: Iterable<T> | AsyncIterable<T>, options?: EmbedAllOptions): AsyncGenerator<BatchResult<T, Float32Array>>;
    /**
     * Teaches classes of the caller's own: the pictures are embedded, and a head is fitted to their embeddings in the worker.
     *
     * @param pictures by class name, at least two for each class; a taught model keeps its classes and pictures and gains these
     * @returns another model, which shares this one's worker and weights; for a taught model, the same model with more
     * classes and pictures
     * @throws SlimViTError `bad-input` naming the class and the picture, or for fewer than two classes; `bad-option`;
     * `unsupported` for a model that was saved without its embeddings; as `embed`. A failure leaves the model as it was.
     */
    teach(pictures: TeachPictures, options?: TeachOptions): Promise<SlimViT>;
    /**
     * Removes classes of a taught model, with their pictures.
     *
     * @throws SlimViTError `bad-option` for a class that the model does not have, `bad-input` where fewer than two would
     * be left, `unsupported` for a model that was not taught, or was saved without its embeddings
     */
    forget(classes: string | readonly string[], options?: TeachOptions): Promise<SlimViT>;
    /**
     * @returns the files of a taught model's folder, for `load`, a download or a server
     * @throws SlimViTError `unsupported` for a model that was not taught; `network` and `integrity` where its weights, which
     * are read once more, are no longer there
     */
    save(options?: SaveOptions): Promise<Instance<"File">[]>;
    /**
     * Answers with another of the folder's variants from the next call on. Variants that are `ready` in `info.variants` need
     * no download. Other objects that loaded the same folder keep their variants.
     *
     * @param variant its name, or a budget for which the best variant is found
     * @returns its `info`
     * @throws SlimViTError `bad-option` for an unknown name, and as `load`; the present variant then stays
     */
    use(variant: VariantRequest): Promise<ModelInfo>;
    /**
     * Classifies pictures as they come. From a video it always takes the newest frame, so that answers never lag behind;
     * frames that cannot be read yet are skipped. From any other source every picture is classified. Leave the loop to
     * stop.
     *
     * @param source a video element, a stream of VideoFrames (closed here), or any async iterable of pictures. A camera whose
     *   track is stopped does not end the loop, so abort as well.
     * @throws SlimViTError as `classify`, and what the source throws
     */
    stream(source: FrameSource<ImageInput>, options?: StreamOptions): AsyncGenerator<Classification>;
    /** Frees worker, weights and memory; calls in flight reject with `disposed`. Idempotent. */
    dispose(): void;
    [Symbol.dispose](): void;
    [Symbol.asyncDispose](): Promise<void>;
}

export { SlimViT, SlimViTError };
export type { BatchProgress, BatchResult, BlockShape, Classification, ClassifyAllOptions, ClassifyOptions, EmbedAllOptions, EmbedOptions, EngineName, EnginePackage, FrameSource, ImageInput, Label, LoadOptions, ModelHost, ModelInfo, ModelPackage, ModelSource, Pooling, Progress, RawImage, Region, SaveOptions, ScoredClass, SlimViTErrorCode, StreamOptions, TaughtInfo, TeachOptions, TeachPictures, TeachProgress, TriedEngine, UnknownRule, VariantChoice, VariantInfo, VariantRequest, WebnnOptions, WeightsDtype, WeightsStore };
