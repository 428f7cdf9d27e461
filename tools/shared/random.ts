/**
 * Random numbers without state: every draw is a function of a seed and of where it is used (epoch, picture, step). So a
 * resumed run continues exactly as the killed one, without a stored random state.
 */
export type Random = () => number;

/** Uniform in [0, 1), 32 bits; `keys` are mixed into one starting point. */
export function random(...keys: number[]): Random {
  let state = 0x9e3779b9;
  for (const key of keys) state = scramble(state ^ scramble(key >>> 0));
  return () => {
    state = (state + 0x9e3779b9) | 0;
    return (scramble(state) >>> 0) / 2 ** 32;
  };
}

/** The 32-bit finaliser of splitmix32, by its published constants. */
function scramble(x: number): number {
  x = Math.imul(x ^ (x >>> 16), 0x21f0aaad);
  x = Math.imul(x ^ (x >>> 15), 0x735a2d97);
  return x ^ (x >>> 15);
}

/** Fisher–Yates, on a copy. */
export function shuffled<T>(items: readonly T[], rng: Random): T[] {
  const out = [...items];
  for (let i = out.length - 1; i > 0; i--) {
    const j = Math.floor(rng() * (i + 1));
    [out[i], out[j]] = [out[j], out[i]];
  }
  return out;
}

/** Beta(a, a) by Jöhnk’s rejection. */
export function beta(a: number, rng: Random): number {
  if (a === 1) return rng();
  for (;;) {
    const x = rng() ** (1 / a);
    const y = rng() ** (1 / a);
    if (x + y > 0 && x + y <= 1) return x / (x + y);
  }
}
