/**
 * One loaded model on one engine: picture → pixels → logits → classes. It lives in the worker, and in Node in the
 * process.
 */

import { type Chunk, loadChunk } from "../engines/chunks.ts";
import type { EngineOptions } from "../engines/engine.ts";
import type { InTurn, Running, Variants } from "../engines/family/index.ts";
import { nextMacrotask } from "../engines/nextMacrotask.ts";
import { RecoveringEngine } from "../engines/recovery.ts";
import { checkEngineName, type FamilyChunk, loadFamily, prepareEngine } from "../engines/registry.ts";
import { SlimViTError, throwIfAborted } from "../errors.ts";
import { type Manifest, MEANS, type Model } from "../format/model.ts";
import { float32 } from "../format/read.ts";
import { withVariant } from "../format/variants.ts";
import { readImage } from "../image/decode.ts";
import { preprocessWith, type Resample } from "../image/preprocess.ts";
import { digest } from "../loading/digest.ts";
import { openFolder } from "../loading/folders.ts";
import { loadModel } from "../loading/loadModel.ts";
import type {
  LoadLinks,
  LoadRequest,
  ModelInfo,
  RunRequest,
  RunResult,
  TeachRequest,
  TeachResult,
  TransferredImage,
  UseRequest,
} from "../protocol.ts";
import type { RunOutput } from "../reference/forward.ts";
import { attentionOverPatches } from "../reference/insight.ts";
import { checkFinite, classPicker, type Picked, type Rule } from "./classes.ts";
import { describeModel } from "./info.ts";
import { openFirstSound } from "./openFirstSound.ts";
import { chooseThreads } from "./threads.ts";

/** The resampler's kernels are a part of their own, like an engine. */
async function openResampler(): Promise<Resample> {
  return (await import("../image/resampleWasm.ts")).openResampler();
}

/** Loaded when a model is first taught. */
const TEACH: Chunk<typeof import("../teach/index.ts")> = {
  name: "slimvit/teach.js",
  load: () => import("../teach/index.ts"),
};

/** Does work on the model itself, during which no call may be under way. */
interface Task {
  task: () => Promise<void>;
}

/** A call that waits for its turn. */
interface Job {
  /** or the network's input itself */
  image: TransferredImage | { pixels: Float32Array };
  request: RunRequest;
  signal?: AbortSignal;
  resolve(result: RunResult): void;
  reject(error: unknown): void;
}

/** A call whose picture is ready for the engine. */
interface Prepared {
  job: Job;
  pixels: Float32Array;
  pick: (output: RunOutput) => Picked;
  preprocessMs: number;
}

export class Session {
  private readonly waiting: (Job | Task)[] = [];
  private isWorking = false;
  private isDisposed = false;
  /** of a folder that has several */
  private readonly variants: Variants<RecoveringEngine> | undefined;
  /** of what runs, and what it was made from */
  private described: { info: ModelInfo; from: unknown[] } | undefined;
  /** the info that the page has already */
  private sentInfo: ModelInfo;

  private constructor(
    private readonly first: Running<RecoveringEngine>,
    makeVariants: (inTurn: InTurn) => Variants<RecoveringEngine> | undefined,
    private readonly model: Pick<Model, "dtype">,
    private readonly facts: Pick<ModelInfo, "loadMs" | "notes" | "dtypeReason">,
    private readonly resample: Resample,
    private readonly life: AbortController,
    private readonly from: { request: LoadRequest; links: LoadLinks; options: EngineOptions },
    private readonly rule: Rule | undefined,
  ) {
    this.variants = makeVariants(this.inTurn);
    this.sentInfo = this.info;
  }

  /** The info of the variant that runs. */
  get info(): ModelInfo {
    const { variants, facts, running, model } = this;
    const { manifest, engine } = running;
    const from = [running, engine.opened, variants?.known];
    if (!from.every((part, i) => part === this.described?.from[i])) {
      const notes = [...new Set([...facts.notes, ...engine.notes])];
      const info = describeModel({ manifest, ...model }, engine.opened, { ...facts, notes }, variants?.known);
      this.described = { info, from };
    }
    return this.described!.info;
  }

  private get running(): Running<RecoveringEngine> {
    return this.variants?.running ?? this.first;
  }

  private get manifest(): Manifest {
    return this.running.manifest;
  }

  /** with which calls are answered that name no variant */
  private get usual(): string {
    return this.variants?.chosen ?? this.manifest.variant;
  }

  private get engine(): RecoveringEngine {
    return this.running.engine;
  }

