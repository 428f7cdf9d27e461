/** One loaded model on one engine: image → pixels → logits → top classes. Lives in the worker; in Node, in the process. */

import type { Engine, EngineName, RunOutput } from "../engines/engine.ts";
import { nextMacrotask } from "../engines/nextMacrotask.ts";
import type { OpenedEngine } from "../engines/opening.ts";
import { RecoveringEngine } from "../engines/recovery.ts";
import { checkEngineName, prepareEngine } from "../engines/registry.ts";
import { SlimViTError, throwIfAborted } from "../errors.ts";
import {
  type BlockShape,
  countMacs,
  countParams,
  type Label,
  type Model,
  type Preprocess,
  type WeightsDtype,
} from "../format/model.ts";
import { readImage, type WireImage } from "../image/decode.ts";
import { preprocessWith, type Region, type Resample } from "../image/preprocess.ts";
import { type LoadRequest, loadModel } from "../loading/loadModel.ts";
import type { SetChoice } from "../page/set.ts";
import type { TriedEngine } from "../protocol.ts";

export interface SessionRequest extends LoadRequest {
  threads: number | "auto";
  /** where optional packages are served, by package name; absolute URLs */
  engineUrls?: Record<string, string>;
  /** Names of the optional packages that the app hands over; `locate` knows where each is. */
  packages?: readonly string[];
  /** Asks the page for the address of a package or of an engine's file. */
  locate?(name: string): Promise<string>;
}

export interface ModelInfo {
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
  loadMs: { files: number; engine: number; firstRun: number };
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

export interface ClassifyOptions {
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

export interface ScoredClass extends Label {
  /** position in the model's output */
  index: number;
  /** softmax over all classes */
  score: number;
}

export interface SessionResult extends Omit<RunOutput, "logits"> {
  /** best first */
  classes: ScoredClass[];
  preprocessMs: number;
  inferenceMs: number;
  /** where it has changed since the last result */
  info?: ModelInfo;
}

export class Session {
  private last: Promise<unknown> = Promise.resolve();
  private disposed = false;
  private told: ModelInfo;

  private constructor(
    private knownInfo: ModelInfo,
    private readonly how: Preprocess,
    private readonly engine: RecoveringEngine,
    private opened: OpenedEngine,
    private readonly resample: Resample,
  ) {
    this.told = knownInfo;
  }

  get info(): ModelInfo {
    return this.knownInfo;
  }

  /** @throws SlimViTError as `loadModel` and `openEngine` */
  static async open(request: SessionRequest): Promise<Session> {
    const { signal, engineUrls, packages, locate } = request;
    checkEngineName(request.engine); // like the threads', a slip of the pen costs no download
    const options = { threads: chooseThreads(request.threads), engineUrls, packages, locate };
    const start = performance.now();
    const openResampler = () => import("../image/resampleWasm.ts").then(({ openResampler }) => openResampler());
    const { model, notes } = await loadModel(request, () => {
      void openResampler();
      prepareEngine(request.engine, options);
    });
    const loaded = performance.now();
    const engine = await RecoveringEngine.open(request.engine, model, {
      ...options,
      signal,
      keeps: request.cache === true,
    });
    if (signal?.aborted) engine.dispose();
    throwIfAborted(signal);
    const { opened } = engine;
    const { firstRunMs: firstRun } = opened;
    const loadMs = { files: loaded - start, engine: performance.now() - loaded - firstRun, firstRun };
    const info = describe(model, opened, [...notes, ...engine.notes], loadMs);
    return new Session(info, model.manifest.preprocess, engine, opened, await openResampler());
  }

  /** One call at a time, in the order of arrival. */
  run(image: WireImage, options: ClassifyOptions, signal?: AbortSignal): Promise<SessionResult> {
    const turn = this.last.then(async () => {
      await nextMacrotask(); // lets aborts in, which an engine that never waits would keep out
      throwIfAborted(signal);
      if (this.disposed) throw new SlimViTError("disposed", "The model was disposed of.");
      return this.runNow(image, options, signal);
    });
    this.last = turn.catch(() => {});
    return turn;
  }

  /** Idempotent; a run that has begun ends first. */
  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    void this.last.finally(() => this.engine.dispose());
  }

  private async runNow(wire: WireImage, options: ClassifyOptions, signal?: AbortSignal): Promise<SessionResult> {
    const pick = chooser(this.info.labels, options);
    const start = performance.now();
    const { image, region } = await readImage(wire, options.region, this.how, signal);
    const pixels = preprocessWith(this.resample, image, this.how, region);
    const ready = performance.now();
    throwIfAborted(signal);
    const { profile, explain } = options;
    const { logits, ...rest } = await this.engine.run(pixels, { profile, explain, signal });
    this.noteReplacement();
    throwIfAborted(signal);
    const news = this.info !== this.told && { info: this.info };
    this.told = this.info;
    const inferenceMs = performance.now() - ready;
    return { ...rest, classes: pick(logits), preprocessMs: ready - start, inferenceMs, ...news };
  }

