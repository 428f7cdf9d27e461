/** Chooses the variant that meets a budget here. Measures few variants and predicts the others from their MACs. */
import type { Variant } from "../../format/model.ts";

/** What is known of a variant's time. */
export interface Timed {
  /** Infinity for a variant that does not run here */
  ms: number;
  /** why it does not run */
  fault?: string;
}

export interface Choice {
  name: string;
  meets: boolean;
  reason: string;
}

/** A variant is not measured if two measured ones predict that it exceeds the budget by this factor. */
const MARGIN = 1.25;

/** At most this many variants are read and measured. */
const MAX_MEASURED = 5;

interface Accuracy {
  top1?: unknown;
  n?: unknown;
}

/**
 * Cheapest first. Where all accuracies are measured, a variant that is no more accurate than a cheaper one is left out.
 */
export function worthHaving(variants: readonly Variant[]): Variant[] {
  const sorted = [...variants].sort((a, b) => a.macs - b.macs);
  const accuracies = sorted.map(accuracyOf);
  if (accuracies.some((accuracy) => accuracy === undefined)) return sorted;
  return sorted.filter((_, i) => accuracies.slice(0, i).every((other) => other! < accuracies[i]!));
}

/** The accuracy that was measured on the most pictures. */
function accuracyOf({ metrics }: Variant): number | undefined {
  const entries = (Array.isArray(metrics.accuracy) ? metrics.accuracy : []) as Accuracy[];
  const [best] = entries
    .filter((entry) => typeof entry?.top1 === "number")
    .sort((a, b) => Number(b.n) - Number(a.n) || Number(b.top1) - Number(a.top1));
  return best?.top1 as number | undefined;
}

/**
 * Finds the most accurate variant within a budget. The cheapest is measured first, as it is loaded already; then the
 * most accurate one that is predicted to meet the budget, and so on between the best that meets it and the cheapest
 * that does not.
 *
 * @param variants as `worthHaving` has them
 * @param known what is known already, by name; new measurements are added to it
 */
export async function choose(
  variants: readonly Variant[],
  budgetMs: number,
  measure: (name: string) => Promise<Timed>,
  known: Map<string, Timed>,
): Promise<Choice> {
  let left = MAX_MEASURED;
  for (;;) {
    const times = variants.map(({ name }) => known.get(name));
    const next = nextToMeasure(variants, budgetMs, times);
    if (next === undefined || left-- === 0) return conclude(variants, budgetMs, times);
    const { name } = variants[next];
    known.set(name, await measure(name));
  }
}

type Times = (Timed | undefined)[];

/** @returns the variant to measure next; undefined when no other can be the answer */
function nextToMeasure(variants: readonly Variant[], budgetMs: number, known: Times): number | undefined {
  const { meets, over } = around(budgetMs, known);
  if (meets < 0) return known[0] ? undefined : 0;
  for (let i = over - 1; i > meets; i--) if (predictMs(variants, known, i) <= budgetMs) return i;
  const above = meets + 1;
  if (above === over) return undefined;
  const isSure = known.filter((one) => one && one.ms < Number.POSITIVE_INFINITY).length > 1;
  return isSure && predictMs(variants, known, above) > MARGIN * budgetMs ? undefined : above;
}

/**
 * Indices of the best variant that meets the budget (−1 where none does) and of the cheapest above it that does not.
 */
function around(budgetMs: number, known: Times): { meets: number; over: number } {
  const meets = known.findLastIndex((one) => one && one.ms <= budgetMs);
  const over = known.findIndex((one, i) => i > meets && one && one.ms > budgetMs);
  return { meets, over: over < 0 ? known.length : over };
}

/**
 * Predicts on the line through the two nearest measured variants; or in proportion to the MACs of the nearest, where
 * there is only one, or where that is less: beyond some size a device may slow down at once.
 */
export function predictMs(variants: readonly Pick<Variant, "macs">[], known: Times, index: number): number {
  const { macs } = variants[index];
  const near = variants
    .map((variant, i) => ({ macs: variant.macs, ms: known[i]?.ms ?? Number.POSITIVE_INFINITY }))
    .filter(({ ms }) => ms < Number.POSITIVE_INFINITY)
    .sort((a, b) => Math.abs(a.macs - macs) - Math.abs(b.macs - macs));
  const [a, b] = near;
  const below = near.find((one) => one.macs < macs) ?? a;
  const inProportion = (below.ms / below.macs) * macs;
  if (!b) return inProportion;
  const slope = Math.max(0, (b.ms - a.ms) / (b.macs - a.macs)); // a negative slope is noise
  return Math.min(inProportion, Math.max(0, a.ms + slope * (macs - a.macs)));
}

function conclude(variants: readonly Variant[], budgetMs: number, known: Times): Choice {
  const describe = (i: number) => {
    const { ms, fault } = known[i]!;
    const { name } = variants[i];
    return fault ? `"${name}" is not used (${fault})` : `"${name}" takes ${ms.toPrecision(3)} ms here, measured`;
  };
  const { meets } = around(budgetMs, known);
  if (meets < 0) {
    const fastest = known.reduce((best, one, i) => (one && one.ms < known[best]!.ms ? i : best), 0);
    const reason = `no variant takes at most ${budgetMs} ms; the fastest, ${describe(fastest)}`;
    return { name: variants[fastest].name, meets: false, reason };
  }
  const above = meets + 1;
  const next =
    above === variants.length
      ? "it is the most accurate"
      : known[above]
        ? describe(above)
        : `"${variants[above].name}" is predicted to take ${predictMs(variants, known, above).toPrecision(3)} ms`;
  const reason = `the most accurate within ${budgetMs} ms: ${describe(meets)}; ${next}`;
  return { name: variants[meets].name, meets: true, reason };
}