  /** @throws SlimViTError as `loadModel` and `openEngine` */
  static async open(request: LoadRequest, links: LoadLinks = {}, signal?: AbortSignal): Promise<Session> {
    checkEngineName(request.engine); // before anything is downloaded, as are the threads
    const threads = chooseThreads(request.threads);
    const { engineUrls, packages, webnn } = request;
    const options: EngineOptions = { threads, engineUrls, packages, locate: links.locate, webnn };
    let several: FamilyChunk | undefined;
    const openVariants = async (...args: ConstructorParameters<FamilyChunk["SlabReader"]>) => {
      several = await loadFamily(options);
      return new several.SlabReader(...args);
    };
    const start = performance.now();
    const life = new AbortController();
    signal?.addEventListener("abort", () => life.abort(signal.reason));
    const first = await loadModel(request, { ...links, signal: life.signal, openVariants }, () => {
      void openResampler();
      prepareEngine(request.engine, options);
    });
    const filesMs = performance.now() - start;
    const opening = { ...options, signal: life.signal, keeps: request.cache, sharedFamily: several?.sharedFamily };
    const { loaded, engine } = await openFirstSound(request, first, (model, isLast) =>
      RecoveringEngine.open(request.engine, model, { ...opening, mayUseOthers: isLast }),
    );
    if (signal?.aborted) engine.dispose();
    throwIfAborted(signal);
    const { firstRunMs } = engine.opened;
    const loadMs = { files: filesMs, engine: performance.now() - start - filesMs - firstRunMs, firstRun: firstRunMs };
    const { manifest, dtype, tensors } = loaded.model;
    const { variants: loader } = loaded;
    const openEngine = (model: Model) => RecoveringEngine.open(request.engine, model, opening);
    const running = { manifest, engine };
    const make = (inTurn: InTurn) =>
      loader && new several!.Variants(running, { loader, openEngine, signal: life.signal, inTurn });
    const facts = { loadMs, notes: loaded.notes, dtypeReason: loaded.dtypeReason };
    const { head } = manifest;
    const rule = head?.unknown && { unknown: head.unknown, means: float32(tensors, MEANS) };
    const from = { request, links: { ...links, openVariants }, options };
    const session = new Session(running, make, { dtype }, facts, await openResampler(), life, from, rule);
    const { variants } = session;
    if (request.variant !== undefined) variants?.rest();
    else if (variants) {
      const settled = variants.settle(request.latencyMs).then(() => session.use({ variant: variants.chosen }));
      settled.then(links.onInfo).catch(() => {}); // disposed of
    }
    return session;
  }

  /**
   * @returns what runs then. Calls that name that variant are answered with it; others are not changed.
   * @throws SlimViTError as `loadModel` and `openEngine`; what ran before goes on then
   */
  async use(request: UseRequest): Promise<ModelInfo> {
    const name = (await this.variants?.request(request)) ?? request.variant ?? this.manifest.variant;
    return this.inTurn(async () => {
      await this.runVariant(name);
      return this.info;
    });
  }

  private readonly inTurn: InTurn = (work) =>
    new Promise((resolve, reject) => {
      this.waiting.push({ task: () => work().then(resolve, reject) });
      void this.work();
    });

  /** One call at a time, in the order of arrival; an engine that takes batches gets those that wait together. */
  run(image: Job["image"], request: RunRequest, signal?: AbortSignal): Promise<RunResult> {
    return new Promise((resolve, reject) => {
      this.waiting.push({ image, request, signal, resolve, reject });
      void this.work();
    });
  }

  /** Pictures are answered at the same time. */
  async teach(request: TeachRequest, signal: AbortSignal, onProgress?: (done: number) => void): Promise<TeachResult> {
    const { answer } = await loadChunk(TEACH, this.from.options);
    const variant = this.usual;
    const run = (pixels: Float32Array) => this.run({ pixels }, { want: "features", variant }, signal);
    const { from } = this;
    const manifest = withVariant(this.manifest, variant);
    const info = { ...this.info, variant };
    const host = { manifest, info, ...from, signal, onProgress, run, loadModel, openFolder, digest, nextMacrotask };
    return answer(request, host);
  }

  /** Idempotent. A run that has begun ends first. */
  dispose(): void {
    if (this.isDisposed) return;
    this.isDisposed = true;
    this.life.abort();
    if (!this.isWorking) this.engine.dispose();
  }

