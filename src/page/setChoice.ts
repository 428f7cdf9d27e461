/** Which member of a set: measures as few as it takes, and predicts the others from their MACs. */

export interface Measured {
  /** Infinity for one that does not run here */
  ms: number;
  when: "now" | "earlier";
  /** why it does not run */
  fault?: string;
}

export interface Candidate {
  folder: string;
  macs: number;
}

export interface Choice {
  index: number;
  meets: boolean;
  reason: string;
}

/** A member is measured unless it is predicted, from two that were, to be over the budget by this factor. */
export const MARGIN = 1.25;

/** So many are downloaded to be measured, whatever the number of members. */
export const MAX_MEASURED = 5;

/**
 * The cheapest is measured first, as it comes soonest; then the most accurate one that is predicted to meet the budget, and
 * so on between the best that meets it and the cheapest that does not.
 *
 * @param members cheapest first, each more accurate than those before
 * @param known what is known already, a place for each; what is measured is added
 */
export async function choose(
  members: readonly Candidate[],
  budgetMs: number,
  measure: (index: number) => Promise<Measured>,
  known: (Measured | undefined)[],
): Promise<Choice> {
  let left = MAX_MEASURED;
  for (;;) {
    const next = nextToMeasure(members, budgetMs, known);
    if (next === undefined || left-- === 0) return conclude(members, budgetMs, known, next);
    known[next] = await measure(next);
  }
}

/** @returns undefined when no other can be the answer */
function nextToMeasure(
  members: readonly Candidate[],
  budgetMs: number,
  known: (Measured | undefined)[],
): number | undefined {
  const { meets, over } = around(budgetMs, known);
  if (meets < 0) return known[0] ? undefined : 0;
  for (let i = over - 1; i > meets; i--) if (predictMs(members, known, i) <= budgetMs) return i;
  const above = meets + 1;
  if (above === over) return undefined;
  const isSure = known.filter((one) => one && one.ms < Number.POSITIVE_INFINITY).length > 1;
  return isSure && predictMs(members, known, above) > MARGIN * budgetMs ? undefined : above;
}

/** The best that meets the budget, -1 where none does, and the cheapest above it that does not. */
function around(budgetMs: number, known: (Measured | undefined)[]): { meets: number; over: number } {
  const meets = known.findLastIndex((one) => one && one.ms <= budgetMs);
  const over = known.findIndex((one, i) => i > meets && one && one.ms > budgetMs);
  return { meets, over: over < 0 ? known.length : over };
}

/**
 * On the line through the two nearest that were measured; or in proportion to the MACs from the nearest, where there is but
 * one, or where that is less: beyond some size a device may slow down at once.
 */
export function predictMs(
  members: readonly Candidate[],
  known: readonly (Measured | undefined)[],
  index: number,
): number {
  const { macs } = members[index];
  const near = members
    .map((member, i) => ({ macs: member.macs, ms: known[i]?.ms ?? Number.POSITIVE_INFINITY }))
    .filter(({ ms }) => ms < Number.POSITIVE_INFINITY)
    .sort((a, b) => Math.abs(a.macs - macs) - Math.abs(b.macs - macs));
  const [a, b] = near;
  const below = near.find((one) => one.macs < macs) ?? a;
  const inProportion = (below.ms / below.macs) * macs;
  if (!b) return inProportion;
  const slope = Math.max(0, (b.ms - a.ms) / (b.macs - a.macs)); // less of what costs more is noise
  return Math.min(inProportion, Math.max(0, a.ms + slope * (macs - a.macs)));
}

function conclude(
  members: readonly Candidate[],
  budgetMs: number,
  known: readonly (Measured | undefined)[],
  unmeasured: number | undefined,
): Choice {
  const told = (i: number) => {
    const { ms, when, fault } = known[i]!;
    if (fault || ms === Number.POSITIVE_INFINITY) return `${members[i].folder} does not run here`;
    return `${members[i].folder} takes ${show(ms)}, measured ${when === "now" ? "here" : "on an earlier visit"}`;
  };
  const { meets, over } = around(budgetMs, [...known]);
  if (meets < 0) {
    const fastest = known.reduce((best, one, i) => (one && one.ms < known[best]!.ms ? i : best), 0);
    const reason = `no member takes at most ${budgetMs} ms: the fastest, ${told(fastest)}`;
    return { index: fastest, meets: false, reason };
  }
  const above = meets + 1;
  const next =
    above === members.length
      ? "it is the most accurate of all"
      : unmeasured !== undefined
        ? `${members[unmeasured].folder} might, but ${MAX_MEASURED} were measured and no more are`
        : above === over
          ? told(above)
          : `${members[above].folder} would take about ${show(predictMs(members, known, above))}, predicted within ${Math.round(100 * (MARGIN - 1))} %`;
  return {
    index: meets,
    meets: true,
    reason: `the most accurate that takes at most ${budgetMs} ms: ${told(meets)}; ${next}`,
  };
}

/** As fine as a clock tells it. */
const show = (ms: number) => `${ms < 10 ? ms.toFixed(2) : ms.toFixed(1)} ms`;
