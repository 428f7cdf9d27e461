/** One loaded model: image → pixels → logits → top classes. Lives in the worker; in Node, with the caller. */
import { readImage } from "./decode.ts";
import type { Engine, EngineName, RunOptions, RunOutput } from "./engines/engine.ts";
import { openEngine } from "./engines/open.ts";
import { SlimViTError, throwIfAborted } from "./errors.ts";
import {
  type BlockShape,
  countMacs,
  countParams,
  type Label,
  type Model,
  type WeightsDtype,
} from "./format/model.ts";
import { selfTestPixels } from "./format/write.ts";
import { preprocess, type Region } from "./image.ts";
import { type CacheUse, type LoadChoice, type LoadContext, loadModel, type ModelSource } from "./load.ts";
import type { WireImage } from "./wire.ts";

export interface SessionOptions extends LoadChoice {
  threads?: number | "auto";
  /** where optional packages are served, by package name; absolute URLs */
  engineUrls?: Record<string, string>;
}

export interface ModelInfo {
  name: string;
  license: string;
  embedDim: number;
  /** [height, width] */
  imageSize: [number, number];
  labels: Label[];
  params: number;
  /** multiply-accumulates of one forward pass */
  macs: number;
  dtype: WeightsDtype;
  /** the dtypes that the folder has */
  dtypes: WeightsDtype[];
  /** of the weights file */
  sizeBytes: number;
  engine: EngineName;
  threads: number;
  /** the engines that "auto" would have liked better, and why each did not open */
  tried: { engine: EngineName; reason: string }[];
  blocks: BlockShape[];
  cache: CacheUse;
}

export interface SessionEmbedOptions {
  /** in pixels of the picture as it is shown; taken alone, as if the rest were not there */
  region?: Region;
}

export interface SessionClassifyOptions extends SessionEmbedOptions {
  topK?: number;
  /** classes that score less are left out */
  scoreThreshold?: number;
  /** only these classes, by id or label */
  allow?: string[];
  /** none of these classes, by id or label */
  deny?: string[];
  /** milliseconds of each block */
  profile?: boolean;
  /** the class token's attention in each block */
  explain?: boolean;
}

export interface ClassScore {
  id: string;
  label: string;
  /** of the model's output */
  index: number;
  /** softmax over all classes, whatever is left out of the list */
  score: number;
}

export interface Classification {
  /** best first */
  classes: ClassScore[];
  /** preprocess: from the image to pixels; inference: from pixels to logits; waiting for earlier calls is not counted */
  latencyMs: { preprocess: number; inference: number; total: number };
  engine: EngineName;
  /** with `profile` */
  blockMs?: number[];
  /** with `explain`: attention of the class token over each block's `keepIdx`, averaged over heads */
  attention?: Float32Array[];
}

export class Session {
  private last: Promise<unknown> = Promise.resolve();
  private disposed = false;

  private constructor(
    readonly info: ModelInfo,
    private readonly model: Model,
    private readonly engine: Engine,
  ) {}

  /** @throws SlimViTError as `loadModel` and `openEngine`, and `unsupported` for an engine that computes wrong results here */
  static async open(source: ModelSource, options: SessionOptions, context: LoadContext): Promise<Session> {
    const { model, cache } = await loadModel(source, options, context);
    const { engine, tried } = await openEngine(options.engine ?? "auto", model, {
      threads: chooseThreads(options.threads),
      engineUrls: options.engineUrls,
    });
    try {
      throwIfAborted(context.signal);
      await selfTest(engine, model);
      throwIfAborted(context.signal);
    } catch (error) {
      engine.dispose();
      throw error;
    }
    const { manifest, dtype } = model;
    const { name, license, embedDim, imageSize, labels, blocks, weights } = manifest;
    const info: ModelInfo = {
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
      engine: engine.name,
      threads: engine.threads,
      tried,
      blocks,
      cache,
    };
    return new Session(info, model, engine);
  }

  classify(image: WireImage, options: SessionClassifyOptions, signal?: AbortSignal): Promise<Classification> {
    return this.inTurn(signal, async () => {
      const pick = chooser(this.info.labels, options);
      const start = performance.now();
      const pixels = await this.pixels(image, options.region, signal);
      const ready = performance.now();
      const { profile, explain } = options;
      const { logits, blockMs, attention } = await this.run(pixels, { profile, explain, signal });
      const done = performance.now();
      return {
        classes: pick(logits),
        latencyMs: { preprocess: ready - start, inference: done - ready, total: performance.now() - start },
        engine: this.engine.name,
        ...(blockMs && { blockMs }),
        ...(attention && { attention }),
      };
    });
  }

