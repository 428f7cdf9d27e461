/** The rank of the right class, where scores may tie or be NaN. */

/**
 * The number of other classes that score at least as high as the right one: 0 where it alone is best. Ties count
 * against it, because a network that knows nothing gives every class the same score.
 *
 * @returns Infinity where a score is NaN
 */
export function rankOf(scores: ArrayLike<number>, right: number): number {
  let rank = 0;
  for (let k = 0; k < scores.length; k++) {
    if (Number.isNaN(scores[k])) return Number.POSITIVE_INFINITY;
    if (k !== right && scores[k] >= scores[right]) rank++;
  }
  return rank;
}

/** The class that scores higher than all others; undefined where there is none, or a score is NaN. */
export function bestClass(scores: ArrayLike<number>): number | undefined {
  let best = 0;
  for (let k = 1; k < scores.length; k++) if (scores[k] > scores[best]) best = k;
  return scores.length > 0 && rankOf(scores, best) === 0 ? best : undefined;
}
