/** Chooses the strength of the penalty by cross-validation. */
import { covarianceOf, solverFor } from "./covariance.ts";
import { emptyWeights, fitWeights, logitsOf, pick, residuals, type Samples, type Weights } from "./regression.ts";

/** The number of folds, if the smallest class has that many pictures. */
const MOST_FOLDS = 5;
/**
 * Values of C of the regression on inputs of one scale, from strong to weak penalties. Stronger ones reduce the fit to
 * a comparison with the classes' means; weaker ones no longer change it.
 */
export const GRID: readonly number[] = Array.from({ length: 8 }, (_, i) => 10 ** (-3 + i / 2));
/** The search ends when this many weaker penalties in a row have done worse. */
const PATIENCE = 2;
/** Tolerance on the gradient of the mean loss; a finer one changes no picture's class. */
const TOLERANCE = 1e-4;
const MOST_EVALUATIONS = 200;

export interface Choice {
  c: number;
  folds: number;
  /** share of the pictures whose class the fit without them gives */
  accuracy: number;
  /** The factor on logits that makes scores match the accuracy; a strong penalty leaves logits too small. */
  sureness: number;
  /** mean of −log of the right class's score, with that factor */
  loss: number;
  /** the fold of each picture */
  foldOf: Int32Array;
  /** of each fold's fit, on all other pictures */
  weights: Weights[];
}

/** λ of the mean loss for C of the summed one. */
export const lambdaOf = (c: number, count: number): number => 1 / (c * count);

/**
 * Splits each class's pictures into `folds` runs of neighbours in the given order. Pictures of one burst of a camera
 * are then mostly in one fold, so that none is judged by a fit that has seen its twin.
 */
export function foldsOf({ y, count, classes }: Samples): { folds: number; foldOf: Int32Array } {
  const sizes = new Int32Array(classes);
  for (const kind of y) sizes[kind]++;
  const folds = Math.min(MOST_FOLDS, ...sizes);
  const seen = new Int32Array(classes);
  const foldOf = new Int32Array(count);
  for (let row = 0; row < count; row++) {
    const kind = y[row];
    // The last fold of one class is the first of the next, so that small classes do not all fill the same folds.
    foldOf[row] = (Math.floor((seen[kind]++ * folds) / sizes[kind]) + kind) % folds;
  }
  return { folds, foldOf };
}

interface Options {
  /** only this one */
  c?: number;
  onProgress?(done: number): void;
  pause?(): Promise<void> | undefined;
}

export async function crossValidate(samples: Samples, { c, onProgress, pause }: Options): Promise<Choice> {
  const { folds, foldOf } = foldsOf(samples);
  const all = Array.from(foldOf.keys());
  const parts = Array.from({ length: folds }, (_, fold) => {
    const rows = all.filter((row) => foldOf[row] === fold);
    const others = all.filter((row) => foldOf[row] !== fold);
    return { rows, known: pick(samples, others), unseen: pick(samples, rows), weights: emptyWeights(samples) };
  });
  const covariance = covarianceOf(samples);
  const grid = c === undefined ? GRID : [c];
  const logits = new Float64Array(samples.count * samples.classes);
  let best: Choice | undefined;
  let worse = 0;
  for (const [step, strength] of grid.entries()) {
    const spread = spreadOf(parts[0].weights, parts[0].known);
    const solve = solverFor(covariance, samples, lambdaOf(strength, parts[0].known.count), spread); // near enough for all
    for (const [fold, { known, unseen, rows, weights }] of parts.entries()) {
      const lambda = lambdaOf(strength, known.count);
      await fitWeights(known, lambda, weights, solve, { tolerance: TOLERANCE, most: MOST_EVALUATIONS, pause });
      const own = logitsOf(weights, unseen);
      rows.forEach((row, i) => {
        logits.set(own.subarray(i * samples.classes, (i + 1) * samples.classes), row * samples.classes);
      });
      onProgress?.((step + (fold + 1) / folds) / grid.length);
    }
    const { sureness, loss } = surenessOf(logits, samples);
    if (best && loss >= best.loss) {
      if (++worse === PATIENCE) break;
      continue;
    }
    const accuracy = countRight(logits, samples) / samples.count;
    const weights = parts.map((part) => part.weights.slice());
    best = { c: strength, folds, accuracy, sureness, loss, foldOf, weights };
    worse = 0;
  }
  return best!;
}

/** Powers of two that are tried as the factor on logits, and the final precision. */
const SURENESS = { least: -6, most: 10, steps: 40 };

/** Finds the factor on logits by golden sections, as the loss is convex in it. */
export function surenessOf(logits: Float64Array, samples: Samples): { sureness: number; loss: number } {
  const lossAt = (power: number) =>
    residuals(
      logits.map((v) => v * 2 ** power),
      samples,
    ) / samples.count;
  const golden = (Math.sqrt(5) - 1) / 2;
  let [low, high] = [SURENESS.least, SURENESS.most];
  let [a, b] = [high - golden * (high - low), low + golden * (high - low)];
  let [lossA, lossB] = [lossAt(a), lossAt(b)];
  for (let step = 0; step < SURENESS.steps; step++) {
    if (lossA <= lossB) {
      [high, b, lossB] = [b, a, lossA];
      a = high - golden * (high - low);
      lossA = lossAt(a);
    } else {
      [low, a, lossA] = [a, b, lossB];
      b = low + golden * (high - low);
      lossB = lossAt(b);
    }
  }
  return { sureness: 2 ** a, loss: lossA };
}

/** Mean of p (1 − p) over pictures and classes: the share of the inputs' covariance in the Hessian. */
export function spreadOf(weights: Weights, samples: Samples): number {
  const p = logitsOf(weights, samples);
  residuals(p, samples); // p less 1 at the right class; (1 − p) p is the same for p − 1
  let sum = 0;
  for (const r of p) sum += Math.abs(r) * (1 - Math.abs(r));
  return Math.max(sum / p.length, 1e-4);
}

function countRight(logits: Float64Array, { y, count, classes }: Samples): number {
  let right = 0;
  for (let row = 0; row < count; row++) {
    const own = logits.subarray(row * classes, (row + 1) * classes);
    if (own.indexOf(Math.max(...own)) === y[row]) right++;
  }
  return right;
}