  private noteReplacement(): void {
    const { opened, notes } = this.engine;
    if (opened === this.opened) return;
    this.opened = opened;
    const { engine, tried, reason } = opened;
    const allNotes = [...new Set([...this.info.notes, ...notes])];
    this.knownInfo = { ...this.info, ...facts(engine), tried, engineReason: reason, notes: allNotes };
  }
}

function facts({
  name,
  threads,
  simd,
  memoryBytes,
}: Engine): Partial<ModelInfo> & Pick<ModelInfo, "engine" | "threads"> {
  return { engine: name, threads, simd, memoryBytes };
}

function describe(
  model: Model,
  { engine, tried, reason }: OpenedEngine,
  notes: string[],
  loadMs: ModelInfo["loadMs"],
): ModelInfo {
  const { manifest, dtype } = model;
  const { name, license, embedDim, imageSize, labels, blocks, weights } = manifest;
  return {
    name,
    license,
    embedDim,
    imageSize,
    labels,
    params: countParams(manifest, labels.length),
    macs: countMacs(manifest, labels.length),
    dtype,
    dtypes: weights.map((entry) => entry.dtype),
    sizeBytes: weights.find((entry) => entry.dtype === dtype)!.bytes,
    ...facts(engine),
    loadMs,
    blocks,
    engineReason: reason,
    tried,
    notes,
  };
}

/** Each is a worker with its own stack; no model here has work for more. */
const MAX_THREADS = 64;

/**
 * Half of the cores, as the other half are often the slow ones or no cores at all; no more than 4, which small networks
 * do not keep busy; and one on iOS, where threads cost memory that it lacks.
 */
function chooseThreads(wanted: number | "auto"): number {
  if (wanted !== "auto") {
    if (Number.isSafeInteger(wanted) && wanted >= 1 && wanted <= MAX_THREADS) return wanted;
    throw new SlimViTError(
      "bad-option",
      `threads is ${wanted}; expected "auto" or a whole number from 1 to ${MAX_THREADS}.`,
    );
  }
  const { userAgent = "", hardwareConcurrency = 1 } = globalThis.navigator ?? {};
  if (/iPhone|iPad|iPod/.test(userAgent)) return 1;
  return hardwareConcurrency <= 2 ? hardwareConcurrency : Math.min(4, Math.ceil(hardwareConcurrency / 2));
}

/** Checks the options once, then picks from any logits. */
export function chooser(
  labels: Label[],
  { topK = 5, scoreThreshold = 0, allow, deny }: ClassifyOptions,
): (logits: Float32Array) => ScoredClass[] {
  if (!Number.isSafeInteger(topK) || topK < 1) {
    throw new SlimViTError("bad-option", `topK is ${topK}; expected a whole number of at least 1.`);
  }
  if (!(scoreThreshold >= 0 && scoreThreshold <= 1)) {
    throw new SlimViTError("bad-option", `scoreThreshold is ${scoreThreshold}; expected a number from 0 to 1.`);
  }
  const allowed = allow && indicesOf(labels, allow, "allow");
  const denied = deny && indicesOf(labels, deny, "deny");
  return (logits) => {
    const scores = softmax(logits);
    const order = [...labels.keys()].filter(
      (i) => scores[i] >= scoreThreshold && (allowed?.has(i) ?? true) && !denied?.has(i),
    );
    order.sort((a, b) => scores[b] - scores[a]);
    return order.slice(0, topK).map((index) => ({ ...labels[index], index, score: scores[index] }));
  };
}

function indicesOf(labels: Label[], names: string[], option: string): Set<number> {
  if (!Array.isArray(names))
    throw new SlimViTError("bad-option", `${option} is ${JSON.stringify(names)}; expected a list of ids or labels.`);
  const indices = names.map((name) => {
    const found = labels.flatMap(({ id, label }, i) => (id === name || label === name ? [i] : []));
    if (found.length) return found;
    throw new SlimViTError(
      "bad-option",
      `${option} names ${JSON.stringify(name)}, which is no id or label of this model.`,
    );
  });
  return new Set(indices.flat());
}

export function softmax(logits: Float32Array): Float64Array {
  const max = logits.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const scores = Float64Array.from(logits, (v) => Math.exp(v - max));
  const total = scores.reduce((a, b) => a + b, 0);
  return scores.map((v) => v / total);
}
