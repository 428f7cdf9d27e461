/** The variants of a loaded folder: the running one, the latency of each on this device, and the change to another. */
import { messageOf, throwIfAborted } from "../../errors.ts";
import type { Manifest, Model } from "../../format/model.ts";
import { currentVariants, withVariant } from "../../format/variants.ts";
import { selfTestPixels } from "../../format/write.ts";
import type { UseRequest, VariantChoice } from "../../protocol.ts";
import type { LastingEngine } from "../engine.ts";
import { choose, type Timed, worthHaving } from "./choice.ts";

/** Untimed runs that warm up caches and compilers; timed runs; milliseconds after which no further run is started. */
const WARM_UP = 1;
const RUNS = 5;
const ENOUGH_MS = 300;

/** The budget in ms where the caller gives none: an answer in this time still feels immediate. */
const DEFAULT_LATENCY_MS = 50;

/** The network that answers. */
export interface Running<E extends LastingEngine> {
  manifest: Manifest;
  engine: E;
}

/** Does work when no call is being answered. */
export type InTurn = <T>(work: () => Promise<T>) => Promise<T>;

export interface Opening<E extends LastingEngine> {
  /** reads another variant's model; lets go of what it has read */
  loader: { loadVariant(name: string): Promise<Model>; release(): void };
  openEngine: (model: Model) => Promise<E>;
  signal: AbortSignal;
  inTurn: InTurn;
}

export class Variants<E extends LastingEngine> {
  /** with which calls are answered that name no variant */
  chosen: string;
  /** Which variants run without a download, and how one was chosen. Another object when that changes. */
  known: { ready: string[]; choice?: VariantChoice };
  private readonly times = new Map<string, Timed>();
  /** variants are fetched and measured one after the other */
  private fetching: Promise<unknown> = Promise.resolve();

  /** @param running the first one */
  constructor(
    public running: Running<E>,
    private readonly opening: Opening<E>,
  ) {
    this.chosen = running.manifest.variant;
    this.known = { ready: this.upTo(this.chosen) };
  }

  /** Goes on to the best variant within the budget, while the first one answers. */
  async settle(latencyMs = DEFAULT_LATENCY_MS): Promise<void> {
    this.chosen = await this.choose(latencyMs);
  }

  /**
   * Makes sure that a variant's weights are loaded.
   *
   * @returns its name
   * @throws SlimViTError as `loadModel` and `openEngine`; what ran before goes on then
   */
  async request({ variant, latencyMs = DEFAULT_LATENCY_MS }: UseRequest): Promise<string> {
    if (variant === undefined) return this.choose(latencyMs);
    if (!this.isInPlace(variant)) await this.afterOthers(() => this.fetch(variant, this.opening.inTurn));
    return variant;
  }

  /**
   * Makes a variant the running one, when no call is being answered. An engine that lacks the variant is opened again.
   */
  async run(name: string): Promise<void> {
    if (this.isInPlace(name)) this.swap(name);
    else await this.fetch(name, (work) => work());
  }

  /**
   * Frees the downloaded bytes when no other variant will be fetched soon. An engine that has copied the weights then
   * alone holds them.
   */
  rest(): void {
    if (this.running.engine.engine.variants) this.opening.loader.release();
  }

  /** @returns the name of the best variant within a budget, which runs from then on */
  private choose(latencyMs: number): Promise<string> {
    const { inTurn } = this.opening;
    return this.afterOthers(async () => {
      const variants = worthHaving(currentVariants(this.running.manifest));
      const { name, meets, reason } = await choose(variants, latencyMs, (one) => this.measure(one), this.times);
      if (this.isInPlace(name)) await inTurn(async () => this.swap(name));
      else await this.fetch(name, inTurn);
      const measured = [...this.times].map(([variant, { ms, fault }]) => ({
        variant,
        ...(Number.isFinite(ms) && { ms }),
        ...(fault !== undefined && { fault }),
      }));
      this.known = { ...this.known, choice: { latencyMs, meets, reason, measured } };
      return name;
    });
  }

  private async afterOthers<T>(work: () => Promise<T>): Promise<T> {
    const working = this.fetching.then(work);
    this.fetching = working.finally(() => this.rest()).catch(() => {});
    return working;
  }

  /**
   * Opens another engine, while the running one goes on answering.
   *
   * @throws SlimViTError as `loadModel` and `openEngine`; the running one stays then
   */
  private async fetch(name: string, inTurn: InTurn): Promise<void> {
    const manifest = withVariant(this.running.manifest, name); // `bad-option` for an unknown name
    const { loader, openEngine, signal } = this.opening;
    const engine = await openEngine(await loader.loadVariant(name));
    try {
      await inTurn(async () => {
        throwIfAborted(signal);
        const before = this.running.engine;
        this.running = { manifest, engine };
        before.dispose();
      });
    } catch (error) {
      engine.dispose();
      throw error;
    }
    if (!this.known.ready.includes(name)) this.known = { ...this.known, ready: this.upTo(name) };
  }

  /** Whether the running engine has a variant already. */
  private isInPlace(name: string): boolean {
    const { manifest, engine } = this.running;
    return name === manifest.variant || engine.engine.variants?.includes(name) === true;
  }

  /** @param name of a variant that is in place */
  private swap(name: string): void {
    const { manifest, engine } = this.running;
    if (name === manifest.variant) return;
    engine.engine.use!(name);
    this.running = { manifest: withVariant(manifest, name), engine };
  }

  /** Measures a variant. One that cannot be loaded or does not run is passed over, and the choice says why. */
  private async measure(name: string): Promise<Timed> {
    const { inTurn, signal } = this.opening;
    try {
      if (!this.isInPlace(name)) await this.fetch(name, inTurn);
      return { ms: await inTurn(() => this.time(name)) };
    } catch (error) {
      throwIfAborted(signal);
      return { ms: Number.POSITIVE_INFINITY, fault: messageOf(error) };
    }
  }

  /** Median milliseconds of inference. */
  private async time(name: string): Promise<number> {
    await this.run(name); // a call may have changed it
    const { manifest, engine } = this.running;
    const pixels = selfTestPixels(manifest, 1);
    const times: number[] = [];
    const start = performance.now();
    for (let run = 0; run < WARM_UP + RUNS; run++) {
      throwIfAborted(this.opening.signal);
      const from = performance.now();
      await engine.run(pixels, {});
      if (run >= WARM_UP) times.push(performance.now() - from);
      if (times.length && performance.now() - start > ENOUGH_MS) break;
    }
    return times.sort((a, b) => a - b)[times.length >> 1];
  }

  /** The variants that need no more slabs than `name`. */
  private upTo(name: string): string[] {
    const { variants } = this.running.manifest;
    const slabsOf = (one: string) => variants.find((variant) => variant.name === one)?.slabs ?? 1;
    return variants.map((variant) => variant.name).filter((one) => slabsOf(one) <= slabsOf(name));
  }
}
