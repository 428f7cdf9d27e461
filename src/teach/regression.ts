/**
 * Multinomial logistic regression: min over W and b of the mean of −log softmax(W x + b)[class] over the pictures, plus
 * λ/2 ‖W‖². The bias is not penalised.
 */
import { type MinimiseOptions, minimise, type Objective } from "./lbfgs.ts";

/** Pictures of known classes. */
export interface Samples {
  /** [count, dim], centred and of one scale */
  x: Float64Array;
  /** [count]: class of each */
  y: Int32Array;
  count: number;
  dim: number;
  classes: number;
}

/** Classes are computed four at a time, because their sums do not depend on one another. */
const TOGETHER = 4;

/**
 * Weights of all classes. For each four classes, for each input and then for the bias, the four numbers side by side; classes
 * that fill up the last four are zeros.
 */
export type Weights = Float64Array;

export function emptyWeights({ classes, dim }: Pick<Samples, "classes" | "dim">): Weights {
  return new Float64Array(Math.ceil(classes / TOGETHER) * (dim + 1) * TOGETHER);
}

/** The index of a class's weight for `input`; input `dim` is the bias. */
export function placeOf(kind: number, input: number, dim: number): number {
  return (Math.floor(kind / TOGETHER) * (dim + 1) + input) * TOGETHER + (kind % TOGETHER);
}

/** The rows of `chosen`. */
export function pick(samples: Samples, chosen: readonly number[]): Samples {
  const { x, y, dim, classes } = samples;
  const some = new Float64Array(chosen.length * dim);
  chosen.forEach((row, i) => {
    some.set(x.subarray(row * dim, (row + 1) * dim), i * dim);
  });
  return { x: some, y: Int32Array.from(chosen, (row) => y[row]), count: chosen.length, dim, classes };
}

/** @returns [count, classes] */
export function logitsOf(weights: Weights, { x, count, dim, classes }: Samples): Float64Array {
  const out = new Float64Array(count * classes);
  for (let first = 0; first < classes; first += TOGETHER) {
    const w = weights.subarray(placeOf(first, 0, dim), placeOf(first, dim + 1, dim));
    const within = Math.min(TOGETHER, classes - first);
    for (let row = 0; row < count; row++) {
      let [a, b, c, d] = w.subarray(dim * TOGETHER);
      for (let j = 0, at = row * dim, k = 0; j < dim; j++, at++, k += TOGETHER) {
        const v = x[at];
        a += v * w[k];
        b += v * w[k + 1];
        c += v * w[k + 2];
        d += v * w[k + 3];
      }
      const to = row * classes + first;
      out[to] = a;
      if (within > 1) out[to + 1] = b;
      if (within > 2) out[to + 2] = c;
      if (within > 3) out[to + 3] = d;
    }
  }
  return out;
}

/**
 * @param logits [count, classes]; each row becomes softmax less 1 at the right class
 * @returns the sum of −log softmax[class]
 */
export function residuals(logits: Float64Array, { y, count, classes }: Samples): number {
  let loss = 0;
  for (let row = 0, from = 0; row < count; row++, from += classes) {
    let most = logits[from];
    for (let k = 1; k < classes; k++) most = Math.max(most, logits[from + k]);
    const right = logits[from + y[row]] - most;
    let total = 0;
    for (let k = 0; k < classes; k++) {
      const e = Math.exp(logits[from + k] - most);
      logits[from + k] = e;
      total += e;
    }
    for (let k = 0; k < classes; k++) logits[from + k] /= total;
    logits[from + y[row]] -= 1;
    loss += Math.log(total) - right;
  }
  return loss;
}

/** The penalised mean loss. Its preconditioner is the inverse of the inputs' covariance, with the penalty added. */
export class Regression implements Objective {
  constructor(
    private readonly samples: Samples,
    private readonly lambda: number,
    private readonly solve: (values: Float64Array) => void,
  ) {}

  evaluate(at: Weights, gradient: Weights): number {
    const { samples, lambda } = this;
    const { count, dim, classes } = samples;
    const logits = logitsOf(at, samples);
    let value = residuals(logits, samples) / count;
    gradient.fill(0);
    for (let first = 0; first < classes; first += TOGETHER) {
      const from = placeOf(first, 0, dim);
      this.addGradient(logits, first, gradient.subarray(from, placeOf(first, dim + 1, dim)));
      for (let i = from; i < from + dim * TOGETHER; i++) {
        gradient[i] = gradient[i] / count + lambda * at[i];
        value += (lambda / 2) * at[i] * at[i];
      }
      for (let i = from + dim * TOGETHER; i < from + (dim + 1) * TOGETHER; i++) gradient[i] /= count;
    }
    return value;
  }

  /** Adds residual × input for four classes. */
  private addGradient(residual: Float64Array, first: number, g: Float64Array): void {
    const { x, count, dim, classes } = this.samples;
    const within = Math.min(TOGETHER, classes - first);
    for (let row = 0; row < count; row++) {
      const from = row * classes + first;
      const a = residual[from];
      const b = within > 1 ? residual[from + 1] : 0;
      const c = within > 2 ? residual[from + 2] : 0;
      const d = within > 3 ? residual[from + 3] : 0;
      for (let j = 0, at = row * dim, k = 0; j < dim; j++, at++, k += TOGETHER) {
        const v = x[at];
        g[k] += a * v;
        g[k + 1] += b * v;
        g[k + 2] += c * v;
        g[k + 3] += d * v;
      }
      const k = dim * TOGETHER;
      g[k] += a;
      g[k + 1] += b;
      g[k + 2] += c;
      g[k + 3] += d;
    }
  }

  precondition(gradient: Float64Array): void {
    this.solve(gradient);
  }
}

/** @returns how often the loss was evaluated */
export function fitWeights(
  samples: Samples,
  lambda: number,
  start: Weights,
  solve: (values: Float64Array) => void,
  options: MinimiseOptions,
): Promise<number> {
  return minimise(new Regression(samples, lambda, solve), start, options);
}