  embed(image: WireImage, options: SessionEmbedOptions, signal?: AbortSignal): Promise<Float32Array> {
    return this.inTurn(signal, async () => {
      const pixels = await this.pixels(image, options.region, signal);
      return (await this.run(pixels, { signal })).features;
    });
  }

  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    // Not under the feet of a run.
    void this.last.finally(() => this.engine.dispose());
  }

  private async pixels(wire: WireImage, wanted: Region | undefined, signal?: AbortSignal): Promise<Float32Array> {
    const { image, region } = await readImage(wire, wanted, this.model.manifest.preprocess, signal);
    throwIfAborted(signal);
    return preprocess(image, this.model.manifest.preprocess, region);
  }

  private async run(pixels: Float32Array, options: RunOptions): Promise<RunOutput> {
    throwIfAborted(options.signal);
    const output = await this.engine.run(pixels, options);
    throwIfAborted(options.signal);
    return output;
  }

  /** One call at a time, in the order of arrival. */
  private inTurn<T>(signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T> {
    const turn = this.last.then(async () => {
      await nextTask(); // lets aborts in, which engines that never wait would keep out
      throwIfAborted(signal);
      if (this.disposed) throw new SlimViTError("disposed", "This model has been disposed of.");
      return work();
    });
    this.last = turn.catch(() => {});
    return turn;
  }
}

/** No more than 4, which small networks do not keep busy, and one on iOS, where threads cost memory that it lacks. */
function chooseThreads(wanted: number | "auto" = "auto"): number {
  if (wanted !== "auto") return wanted;
  const { userAgent = "", hardwareConcurrency = 1 } = globalThis.navigator ?? {};
  if (/iPhone|iPad|iPod/.test(userAgent)) return 1;
  return Math.max(1, Math.min(4, Math.floor(hardwareConcurrency / 2)));
}

/** Against logits that were computed in f32 with f64 sums; an engine that goes wrong is off by far more. */
const SELF_TEST_TOLERANCE = 0.02;

/** The known input of slimvit.json: the first run, which warms the engine up, and a check of what it computes here. */
async function selfTest(engine: Engine, { manifest, dtype }: Model): Promise<void> {
  const known = manifest.weights.find((entry) => entry.dtype === dtype)?.selfTest;
  if (!known || engine.name === "reference") return;
  const { logits } = await engine.run(selfTestPixels(manifest, known.seed));
  const largest = known.logits.reduce((max, v) => Math.max(max, Math.abs(v)), 1);
  const worst = known.logits.reduce((max, v, i) => Math.max(max, Math.abs(v - logits[i]) || 0), 0);
  if (worst <= SELF_TEST_TOLERANCE * largest && logits.every(Number.isFinite)) return;
  throw new SlimViTError(
    "unsupported",
    `Engine "${engine.name}" computes wrong results on this device: its logits for ${manifest.name}'s known input are ` +
      `off by ${worst.toFixed(3)}. Choose another engine.`,
  );
}

/** Checks the options once, then picks from any logits. */
export function chooser(
  labels: Label[],
  { topK = 5, scoreThreshold = 0, allow, deny }: SessionClassifyOptions,
): (logits: Float32Array) => ClassScore[] {
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
  const found = new Set<number>();
  for (const name of names) {
    const before = found.size;
    let known = false;
    labels.forEach(({ id, label }, i) => {
      if (id !== name && label !== name) return;
      found.add(i);
      known = true;
    });
    if (!known && found.size === before) {
      throw new SlimViTError("bad-option", `${option} names ${JSON.stringify(name)}, which is no id or label of this model.`);
    }
  }
  return found;
}

function softmax(logits: Float32Array): Float64Array {
  const max = logits.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY);
  const scores = Float64Array.from(logits, (v) => Math.exp(v - max));
  const total = scores.reduce((a, b) => a + b, 0);
  return scores.map((v) => v / total);
}

function nextTask(): Promise<void> {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(0);
  });
}
