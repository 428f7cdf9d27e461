/**
 * L-BFGS for smooth convex functions, with a preconditioner.
 * @see Nocedal and Wright 2006, Numerical Optimization, algorithms 7.4 and 7.5
 */

/** A function of a vector. */
export interface Objective {
  /** @returns the value at `at`; writes the gradient there into `gradient` */
  evaluate(at: Float64Array, gradient: Float64Array): number;
  /** Multiplies in place by an approximation of the inverse Hessian; the better, the fewer steps. */
  precondition(gradient: Float64Array): void;
}

export interface MinimiseOptions {
  /** The search stops when no element of the gradient is larger. */
  tolerance: number;
  /** evaluations at most */
  most: number;
  /** Runs between evaluations; what it throws ends the search. */
  pause?(): Promise<void> | undefined;
}

/** Pairs of steps and gradient differences that are remembered. */
const MEMORY = 12;
/** A step must gain this share of what the gradient promises. */
const SUFFICIENT = 1e-4;
/** The least gain, as a fraction of the value. A smaller one is lost in rounding. */
const LEAST_GAIN = 1e-14;

interface Pair {
  step: Float64Array;
  change: Float64Array;
  curvature: number;
}

/**
 * @param at the start; holds the minimum afterwards
 * @returns how often the function was evaluated
 */
export async function minimise(f: Objective, at: Float64Array, options: MinimiseOptions): Promise<number> {
  const { tolerance, most, pause } = options;
  let gradient = new Float64Array(at.length);
  let value = f.evaluate(at, gradient);
  const pairs: Pair[] = [];
  let evaluations = 1;
  while (evaluations < most && largest(gradient) > tolerance) {
    const direction = descent(f, gradient, pairs);
    const slope = dot(direction, gradient);
    const next = new Float64Array(at.length);
    const nextGradient = new Float64Array(at.length);
    let found = false;
    let gained = 0;
    for (let size = 1; size > 1e-10 && !found && evaluations < most; size /= 2) {
      await pause?.();
      for (let i = 0; i < at.length; i++) next[i] = at[i] + size * direction[i];
      const nextValue = f.evaluate(next, nextGradient);
      evaluations++;
      found = nextValue <= value + SUFFICIENT * size * slope;
      if (found) {
        gained = value - nextValue;
        value = nextValue;
      }
    }
    if (gained <= LEAST_GAIN * Math.abs(value)) return evaluations; // rounding errors are as large as what is left to gain
    remember(pairs, difference(next, at), difference(nextGradient, gradient));
    at.set(next);
    gradient = nextGradient;
  }
  return evaluations;
}

/** The two loops: −H gradient. */
function descent(f: Objective, gradient: Float64Array, pairs: Pair[]): Float64Array {
  const direction = gradient.map((v) => -v);
  const weights = new Float64Array(pairs.length);
  for (let k = pairs.length - 1; k >= 0; k--) {
    weights[k] = dot(pairs[k].step, direction) / pairs[k].curvature;
    addTo(direction, pairs[k].change, -weights[k]);
  }
  f.precondition(direction);
  const last = pairs.at(-1);
  if (last) scaleBy(direction, scaleOf(f, last));
  pairs.forEach(({ step, change, curvature }, k) => {
    addTo(direction, step, weights[k] - dot(change, direction) / curvature);
  });
  return direction;
}

/** The factor from the preconditioner to the inverse Hessian, judged by the newest pair. */
function scaleOf(f: Objective, { change, curvature }: Pair): number {
  const product = change.slice();
  f.precondition(product);
  return curvature / dot(change, product);
}

function remember(pairs: Pair[], step: Float64Array, change: Float64Array): void {
  const curvature = dot(step, change);
  if (!(curvature > 0)) return;
  pairs.push({ step, change, curvature });
  if (pairs.length > MEMORY) pairs.shift();
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

function addTo(to: Float64Array, values: Float64Array, factor: number): void {
  for (let i = 0; i < to.length; i++) to[i] += factor * values[i];
}

function scaleBy(values: Float64Array, factor: number): void {
  for (let i = 0; i < values.length; i++) values[i] *= factor;
}

function difference(a: Float64Array, b: Float64Array): Float64Array {
  return a.map((v, i) => v - b[i]);
}

function largest(values: Float64Array): number {
  let most = 0;
  for (const v of values) most = Math.max(most, Math.abs(v));
  return most;
}