  private async work(): Promise<void> {
    if (this.isWorking) return;
    this.isWorking = true;
    while (this.waiting.length) {
      await nextMacrotask(); // lets aborts in, which an engine that never waits would keep out
      const [first] = this.waiting;
      if ("task" in first) {
        this.waiting.shift();
        await first.task();
        continue;
      }
      const jobs = this.takeJobs();
      try {
        await this.runVariant(jobs[0].request.variant ?? this.usual);
        await this.answer(jobs);
      } catch (error) {
        for (const { reject } of jobs) reject(error); // without effect on those that are answered
      }
    }
    this.isWorking = false;
    if (this.isDisposed) this.engine.dispose();
  }

  private async runVariant(name: string): Promise<void> {
    if (name === this.manifest.variant) return;
    if (this.variants) await this.variants.run(name);
    else withVariant(this.manifest, name); // `bad-option` for an unknown name
  }

  /** The next job, with those behind it that fit into the same batch; after `before`, only what can be prepared beside it. */
  private takeJobs(before?: Job): Job[] {
    const { variant } = (before ?? (this.waiting[0] as Job)).request;
    const isPlain = (job: Job | Task): job is Job =>
      "request" in job && !job.request.profile && !job.request.explain && job.request.variant === variant;
    const { batchSize } = this.info;
    let count = before ? 0 : 1;
    if (before || isPlain(this.waiting[0]))
      while (count < Math.min(batchSize, this.waiting.length) && isPlain(this.waiting[count])) count++;
    return this.waiting.splice(0, count) as Job[];
  }

  /** While an engine with batches computes one, the next is prepared. */
  private async answer(jobs: Job[]): Promise<void> {
    let batch = await this.prepareAll(jobs);
    while (batch.length) {
      const [{ job }] = batch;
      const answered = this.answerBatch(batch);
      batch = this.info.batchSize > 1 && !this.isDisposed ? await this.prepareAll(this.takeJobs(job)) : [];
      await answered;
    }
  }

  private async prepareAll(jobs: Job[]): Promise<Prepared[]> {
    const batch: Prepared[] = [];
    for (const job of jobs) {
      try {
        batch.push(await this.prepare(job));
      } catch (error) {
        job.reject(error);
      }
    }
    return batch;
  }

  private async answerBatch(batch: Prepared[]): Promise<void> {
    const start = performance.now();
    try {
      const outputs = await this.infer(batch);
      const inference = (performance.now() - start) / batch.length;
      const { variant } = this.manifest;
      const { name: engine } = this.engine.engine;
      for (const [i, { job, pick, preprocessMs: preprocess }] of batch.entries()) {
        try {
          throwIfAborted(job.signal);
          const { features, blockMs, attention, groups } = this.readable(outputs[i]);
          const picked = pick(outputs[i]);
          const insight = { ...(blockMs && { blockMs }), ...(attention && { attention }), ...(groups && { groups }) };
          const latencyMs = { preprocess, inference };
          job.resolve({ ...picked, latencyMs, engine, variant, ...insight, features, ...this.newInfo() });
        } catch (error) {
          job.reject(error);
        }
      }
    } catch (error) {
      for (const { job } of batch) job.reject(error);
    }
  }

  private async prepare(job: Job): Promise<Prepared> {
    const { image: transferred, request, signal } = job;
    throwIfAborted(signal);
    if (this.isDisposed) throw new SlimViTError("disposed", "The model was disposed of.");
    const { preprocess, name } = this.manifest;
    const pick =
      request.want === "classes"
        ? await classPicker(this.manifest, request, this.rule)
        : ({ features }: RunOutput) => {
            checkFinite(features, name);
            return { classes: [] };
          };
    if ("pixels" in transferred) return { job, pixels: transferred.pixels, pick, preprocessMs: 0 };
    const start = performance.now();
    const { image, region } = await readImage(transferred, request.region, preprocess, signal);
    const pixels = preprocessWith(this.resample, image, preprocess, region);
    throwIfAborted(signal);
    return { job, pixels, pick, preprocessMs: performance.now() - start };
  }

  private async infer(batch: Prepared[]): Promise<RunOutput[]> {
    if (batch.length > 1) return this.engine.runBatch(batch.map(({ pixels }) => pixels));
    const [{ job, pixels }] = batch;
    const { profile, explain } = job.request;
    return [await this.engine.run(pixels, { profile, explain, signal: job.signal })];
  }

  private readable(output: RunOutput): RunOutput {
    const { attention, groups } = output;
    if (!attention || !groups) return output;
    return { ...output, attention: attentionOverPatches(this.manifest, attention, groups) };
  }

  private newInfo(): { info?: ModelInfo } {
    if (this.info === this.sentInfo) return {};
    this.sentInfo = this.info;
    return { info: this.info };
  }
}
