/** Our own engine on the GPU: at most five dispatches a block, all in one submission. */
import { messageOf, SlimViTError, throwIfAborted } from "../../errors.ts";
import type { Model } from "../../format/model.ts";
import { adapterName, isSoftwareAdapter } from "../adapter.ts";
import type { Engine, EngineOptions, RunOptions, RunOutput } from "../engine.ts";
import { DeviceWatch, queue, requestDevice } from "../gpuDevice.ts";
import { writePairs } from "../mergePairs.ts";
import { makePlan } from "./plan.ts";
import { timeBlocks } from "./profile.ts";
import { readExplanation, readOutputs } from "./results.ts";
import type { Plan } from "./steps.ts";
import type { Target } from "./tiles.ts";
import { DeviceCache, type Dispatch, Workspace } from "./workspace.ts";

const NAME = "webgpu";

/** Pictures in one submission. More would hold memory and make an abort wait. */
export const MAX_BATCH = 32;

/**
 * Compiles every shader before it returns, without holding the thread.
 *
 * @throws SlimViTError `unsupported` without an adapter or for a network that it does not compute, `out-of-memory`,
 * `device-lost`
 */
export async function openWebgpu(model: Model, _options: EngineOptions = {}): Promise<WebgpuEngine> {
  const device = await requestDevice(NAME, { features: ["timestamp-query"], limits: [] });
  const watch = new DeviceWatch(NAME, device);
  try {
    return await watch.guard(() => WebgpuEngine.open(device, watch, model));
  } catch (error) {
    watch.close();
    throw error;
  }
}

export class WebgpuEngine implements Engine {
  readonly name = NAME;
  readonly threads = 1;
  readonly batchSize = MAX_BATCH;
  /**
   * Milliseconds that the last call took to hand over its pictures and to write its commands. What `submit` takes is left out:
   * in Node the driver itself works there.
   */
  encodeMs = 0;
  private disposed = false;
  private readonly inTurn = queue();
  /** for more than one picture, made when they first come */
  private batches: Workspace | undefined;
  /** Pictures of which the GPU has memory for a batch, as far as is known. */
  private room: number;

  private constructor(
    private readonly cache: DeviceCache,
    private readonly watch: DeviceWatch,
    private readonly model: Model,
    private readonly target: Target,
    private readonly single: Workspace,
  ) {
    this.room = roomFor(single.plan, cache.device.limits);
  }

  /** `openWebgpu` closes the device where this fails. */
  static async open(device: GPUDevice, watch: DeviceWatch, model: Model): Promise<WebgpuEngine> {
    const isSoftware = isSoftwareAdapter(adapterName(device.adapterInfo ?? {}));
    const packed = !isSoftware && !!navigator.gpu.wgslLanguageFeatures?.has("packed_4x8_integer_dot_product");
    const target: Target = { packed, isSoftware };
    const cache = new DeviceCache(device);
    try {
      return new WebgpuEngine(cache, watch, model, target, await openWorkspace(cache, model, 1, target));
    } catch (error) {
      cache.destroy();
      throw error;
    }
  }

  /** weights and activations, those for batches too once they have come */
  get memoryBytes(): number {
    return this.cache.memoryBytes + this.single.memoryBytes + (this.batches?.memoryBytes ?? 0);
  }

  get dispatches(): number {
    return this.single.dispatches.length;
  }

  async run(pixels: Float32Array, options: RunOptions = {}): Promise<RunOutput> {
    const [output] = await this.runBatch([pixels], options);
    return output;
  }

  /**
   * Pictures in submissions of up to `MAX_BATCH`; the next is uploaded while the one before is computed. An abort is seen
   * between submissions.
   *
   * @param pixels each [3, height, width], normalised
   * @throws SlimViTError `bad-input`, `disposed`, `aborted`, `device-lost`; `bad-option` for pairs that cannot merge;
   * `unsupported` for `profile`, `explain` or `forcedPairs` of several
   */
  async runBatch(pixels: readonly Float32Array[], options: RunOptions = {}): Promise<RunOutput[]> {
    this.checkCall(pixels, options);
    return this.inTurn(() =>
      this.watch.guard(async () => {
        if (this.disposed) throw disposedError();
        throwIfAborted(options.signal);
        if (pixels.length === 1) return [await this.runOne(pixels[0], options)];
        return this.runMany(pixels, options.signal);
      }),
    );
  }

