/** The engine of our own: WebAssembly kernels (assembly/) that run the whole forward pass over one memory a model. */
import { messageOf, SlimViTError, throwIfAborted } from "../../errors.ts";
import type { Manifest, Model } from "../../format/model.ts";
import type { Engine, EngineOptions, RunOptions, RunOutput } from "../engine.ts";
import { nextMacrotask } from "../nextMacrotask.ts";
import { chooseFlavour, compileKernels, type Flavour } from "./binary.ts";
import { SYNC_EPOCH, SYNC_QUIT } from "./layout.ts";
import { type Plan, planMemory } from "./plan.ts";
import { canShareMemory, type Helpers, importsOf, startHelpers } from "./threads.ts";
import { loadConstants, type Packer, packWeights } from "./weights.ts";

interface Kernels extends Packer {
  /** @param index of this thread; 0 is the main one */
  start(plan: number, index: number): void;
  /** Stages from ≤ stage < to: 0 embeds, 1 … blocks are the blocks, blocks + 1 classifies. */
  run(from: number, to: number): void;
}

/** Loads that a thread makes before it sleeps, some tens of microseconds: a phase is hardly ever longer. */
const SPINS = 40_000;

/** With a signal, the event loop gets a turn this often, or the abort's message would not be seen. */
const TURN_MS = 8;

const PAGE_BYTES = 65_536;

/**
 * @param options.threads taken where memory can be shared and workers start, else one
 * @throws SlimViTError `unsupported` without WebAssembly SIMD, `out-of-memory` when the memory cannot be had
 */
export async function openSimd(model: Model, options: EngineOptions): Promise<Engine> {
  return openFlavour(model, options, chooseFlavour());
}

/** Compiles the kernels, which can be done while the model is on its way. */
export async function prepare({ threads }: EngineOptions): Promise<void> {
  await compileKernels(chooseFlavour(), possible(threads) > 1);
}

/** With a chosen binary, for tests. */
export async function openFlavour(model: Model, { threads }: EngineOptions, flavour: Flavour): Promise<Engine> {
  const wanted = possible(threads);
  const opened = await openWith(model, wanted, flavour);
  return opened ?? (await openWith(model, 1, flavour))!;
}

function possible(threads = 1): number {
  return canShareMemory() ? Math.max(1, Math.floor(threads)) : 1;
}

/** @returns undefined when the threads do not start */
async function openWith(model: Model, threads: number, flavour: Flavour): Promise<Engine | undefined> {
  const shared = threads > 1;
  const module = await compileKernels(flavour, shared);
  const { plan, cargo } = planMemory(model, flavour, threads, SPINS, maySleep());
  const memory = takeMemory(plan.bytes, shared);
  const kernels = (await WebAssembly.instantiate(module, importsOf(memory))).exports as unknown as Kernels;
  loadConstants(cargo, memory);
  const epoch = plan.sync + SYNC_EPOCH * 4;
  const starting = shared ? startHelpers(threads - 1, { module, memory, plan: plan.at, epoch }) : undefined;
  packWeights(cargo, memory, kernels); // meanwhile
  kernels.start(plan.at, 0);
  const helpers = await starting;
  if (shared && !helpers) return undefined;
  return new SimdEngine(model.manifest, plan, memory, kernels, flavour, threads, helpers);
}

class SimdEngine implements Engine {
  readonly name = "simd";
  readonly memoryBytes: number;
  private disposed = false;

  constructor(
    private readonly manifest: Manifest,
    private readonly plan: Plan,
    private memory: WebAssembly.Memory | undefined,
    private kernels: Kernels | undefined,
    readonly simd: Flavour,
    readonly threads: number,
    private readonly helpers?: Helpers,
  ) {
    this.memoryBytes = memory!.buffer.byteLength;
  }

  async run(pixels: Float32Array, { signal, profile, explain }: RunOptions = {}): Promise<RunOutput> {
    throwIfAborted(signal);
    const { plan } = this;
    const { blocks, embedDim, imageSize, prefixTokens, labels } = this.manifest;
    const expected = 3 * imageSize[0] * imageSize[1];
    if (pixels.length !== expected) {
      throw new SlimViTError(
        "bad-input",
        `pixels has ${pixels.length} numbers; expected ${expected}, 3 × ${imageSize[0]} × ${imageSize[1]}.`,
      );
    }
    this.view(plan.pixels, pixels.length).set(pixels);
    const stages = blocks.length + 2;
    const blockMs: number[] = [];
    if (!signal && !profile) this.stages(0, stages);
    else {
      let turn = performance.now();
      for (let stage = 0; stage < stages; stage++) {
        const start = performance.now();
        if (signal && start - turn > TURN_MS) {
          await nextMacrotask();
          turn = performance.now();
        }
        throwIfAborted(signal);
        const from = performance.now();
        this.stages(stage, stage + 1);
        if (stage > 0 && stage <= blocks.length) blockMs.push(performance.now() - from);
      }
    }
    const logits = this.copy(plan.logits[0], labels.length);
    if (prefixTokens === 2) {
      const distilled = this.view(plan.logits[1], labels.length);
      for (let i = 0; i < logits.length; i++) logits[i] = (logits[i] + distilled[i]) / 2;
    }
    return {
      logits,
      features: this.copy(plan.features, embedDim),
      ...(profile && { blockMs }),
      ...(explain && { attention: plan.maps.map(({ at, tokens }) => this.copy(at, tokens)) }),
    };
  }

  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    if (this.helpers) {
      const words = new Int32Array(this.memory!.buffer, this.plan.sync);
      Atomics.store(words, SYNC_QUIT, 1);
      Atomics.add(words, SYNC_EPOCH, 1);
      Atomics.notify(words, SYNC_EPOCH);
      this.helpers.terminate();
    }
    this.memory = undefined;
    this.kernels = undefined; // they hold the memory, too
  }

  private stages(from: number, to: number): void {
    if (!this.kernels) throw disposedError();
    this.kernels.run(from, to);
  }

  private view(at: number, length: number): Float32Array {
    if (!this.memory) throw disposedError();
    return new Float32Array(this.memory.buffer, at, length);
  }

  /** In a buffer of its own, which is not shared: that could not be posted to a page. */
  private copy(at: number, length: number): Float32Array {
    return new Float32Array(this.view(at, length));
  }
}

function disposedError(): SlimViTError {
  return new SlimViTError("disposed", "The engine has been disposed of.");
}

/** @throws SlimViTError `out-of-memory` */
function takeMemory(bytes: number, shared: boolean): WebAssembly.Memory {
  const pages = Math.ceil(bytes / PAGE_BYTES);
  try {
    return new WebAssembly.Memory({ initial: pages, maximum: pages, shared });
  } catch (error) {
    throw new SlimViTError(
      "out-of-memory",
      `The model needs ${Math.ceil(bytes / 2 ** 20)} MiB, which this machine does not give: ${messageOf(error)}`,
      { cause: error },
    );
  }
}

/** A page's own thread may not wait. */
function maySleep(): boolean {
  return typeof document === "undefined";
}
