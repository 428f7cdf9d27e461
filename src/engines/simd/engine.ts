/** Our own engine: WebAssembly kernels (assembly/) that run the whole forward pass in one memory for each model. */
import { messageOf, SlimViTError, throwIfAborted } from "../../errors.ts";
import { type Manifest, type Model, tokenCounts } from "../../format/model.ts";
import type { Engine, EngineOptions, RunOptions, RunOutput, SharedFamily } from "../engine.ts";
import { groupsOf, readPairs, writePairs } from "../mergePairs.ts";
import { nextMacrotask } from "../nextMacrotask.ts";
import { planArea } from "./areaPlan.ts";
import { chooseFlavour, compileKernels, type Flavour } from "./binary.ts";
import { PLAN_MAP_ROWS, SYNC_ACTIVE, SYNC_EPOCH, SYNC_QUIT } from "./layout.ts";
import { type Plan, planMemory } from "./plan.ts";
import { canShareMemory, type Helpers, importsOf, startHelpers } from "./threads.ts";
import { arrange, loadConstants, type Packer, packWeights } from "./weights.ts";

interface Kernels extends Packer {
  /** @param index of this thread; 0 is the main one */
  start(plan: number, index: number): void;
  /** Stages from ≤ stage < to: 0 embeds, 1 … blocks are the blocks, blocks + 1 classifies. */
  run(from: number, to: number): void;
}

/** Loads that a thread makes before it sleeps, some tens of microseconds: a phase is hardly ever longer. */
const SPINS = 40_000;

/** Milliseconds. With a signal, the event loop gets a turn this often, so that the message of an abort arrives. */
const TURN_MS = 8;

const PAGE_BYTES = 65_536;

/** PLAN_MAP_ROWS where the maps are of all queries. */
const ALL_ROWS = 0x7fffffff;

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

/** Opens the engine with a chosen binary, for tests. */
export async function openFlavour(model: Model, options: EngineOptions, flavour: Flavour): Promise<Engine> {
  const wanted = possible(options.threads);
  const family = options.sharedFamily?.(model);
  const opened = await openWith(model, wanted, flavour, family);
  return opened ?? (await openWith(model, 1, flavour, family))!;
}

function possible(threads = 1): number {
  return canShareMemory() ? Math.max(1, Math.floor(threads)) : 1;
}

/** @returns undefined when the threads do not start */
async function openWith(
  model: Model,
  threads: number,
  flavour: Flavour,
  family: SharedFamily | undefined,
): Promise<Engine | undefined> {
  const shared = threads > 1;
  const module = await compileKernels(flavour, shared);
  const area = family && planArea(family, flavour);
  const options = { flavour, threads, spins: SPINS, maySleep: maySleep(), area };
  const planOf = (one: Model) => planMemory(one, options);
  const { plan, cargo } = planOf(family?.largest ?? model);
  const variants = family && new Map([...family.models].map(([name, one]) => [name, () => planOf(one)]));
  const mostBytes = Math.max(plan.bytes, ...[...(variants?.values() ?? [])].map((make) => make().plan.bytes));
  const memory = takeMemory(mostBytes, shared);
  const kernels = (await WebAssembly.instantiate(module, importsOf(memory))).exports as unknown as Kernels;
  loadConstants(cargo, memory);
  const epoch = plan.sync + SYNC_EPOCH * 4;
  const starting = shared ? startHelpers(threads - 1, { module, memory, plan: plan.at, epoch }) : undefined;
  packWeights(cargo, memory, kernels); // while the threads start
  kernels.start(plan.at, 0);
  const helpers = await starting;
  if (shared && !helpers) return undefined;
  const engine = new SimdEngine(
    family?.largest.manifest ?? model.manifest,
    plan,
    memory,
    kernels,
    flavour,
    threads,
    helpers,
  );
  if (family) engine.share(family, planOf);
  engine.use(model.manifest.variant);
  return engine;
}

interface PlannedModel extends ReturnType<typeof planMemory> {
  manifest: Manifest;
}

class SimdEngine implements Engine {
  readonly name = "simd";
  readonly memoryBytes: number;
  /** with several over one copy of the weights */
  variants?: readonly string[];
  private disposed = false;
  private plans?: (variant: string) => PlannedModel;

  constructor(
    private manifest: Manifest,
    private plan: Plan,
    private memory: WebAssembly.Memory | undefined,
    private kernels: Kernels | undefined,
    readonly simd: Flavour,
    readonly threads: number,
    private readonly helpers?: Helpers,
  ) {
    this.memoryBytes = memory!.buffer.byteLength;
  }