  /** Ends the device, and with it every buffer. Idempotent. */
  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    this.single.destroy();
    this.batches?.destroy();
    this.cache.destroy();
    this.watch.close();
  }

  private checkCall(pixels: readonly Float32Array[], { signal, profile, explain, forcedPairs }: RunOptions): void {
    if (this.disposed) throw disposedError();
    throwIfAborted(signal);
    const [height, width] = this.model.manifest.imageSize;
    const expected = 3 * height * width;
    const wrong = pixels.find(({ length }) => length !== expected);
    if (wrong) throw new SlimViTError("bad-input", `pixels has ${wrong.length} numbers; expected ${expected}.`);
    if (pixels.length > 1 && (profile || explain || forcedPairs)) {
      throw new SlimViTError(
        "unsupported",
        `profile, explain and forcedPairs are of one picture; this call has ${pixels.length}. Run them one by one.`,
      );
    }
  }

  private async runOne(pixels: Float32Array, options: RunOptions): Promise<RunOutput> {
    const { signal, profile, explain } = options;
    const { single } = this;
    const dispatches = this.choosePairs(options);
    if (profile) {
      single.upload([pixels]);
      const blockMs = await timeBlocks(this.device, single, dispatches, !!explain);
      return { ...(await this.collect(explain)), blockMs };
    }
    const output = this.outputOf(await this.read(this.submit(single, [pixels], dispatches, explain)), explain);
    throwIfAborted(signal);
    return output;
  }

  /** @returns the buffer that receives the results */
  private submit(
    workspace: Workspace,
    pictures: readonly Float32Array[],
    dispatches: readonly Dispatch[],
    explain = false,
  ): GPUBuffer {
    const start = performance.now();
    workspace.upload(pictures);
    const encoder = this.device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    for (const [i, dispatch] of dispatches.entries()) {
      workspace.encode(pass, dispatch);
      if (!explain || dispatches[i + 1]?.block === dispatch.block) continue;
      const map = workspace.explain[dispatch.block];
      if (map) workspace.encode(pass, map);
    }
    pass.end();
    const results = workspace.encodeResults(encoder, explain);
    const commands = encoder.finish();
    this.encodeMs = performance.now() - start;
    this.device.queue.submit([commands]);
    return results;
  }

  /** Uploads the pairs that must merge, if there are. @returns the dispatches of the run, without those that choose pairs */
  private choosePairs({ forcedPairs }: RunOptions): Dispatch[] {
    const { single, model } = this;
    if (!forcedPairs) return single.dispatches;
    single.plan.merges.forEach((merge, block) => {
      if (!merge) return;
      const partners = new Int32Array(merge.oddPatches);
      writePairs(forcedPairs[block] ?? [], partners, model.manifest, block);
      single.forcePairs(block, partners);
    });
    return single.dispatches.filter(({ choosesPairs }) => !choosesPairs);
  }

  private async runMany(pixels: readonly Float32Array[], signal?: AbortSignal): Promise<RunOutput[]> {
    const outputs: RunOutput[] = [];
    if (pixels.length === 0) return outputs;
    const workspace = await this.batchWorkspace(Math.min(pixels.length, MAX_BATCH));
    let pending: Promise<RunOutput[]> | undefined;
    try {
      for (let at = 0; at < pixels.length; at += workspace.capacity) {
        throwIfAborted(signal);
        const chunk = pixels.slice(at, at + workspace.capacity);
        const before = pending;
        pending = this.read(this.submit(workspace, chunk, workspace.dispatches)).then((data) =>
          readOutputs(data, workspace, this.model.manifest, chunk.length),
        );
        pending.catch(() => {}); // The await below reports it; an abort before that must not leave it unhandled.
        if (before) outputs.push(...(await before));
      }
      outputs.push(...(await pending!));
    } finally {
      await pending?.catch(() => {}); // The next call may use its buffer.
    }
    throwIfAborted(signal);
    return outputs;
  }

  /**
   * A workspace for at least that many pictures, rounded up to a power of two so that it seldom grows; for fewer where
   * they do not fit.
   */
  private async batchWorkspace(pictures: number): Promise<Workspace> {
    for (;;) {
      const capacity = Math.min(2 ** Math.ceil(Math.log2(pictures)), this.room);
      if (this.batches && this.batches.capacity >= capacity) return this.batches;
      this.batches?.destroy();
      this.batches = undefined;
      try {
        this.batches = await openWorkspace(this.cache, this.model, capacity, this.target);
      } catch (error) {
        if (capacity === 1 || (error as SlimViTError).code !== "out-of-memory") throw error;
        this.room = capacity / 2;
      }
    }
  }

  private async collect(explain?: boolean): Promise<RunOutput> {
    const encoder = this.device.createCommandEncoder();
    const results = this.single.encodeResults(encoder, !!explain);
    this.device.queue.submit([encoder.finish()]);
    return this.outputOf(await this.read(results), explain);
  }

  private outputOf(data: Float32Array, explain?: boolean): RunOutput {
    const { single, model } = this;
    const [output] = readOutputs(data, single, model.manifest, 1);
    return explain ? { ...output, ...readExplanation(data, single, model.manifest) } : output;
  }

  /** Copies the results that the GPU has written. */
  private async read(results: GPUBuffer): Promise<Float32Array> {
    const mapped = results.mapAsync(GPUMapMode.READ);
    await this.wake(mapped);
    const data = new Float32Array(results.getMappedRange()).slice();
    results.unmap();
    return data;
  }

  /** Firefox asks every 100 ms whether a buffer is mapped; an empty submission makes it ask at once. */
  private async wake(mapped: Promise<unknown>): Promise<void> {
    if (!/Firefox/.test(navigator.userAgent ?? "")) return void (await mapped);
    let isPending = true;
    const settle = () => {
      isPending = false;
    };
    mapped.then(settle, settle);
    while (isPending) {
      this.device.queue.submit([]);
      await Promise.race([mapped, new Promise((resolve) => setTimeout(resolve, 1))]);
    }
    await mapped;
  }

  private get device(): GPUDevice {
    return this.cache.device;
  }
}

