/** A stream within a latency budget: a smaller variant runs while the device is too slow for the current one. */
import { SlimViTError } from "../errors.ts";
import type { Classification, ModelInfo } from "../protocol.ts";
import type { Client } from "./client.ts";

/** Frames whose median decides: few, to step down soon; more, to step up. A single slow frame is noise. */
const FRAMES = 3;
const MORE_FRAMES = 9;

/** A larger variant has to be predicted to take no more than this share of the budget … */
const ROOM = 0.75;

/** … for so long; after it proved too slow at once, for twice as long, up to the longest. */
const WAIT_MS = 1000;
const LONGEST_WAIT_MS = 4000;

/** A larger variant that is given up again within this time was tried too early. */
const TRIAL_MS = 2000;

/** The data of a frame that the pace depends on. */
type Frame = Pick<Classification, "latencyMs" | "variant">;

/** Milliseconds of a frame. */
interface Times {
  inference: number;
  total: number;
}

type Variants = Pick<ModelInfo["variants"][number], "name" | "macs">[];

/**
 * Chooses the variant of the next frame. Inference is assumed to take time in proportion to the MACs; the rest of a
 * frame is the same for all variants.
 *
 * @param variants any order
 */
export class Pace {
  private readonly sizes: Variants;
  private recent: Times[] = [];
  private roomSince: number | undefined;
  private wait = WAIT_MS;
  /** when a larger variant was tried, until it has held */
  private trialSince: number | undefined;

  constructor(
    private readonly budgetMs: number,
    variants: Variants,
    /** the variant of the next frame */
    public name: string,
    private readonly now: () => number = () => performance.now(),
  ) {
    this.sizes = [...variants].sort((a, b) => a.macs - b.macs);
  }

  /** Takes a frame's times into account. @returns whether the next frame has another variant */
  note({ latencyMs: { inference, total }, variant }: Frame): boolean {
    if (variant !== this.name) return false;
    this.recent = [...this.recent, { inference, total }].slice(-MORE_FRAMES);
    if (this.recent.length < FRAMES) return false;
    const at = this.sizes.findIndex(({ name }) => name === variant);
    const newest = medians(this.recent.slice(-FRAMES));
    const isLate = newest.total > this.budgetMs;
    this.endTrial(!isLate);
    if (isLate) return at > 0 && this.stepDown(at, newest);
    const next = at + 1;
    const hasRoom = next < this.sizes.length && this.predict(at, next, medians(this.recent)) <= ROOM * this.budgetMs;
    if (!hasRoom) this.roomSince = undefined;
    else this.roomSince ??= this.now();
    if (this.roomSince === undefined || this.now() - this.roomSince < this.wait) return false;
    this.trialSince = this.now();
    return this.goTo(next);
  }

  /** Milliseconds of a frame with another variant. */
  private predict(from: number, to: number, { inference, total }: Times): number {
    return Math.max(0, total - inference) + (inference * this.sizes[to].macs) / this.sizes[from].macs;
  }

  private endTrial(holds: boolean): void {
    if (this.trialSince === undefined) return;
    const isOver = this.now() - this.trialSince > TRIAL_MS;
    if (holds && !isOver) return;
    this.trialSince = undefined;
    this.wait = holds || isOver ? WAIT_MS : Math.min(LONGEST_WAIT_MS, 2 * this.wait);
  }

  /** Steps down to the largest variant that is predicted to fit, or to the smallest of all. */
  private stepDown(at: number, newest: Times): boolean {
    let next = at - 1;
    while (next > 0 && this.predict(at, next, newest) > this.budgetMs) next--;
    return this.goTo(next);
  }

  private goTo(index: number): boolean {
    this.name = this.sizes[index].name;
    this.recent = [];
    this.roomSince = undefined;
    return true;
  }
}

function medians(frames: Times[]): Times {
  const median = (of: (frame: Times) => number) => frames.map(of).sort((a, b) => a - b)[frames.length >> 1];
  return { inference: median(({ inference }) => inference), total: median(({ total }) => total) };
}

/**
 * Classifies each frame with the variant that the pace asks for.
 *
 * @throws SlimViTError `bad-option`
 */
export function pacedBy<T>(
  client: Pick<Client, "info" | "infoOf">,
  latencyMs: number,
  classify: (picture: T, variant?: string) => Promise<Classification>,
  onVariant?: (info: ModelInfo) => void,
): (picture: T) => Promise<Classification> {
  if (!(typeof latencyMs === "number" && latencyMs > 0))
    throw new SlimViTError("bad-option", `latencyMs is ${String(latencyMs)}; expected milliseconds above 0.`);
  let pace: Pace | undefined;
  let readyNames = "";
  let changed = false;
  return async (picture) => {
    const ready = client.info.variants.filter((variant) => variant.ready);
    const names = ready.map(({ name }) => name).join();
    if (!pace || names !== readyNames) pace = new Pace(latencyMs, ready, pace?.name ?? client.info.variant);
    readyNames = names;
    const result = await classify(picture, pace.name);
    if (changed) onVariant?.(client.infoOf(result.variant) ?? client.info);
    // The first frame of a variant has waited for the change.
    changed = changed ? false : pace.note(result);
    return result;
  };
}
