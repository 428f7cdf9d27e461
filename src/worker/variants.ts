/** The variants of a loaded folder: which one runs, how long each takes here, and how another takes its place. */
import type { OpenOptions } from "../engines/auto.ts";
import { RecoveringEngine } from "../engines/recovery.ts";
import { messageOf, throwIfAborted } from "../errors.ts";
import type { Manifest } from "../format/model.ts";
import { currentVariants, withVariant } from "../format/variants.ts";
import { selfTestPixels } from "../format/write.ts";
import type { LoadedModel } from "../loading/loadModel.ts";
import type { EngineName, VariantChoice } from "../protocol.ts";
import { choose, type Timed, worthHaving } from "./choice.ts";

/** Runs before the clock, for caches and compilers; timed runs, and milliseconds after which no other is begun. */
const WARM_UP = 1;
const RUNS = 5;
const ENOUGH_MS = 300;

/** Without a budget of the caller's: what still feels immediate. */
export const DEFAULT_LATENCY_MS = 50;

/** The network that answers. */
export interface Running {
  manifest: Manifest;
  engine: RecoveringEngine;
}

/** Does work when no call is being answered. */
export type InTurn = <T>(work: () => Promise<T>) => Promise<T>;

interface Opening {
  loaded: LoadedModel;
  engineName: EngineName | "auto";
  options: OpenOptions;
}

export class Variants {
  private readonly times = new Map<string, Timed>();
  /** slabs that are there */
  private slabs: number;

  /** @param running the first one */
  constructor(
    public running: Running,
    private readonly opening: Opening,
  ) {
    this.slabs = this.slabsOf(running.manifest.variant);
  }

  /** Those that run without a download. */
  get ready(): string[] {
    return this.running.manifest.variants.map(({ name }) => name).filter((name) => this.slabsOf(name) <= this.slabs);
  }

  /**
   * Makes a variant the one that runs. Of an engine that has it already only the plan changes; else another engine is opened,
   * while the running one goes on answering.
   *
   * @throws SlimViTError as `loadModel` and `openEngine`; the running one stays then
   */
  async use(name: string, inTurn: InTurn): Promise<void> {
    if (this.isInPlace(name)) return inTurn(async () => this.swap(name));
    const manifest = withVariant(this.running.manifest, name); // `bad-option` for a name that is none
    const { loaded, engineName, options } = this.opening;
    const model = await loaded.loadVariant(name);
    const engine = await RecoveringEngine.open(engineName, model, options);
    try {
      await inTurn(async () => {
        throwIfAborted(options.signal);
        const before = this.running.engine;
        this.running = { manifest, engine };
        before.dispose();
      });
    } catch (error) {
      engine.dispose();
      throw error;
    }
    this.slabs = Math.max(this.slabs, this.slabsOf(name));
    if (engine.engine.variants) loaded.release(); // it has all that was read
  }

  /** Whether the running engine has a variant already. */
  isInPlace(name: string): boolean {
    const { manifest, engine } = this.running;
    return name === manifest.variant || engine.engine.variants?.includes(name) === true;
  }

  /** @param name of a variant that is in place */
  swap(name: string): void {
    const { manifest, engine } = this.running;
    if (name === manifest.variant) return;
    engine.engine.use!(name);
    this.running = { manifest: withVariant(manifest, name), engine };
  }

  /**
   * The best that meets a budget here. What was measured counts for later budgets too. A variant that cannot be had or does
   * not run is passed over, and the choice says why.
   */
  async choose(latencyMs: number, inTurn: InTurn): Promise<VariantChoice & { name: string }> {
    const variants = worthHaving(currentVariants(this.running.manifest));
    const { name, meets, reason } = await choose(variants, latencyMs, (one) => this.measure(one, inTurn), this.times);
    const measured = [...this.times].map(([variant, { ms, fault }]) => ({
      variant,
      ...(Number.isFinite(ms) && { ms }),
      ...(fault !== undefined && { fault }),
    }));
    return { name, latencyMs, meets, reason, measured };
  }

  private async measure(name: string, inTurn: InTurn): Promise<Timed> {
    try {
      if (!this.isInPlace(name)) await this.use(name, inTurn);
      return { ms: await inTurn(() => this.time(name)) };
    } catch (error) {
      throwIfAborted(this.opening.options.signal);
      return { ms: Number.POSITIVE_INFINITY, fault: messageOf(error) };
    }
  }

  /** Median milliseconds of inference. */
  private async time(name: string): Promise<number> {
    this.swap(name);
    const { manifest, engine } = this.running;
    const pixels = selfTestPixels(manifest, 1);
    const times: number[] = [];
    const start = performance.now();
    for (let run = 0; run < WARM_UP + RUNS; run++) {
      throwIfAborted(this.opening.options.signal);
      const from = performance.now();
      await engine.run(pixels, {});
      if (run >= WARM_UP) times.push(performance.now() - from);
      if (times.length && performance.now() - start > ENOUGH_MS) break;
    }
    return times.sort((a, b) => a - b)[times.length >> 1];
  }

  private slabsOf(name: string): number {
    return this.running.manifest.variants.find((variant) => variant.name === name)?.slabs ?? 1;
  }

  dispose(): void {
    this.running.engine.dispose();
  }
}
