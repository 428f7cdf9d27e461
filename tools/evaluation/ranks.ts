/** How a picture's classes are ranked by their logits. What is not known for sure is not right: ties and NaN. */

/** How many other classes do not score below the right one; infinite where a logit is NaN. */
export function rankOf(logits: ArrayLike<number>, right: number): number {
  const values = Array.from(logits);
  if (values.some(Number.isNaN)) return Number.POSITIVE_INFINITY;
  return values.filter((v, k) => k !== right && v >= values[right]).length;
}

/** The one class that scores above all others; −1 where there is none. */
export function bestClass(logits: ArrayLike<number>): number {
  const values = Array.from(logits);
  const best = values.indexOf(Math.max(...values));
  return best >= 0 && rankOf(values, best) === 0 ? best : -1;
}
