/**
 * Everything that passes between the page and its worker: options, calls and results. How errors travel is in
 * errorTransfer.ts.
 */

import type { SlimViTError } from "./errors.ts";
import type { BlockShape, Label, Pooling, WeightsDtype } from "./format/model.ts";
import type { VariantChoice, VariantInfo } from "./format/variantChoice.ts";
import type { RawImage, Region } from "./pictures.ts";
import type { Instance } from "./platform.ts";
import type { TaughtHead, TaughtInfo, TeachRequest, TeachResult } from "./taught.ts";

export type * from "./pictures.ts";
export type * from "./taught.ts";

// ---- Loading a model ----

export type EngineName = "simd" | "webgpu" | "onnx-wasm" | "onnx-webgpu" | "tfjs-webgpu" | "webnn" | "reference";

/** Which device the engine `webnn` asks the browser for. */
export interface WebnnOptions {
  deviceType?: "cpu" | "gpu" | "npu";
  powerPreference?: "default" | "high-performance" | "low-power";
}

/** The folder's URL, "hf:owner/name", "npm:name@version", a model's npm package, or the folder's files; in Node also its path. */
export type ModelSource = string | Instance<"URL"> | ModelPackage | Iterable<Instance<"File">>;

/** The default export of a model's npm package: where the app's bundler serves each file of the folder. */
export interface ModelPackage {
  name: string;
  files: Readonly<Record<string, string>>;
}

