/** One loaded model on one engine: picture → pixels → logits → classes. It lives in the worker; in Node, in the process. */

import { type Chunk, loadChunk } from "../engines/chunks.ts";
import type { EngineOptions } from "../engines/engine.ts";
import { nextMacrotask } from "../engines/nextMacrotask.ts";
import type { OpenedEngine } from "../engines/opening.ts";
import { RecoveringEngine } from "../engines/recovery.ts";
import { checkEngineName, prepareEngine } from "../engines/registry.ts";
import { isWrongResults } from "../engines/selfTest.ts";
import { messageOf, SlimViTError, throwIfAborted } from "../errors.ts";
import { type Manifest, MEANS } from "../format/model.ts";
import { float32 } from "../format/read.ts";
import { readImage } from "../image/decode.ts";
import { preprocessWith, type Resample } from "../image/preprocess.ts";
import { digest } from "../loading/digest.ts";
import { openFolder } from "../loading/folders.ts";
import { type LoadedModel, loadModel } from "../loading/loadModel.ts";
import type {
  LoadLinks,
  LoadRequest,
  ModelInfo,
  RunRequest,
  RunResult,
  TeachRequest,
  TeachResult,
  TransferredImage,
} from "../protocol.ts";
import type { RunOutput } from "../reference/forward.ts";
import { attentionOverPatches } from "../reference/insight.ts";
import { checkFinite, classPicker, type Picked, type Rule } from "./classes.ts";
import { describeEngine, describeModel } from "./info.ts";
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
  private readonly waiting: Job[] = [];
  private isWorking = false;
  private isDisposed = false;
  private opened: OpenedEngine;
  /** what the page knows already */
  private sentInfo: ModelInfo;

  private constructor(
    private currentInfo: ModelInfo,
    private readonly manifest: Manifest,
    private readonly engine: RecoveringEngine,
    private readonly resample: Resample,
    private readonly from: { request: LoadRequest; links: LoadLinks; options: EngineOptions },
    private readonly rule: Rule | undefined,
  ) {
    this.sentInfo = currentInfo;
    this.opened = engine.opened;
  }

  get info(): ModelInfo {
    return this.currentInfo;
  }

  /** @throws SlimViTError as `loadModel` and `openEngine` */
  static async open(request: LoadRequest, links: LoadLinks = {}, signal?: AbortSignal): Promise<Session> {
    checkEngineName(request.engine); // before anything is downloaded, as are the threads
    const threads = chooseThreads(request.threads);
    const { engineUrls, packages, webnn } = request;
    const options = { threads, engineUrls, packages, locate: links.locate, webnn };
    const start = performance.now();
    const first = await loadModel(request, { ...links, signal }, () => {
      void openResampler();
      prepareEngine(request.engine, options);
    });
    const filesMs = performance.now() - start;
    const { loaded, engine } = await openFirstSound(request, first, (model, isLast) =>
      RecoveringEngine.open(request.engine, model, { ...options, signal, keeps: request.cache, mayUseOthers: isLast }),
    );
    if (signal?.aborted) engine.dispose();
    throwIfAborted(signal);
    const { firstRunMs } = engine.opened;
    const loadMs = { files: filesMs, engine: performance.now() - start - filesMs - firstRunMs, firstRun: firstRunMs };
    const { model } = loaded;
    const notes = [...loaded.notes, ...engine.notes];
    const info = describeModel(model, engine.opened, { loadMs, notes, dtypeReason: loaded.dtypeReason });
    const { head } = model.manifest;
    const rule = head?.unknown && { unknown: head.unknown, means: float32(model.tensors, MEANS) };
    return new Session(info, model.manifest, engine, await openResampler(), { request, links, options }, rule);
  }

  /** One call at a time, in the order of arrival; an engine that takes batches gets those that wait together. */
  run(image: Job["image"], request: RunRequest, signal?: AbortSignal): Promise<RunResult> {
    return new Promise((resolve, reject) => {
      this.waiting.push({ image, request, signal, resolve, reject });
      void this.work();
    });
  }

  /** Pictures are answered meanwhile. */
  async teach(request: TeachRequest, signal: AbortSignal, onProgress?: (done: number) => void): Promise<TeachResult> {
    const { answer } = await loadChunk(TEACH, this.from.options);
    const run = (pixels: Float32Array) => this.run({ pixels }, { want: "features" }, signal);
    const { manifest, info, from } = this;
    const host = { manifest, info, ...from, signal, onProgress, run, loadModel, openFolder, digest, nextMacrotask };
    return answer(request, host);
  }

  /** Idempotent. A run that has begun ends first. */
  dispose(): void {
    if (this.isDisposed) return;
    this.isDisposed = true;
    if (!this.isWorking) this.engine.dispose();
  }

  private async work(): Promise<void> {
    if (this.isWorking) return;
    this.isWorking = true;
    while (this.waiting.length) {
      await nextMacrotask(); // lets aborts in, which an engine that never waits would keep out
      const jobs = this.takeJobs();
      try {
        await this.answer(jobs);
      } catch (error) {
        for (const { reject } of jobs) reject(error); // without effect on those that are answered
      }
    }
    this.isWorking = false;
    if (this.isDisposed) this.engine.dispose();
  }

  /** The next job, with those behind it that fit into the same batch. */
  private takeJobs(): Job[] {
    const isPlain = ({ request }: Job) => !request.profile && !request.explain;
    const { batchSize } = this.info;
    let count = 1;
    if (isPlain(this.waiting[0]))
      while (count < Math.min(batchSize, this.waiting.length) && isPlain(this.waiting[count])) count++;
    return this.waiting.splice(0, count);
  }

  private async answer(jobs: Job[]): Promise<void> {
    const batch: Prepared[] = [];
    for (const job of jobs) {
      try {
        batch.push(await this.prepare(job));
      } catch (error) {
        job.reject(error);
      }
    }
    if (!batch.length) return;
    const start = performance.now();
    const outputs = await this.infer(batch);
    const inferenceMs = (performance.now() - start) / batch.length;
    this.noteReplacement();
    for (const [i, { job, pick, preprocessMs }] of batch.entries()) {
      try {
        throwIfAborted(job.signal);
        const { features, blockMs, attention, groups } = this.readable(outputs[i]);
        const picked = pick(outputs[i]);
        const insight = { ...(blockMs && { blockMs }), ...(attention && { attention }), ...(groups && { groups }) };
        job.resolve({ ...picked, features, preprocessMs, inferenceMs, ...insight, ...this.newInfo() });
      } catch (error) {
        job.reject(error);
      }
    }
  }

  private async prepare(job: Job): Promise<Prepared> {
    const { image: transferred, request, signal } = job;
    throwIfAborted(signal);
    if (this.isDisposed) throw new SlimViTError("disposed", "The model was disposed of.");
    const { preprocess, name } = this.manifest;
    const pick =
      request.want === "classes"
        ? classPicker(this.manifest, request, this.rule)
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

  /** After a lost GPU, `info` is that of the engine that took over. */
  private noteReplacement(): void {
    const { opened, notes } = this.engine;
    if (opened === this.opened) return;
    this.opened = opened;
    const allNotes = [...new Set([...this.info.notes, ...notes])];
    this.currentInfo = { ...this.info, ...describeEngine(opened), notes: allNotes };
  }

  private newInfo(): { info?: ModelInfo } {
    if (this.info === this.sentInfo) return {};
    this.sentInfo = this.info;
    return { info: this.info };
  }
}

/** Opens the engine with the preferred weights; with the next ones if it computes wrong results with these. */
async function openFirstSound(
  { engine: wanted }: LoadRequest,
  first: LoadedModel,
  open: (model: LoadedModel["model"], isLast: boolean) => Promise<RecoveringEngine>,
): Promise<{ loaded: LoadedModel; engine: RecoveringEngine }> {
  for (let loaded = first; ; ) {
    const { loadNext } = loaded;
    try {
      return { loaded, engine: await open(loaded.model, !loadNext) };
    } catch (error) {
      if (!loadNext || !isWrongResults(error)) throw error;
      loaded = await loadNext(`with engine "${wanted}": ${messageOf(error)}`);
    }
  }
}
