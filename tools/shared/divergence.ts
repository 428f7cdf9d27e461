/** The divergence of one distribution from another. */

/** Kullback-Leibler divergence Σ q·ln(q/p) in nats: of what is `wanted`, q, from what is `given`, p. NaN where either has one. */
export function klDivergence(wanted: ArrayLike<number>, given: ArrayLike<number>): number {
  let sum = 0;
  for (let k = 0; k < wanted.length; k++)
    if (wanted[k] !== 0) sum += wanted[k] * Math.log(wanted[k] / Math.max(given[k], Number.MIN_VALUE));
  return sum;
}