export interface LoadOptions {
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
export interface EnginePackage {
  /** For each package, a function that gives the address of a script with that package. */
  readonly packages: Readonly<Record<string, () => Promise<string>>>;
}

/** A model in the thread that made it. Only `load` knows what to do with it. */
export interface ModelHost {
  dispose(): void;
}

export interface Progress {
  /** file being read */
  file: string;
  loadedBytes: number;
  /** from slimvit.json, so it is known before the first byte */
  totalBytes: number;
  /** true when the bytes came from the cache */
  cached: boolean;
}

/** Stores weights between visits, under the lower-case hex of their sha256. What `get` returns is checked like a download. */
export interface WeightsStore {
  get(sha256: string): Promise<Uint8Array | undefined>;
  put(sha256: string, bytes: Uint8Array): Promise<void>;
}

/** A model folder: its absolute URL (`file:` in Node), the addresses of its files, or the files themselves. */
export type Source = { url: string } | { urls: Record<string, string> } | { files: { name: string; blob: Blob }[] };

/** One load, from `SlimViT.load` to the engine: plain data, so that equal requests can share a worker. */
export interface LoadRequest {
  source: Source;
  engine: EngineName | "auto";
  dtype: WeightsDtype | "auto";
  variant?: string;
  latencyMs?: number;
  threads: number | "auto";
  /** Keep weights and measurements in the browser's cache. */
  cache: boolean;
  /** absolute URLs */
  engineUrls?: Record<string, string>;
  /** Names of the optional packages that the app hands over; `locate` knows where each is. */
  packages?: string[];
  webnn?: WebnnOptions;
}

/** The caller's own objects of a load. A worker gets them as proxies. */
export interface LoadLinks {
  /** instead of the browser's cache */
  store?: WeightsStore;
  onProgress?: (progress: Progress) => unknown;
  /** Asks the page for the address of a package or of an engine's file, or in the page's own thread for the file's exports. */
  locate?(name: string): Promise<string | object>;
  /** Called when another variant becomes the one that answers. */
  onInfo?(info: ModelInfo): unknown;
}

/** What was loaded and how it runs. */
export interface ModelInfo {
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
  loadMs: { files: number; engine: number; firstRun: number };
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

export type { VariantChoice, VariantInfo, VariantRequest } from "./format/variantChoice.ts";

/** An engine that `auto` tried and did not take. */
export interface TriedEngine {
  engine: EngineName;
  /** for `webnn`: the device that it asked for */
  deviceType?: WebnnOptions["deviceType"];
  /** why `auto` did not take it */
  reason: string;
  /** Median milliseconds of a few runs, if it was measured. */
  ms?: number;
}

// ---- Classifying pictures ----

export interface ClassifyOptions {
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

export type EmbedOptions = Pick<ClassifyOptions, "signal" | "region">;

export interface StreamOptions extends ClassifyOptions {
  /**
   * For a folder with several variants: milliseconds that a frame may take, from its call to its answer. A smaller variant
   * answers while this device is too slow for the present one, and a larger one when there is time for it again.
   */
  latencyMs?: number;
  /** Called when another variant answers from the next frame on. */
  onVariant?: (info: ModelInfo) => void;
}

export interface ClassifyAllOptions extends ClassifyOptions {
  /** Pictures in flight at once; default is the number that the engine takes at once, at least 2. */
  concurrency?: number;
  onProgress?: (progress: BatchProgress) => void;
}

export interface EmbedAllOptions extends EmbedOptions, Pick<ClassifyAllOptions, "concurrency" | "onProgress"> {}

export interface BatchProgress {
  /** pictures answered so far, failed ones included */
  done: number;
  failed: number;
  /** undefined for inputs without a length */
  total?: number;
}

/** One input of `classifyAll` or `embedAll`: its result or its error. */
export type BatchResult<T, R = Classification> = { index: number; input: T } & (
  | { result: R; error?: undefined }
  | { result?: undefined; error: SlimViTError }
);

export interface ScoredClass extends Label {
  /** position in the model's output, or among `classes` */
  index: number;
  /** Softmax over all classes. In a multi-label model, the class's own probability. */
  score: number;
}

/** The answers to `profile` and `explain`. */
export interface Insight {
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

export interface Classification extends Insight {
  /** best first */
  classes: ScoredClass[];
  /** `preprocess` and `inference` are times in the worker. `total` is the time from the call to the answer. */
  latencyMs: { preprocess: number; inference: number; total: number };
  engine: EngineName;
  /** name of the variant that answered */
  variant: string;
  /** For a taught model: whether the picture shows none of its classes, judged by the features. */
  unknown?: boolean;
}

// ---- Calls to the worker ----

/** Name of our workers and of their Trusted Types policy. By it worker.js knows that it is to answer calls. */
export const WORKER_NAME = "slimvit";

/** A call's own number, by which it can be aborted: an AbortSignal does not cross to a worker. */
export type CallId = number;

/** A picture as it crosses to the worker: URLs absolute, a bitmap the worker's own. */
export type TransferredImage =
  | { kind: "url"; url: string }
  | { kind: "blob"; blob: Blob; name: string }
  | { kind: "bitmap"; bitmap: ImageBitmap }
  | { kind: "pixels"; image: RawImage };

export interface RunRequest extends Omit<ClassifyOptions, "signal"> {
  /** "features": no classes are picked, so that embedding models answer. */
  want: "classes" | "features";
  /** in place of the network's own */
  head?: TaughtHead;
  /** of the folder; default the one that its loading chose */
  variant?: string;
}

/** Either of the two is given. */
export interface UseRequest {
  variant?: string;
  latencyMs?: number;
}

export interface RunResult extends Omit<Classification, "latencyMs"> {
  latencyMs: Omit<Classification["latencyMs"], "total">;
  features: Float32Array;
  /** the variant's info, where it has changed since the last result */
  info?: ModelInfo;
}

/** The fixed list of what a page may ask of its worker. In Node the same object is called directly. */
export interface Host {
  /** Answers when the worker holds the Web Lock of that name. A page that gets the lock later knows that the worker is gone. */
  hello(lock: string): Promise<void>;
  /** @param onNews how far the load is; afterwards, that another variant became the one that answers */
  load(
    call: CallId,
    request: LoadRequest,
    store?: WeightsStore,
    onNews?: (news: Progress | ModelInfo) => void,
    locate?: (name: string) => Promise<string | object>,
  ): Promise<ModelInfo>;
  run(call: CallId, image: TransferredImage, request: RunRequest): Promise<RunResult>;
  /** @returns of the variant that calls can name then */
  use(call: CallId, request: UseRequest): Promise<ModelInfo>;
  /** On its first call, the worker loads the code for it. */
  teach(call: CallId, request: TeachRequest, onProgress?: (done: number) => void): Promise<TeachResult>;
  abort(call: CallId): void;
  dispose(): void;
}