  /** @param planOf lays out a variant behind the weights */
  share({ models }: SharedFamily, planOf: (model: Model) => ReturnType<typeof planMemory>): void {
    this.variants = [...models.keys()];
    this.plans = (variant) => {
      const model = models.get(variant)!;
      return { manifest: model.manifest, ...planOf(model) };
    };
  }

  use(variant: string): void {
    if (variant === this.manifest.variant) return;
    if (!this.kernels || !this.memory) throw disposedError();
    const { manifest, plan, cargo } = this.plans!(variant);
    const words = new Int32Array(this.memory.buffer, this.plan.sync);
    while (Atomics.load(words, SYNC_ACTIVE)); // a helper may still look for work of the last run
    new Uint8Array(this.memory.buffer).fill(0, plan.own); // the activations' padding is zeros
    loadConstants(cargo, this.memory);
    arrange(cargo, this.memory, this.kernels);
    this.manifest = manifest;
    this.plan = plan;
  }

  async run(pixels: Float32Array, options: RunOptions = {}): Promise<RunOutput> {
    throwIfAborted(options.signal);
    const { imageSize } = this.manifest;
    const expected = 3 * imageSize[0] * imageSize[1];
    if (pixels.length !== expected) {
      throw new SlimViTError(
        "bad-input",
        `pixels has ${pixels.length} numbers; expected ${expected}, 3 × ${imageSize[0]} × ${imageSize[1]}.`,
      );
    }
    this.view(this.plan.pixels, pixels.length).set(pixels);
    this.setOptions(options);
    const blockMs = await this.runStages(options);
    return {
      logits: this.logits(),
      features: this.copy(this.plan.stream.features, this.plan.stream.featureDim),
      ...(options.profile && { blockMs }),
      ...(options.explain && this.explanation()),
    };
  }

  /** @returns milliseconds of each block, where they or an abort were asked for */
  private async runStages({ signal, profile }: RunOptions): Promise<number[]> {
    const blocks = this.manifest.blocks.length;
    const blockMs: number[] = [];
    if (!signal && !profile) {
      this.stages(0, blocks + 2);
      return blockMs;
    }
    let turn = performance.now();
    for (let stage = 0; stage < blocks + 2; stage++) {
      if (signal && performance.now() - turn > TURN_MS) {
        await nextMacrotask();
        turn = performance.now();
      }
      throwIfAborted(signal);
      const from = performance.now();
      this.stages(stage, stage + 1);
      if (stage > 0 && stage <= blocks) blockMs.push(performance.now() - from);
    }
    return blockMs;
  }

  /** Tells the kernels which pairs to merge, and of which queries the attention is wanted. */
  private setOptions({ explain, forcedPairs }: RunOptions): void {
    const { manifest, plan } = this;
    this.manifest.blocks.forEach(({ merge }, i) => {
      if (!merge) return;
      if (forcedPairs) writePairs(forcedPairs[i] ?? [], this.partners(i), manifest, i);
      this.words(plan.merges[i].forced, 1)[0] = forcedPairs ? 1 : 0;
    });
    if (!manifest.classToken) this.words(plan.at + PLAN_MAP_ROWS * 4, 1)[0] = explain ? ALL_ROWS : 0;
  }

  private logits(): Float32Array {
    const { logits: addresses, classes } = this.plan.stream;
    const [logits, distilled] = addresses.map((at) => this.copy(at, classes));
    if (!distilled) return logits ?? new Float32Array(0);
    return logits.map((v, i) => (v + distilled[i]) / 2);
  }

  private explanation(): Pick<RunOutput, "attention" | "groups" | "pairs"> {
    const { blocks, prefixTokens } = this.manifest;
    const attention = this.plan.stream.maps.map(({ at, tokens }) => this.copy(at, tokens));
    if (!blocks.some(({ merge }) => merge > 0)) return { attention };
    const pairs = blocks.map(({ merge }, i) => (merge ? readPairs(this.partners(i), prefixTokens) : []));
    return { attention, groups: groupsOf(this.manifest, pairs), pairs };
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

  /** The partners that a block's merge chose. */
  private partners(block: number): Int32Array {
    const { entering } = tokenCounts(this.manifest)[block];
    return this.words(this.plan.merges[block].partners, (entering - this.manifest.prefixTokens) >> 1);
  }

  private words(at: number, length: number): Int32Array {
    if (!this.memory) throw disposedError();
    return new Int32Array(this.memory.buffer, at, length);
  }

  private view(at: number, length: number): Float32Array {
    if (!this.memory) throw disposedError();
    return new Float32Array(this.memory.buffer, at, length);
  }

  /** Copies into a buffer that is not shared, because a shared one could not be posted to a page. */
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

/** Whether this thread may wait; a page's own thread may not. */
function maySleep(): boolean {
  return typeof document === "undefined";
}