/** Pictures of which the largest buffer can be bound whole. */
function roomFor({ floats }: Plan, { maxStorageBufferBindingSize }: GPUSupportedLimits): number {
  const most = maxStorageBufferBindingSize / (4 * Math.max(...Object.values(floats)));
  return 2 ** Math.floor(Math.log2(Math.min(MAX_BATCH, Math.max(1, most))));
}

function disposedError(): SlimViTError {
  return new SlimViTError("disposed", "The engine has been disposed of.");
}

/** @throws SlimViTError `out-of-memory`, and `unsupported` for what the device refuses */
async function openWorkspace(cache: DeviceCache, model: Model, pictures: number, target: Target): Promise<Workspace> {
  const { device } = cache;
  device.pushErrorScope("out-of-memory");
  device.pushErrorScope("validation");
  let opened: Workspace | undefined;
  let failure: unknown;
  try {
    opened = await Workspace.open(cache, makePlan(model, pictures, target), pictures);
  } catch (error) {
    failure = error;
  }
  const refused = await device.popErrorScope();
  const full = await device.popErrorScope();
  if (opened && !refused && !full) return opened;
  opened?.destroy();
  if (failure instanceof SlimViTError) throw failure;
  const message = full?.message ?? refused?.message ?? messageOf(failure);
  throw full
    ? new SlimViTError(
        "out-of-memory",
        `Engine "${NAME}" got no memory for ${model.manifest.name} on the GPU: ${message}`,
      )
    : new SlimViTError("unsupported", `Engine "${NAME}" cannot run ${model.manifest.name} on this GPU: ${message}`);
}
