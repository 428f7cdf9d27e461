/**
 * Embeddings of pictures with known classes → a head for these classes: a multinomial logistic regression, whose penalty
 * is chosen by cross-validation and whose scores are then calibrated. Nothing is random: the same embeddings give the
 * same head.
 */
import { SlimViTError } from "../errors.ts";
import type { Taught, TaughtHead, TaughtInfo } from "../protocol.ts";
import { covarianceOf, solverFor } from "./covariance.ts";
import { crossValidate, lambdaOf, spreadOf } from "./crossValidate.ts";
import { fitWeights, placeOf, type Samples, type Weights } from "./regression.ts";
import { checkTaught, countsOf, meansOf, type Placement, placed } from "./taught.ts";
import { calibrate } from "./unknown.ts";

export const FALSE_REJECTION = 0.05;

export interface FitOptions {
  /** share of pictures of its own classes that may be called unknown; default 0.05 */
  falseRejection?: number;
  /** C of the regression, where it is fixed; the weights are then not rescaled */
  c?: number;
  /** @param done 0 to 1 */
  onProgress?(done: number): void;
  /** Runs between steps of some milliseconds; what it throws ends the fit. */
  pause?(): Promise<void> | undefined;
}

export interface Fitted {
  head: TaughtHead;
  info: TaughtInfo;
}

/** Tolerance on the gradient of the mean loss. Scores are then within 1e-6 of those at the minimum. */
const TOLERANCE = 1e-7;
const MOST_EVALUATIONS = 1000;

/**
 * @param dim length of an embedding
 * @throws SlimViTError `bad-input` as `checkTaught`, `bad-option`
 */
export async function teachHead(taught: Taught, dim: number, options: FitOptions = {}): Promise<Fitted> {
  const { falseRejection = FALSE_REJECTION, onProgress, pause } = options;
  if (!(falseRejection >= 0 && falseRejection < 1)) {
    const fault = `falseRejection is ${falseRejection}; expected a number from 0 to less than 1.`;
    throw new SlimViTError("bad-option", fault);
  }
  checkTaught(taught, dim);
  const { samples, placement } = placed(taught, dim);
  const { c, folds, foldOf, accuracy, sureness, weights } = await crossValidate(samples, {
    c: options.c,
    onProgress,
    pause,
  });
  const final = meanOf(weights); // near the minimum already
  const lambda = lambdaOf(c, samples.count);
  const solve = solverFor(covarianceOf(samples), samples, lambda, spreadOf(final, samples));
  await fitWeights(samples, lambda, final, solve, { tolerance: TOLERANCE, most: MOST_EVALUATIONS, pause });
  if (options.c === undefined) for (let i = 0; i < final.length; i++) final[i] *= sureness;
  const unknown = calibrate(taught, dim, foldOf, falseRejection);
  const labels = taught.names.map((name) => ({ id: name, label: name }));
  onProgress?.(1);
  return {
    head: { labels, ...unplaced(final, samples, placement), means: meansOf(taught, dim), unknown },
    info: { pictures: countsOf(taught), accuracy, n: samples.count, folds, c, unknown, accepted: falseRejection },
  };
}

function meanOf(all: Weights[]): Weights {
  return all[0].map((_, i) => all.reduce((sum, weights) => sum + weights[i], 0) / all.length);
}

/** The weights for embeddings that are not centred or scaled. */
function unplaced(
  weights: Weights,
  { dim, classes }: Samples,
  { mean, scale }: Placement,
): Pick<TaughtHead, "weight" | "bias"> {
  const weight = new Float32Array(classes * dim);
  const bias = new Float32Array(classes);
  for (let kind = 0; kind < classes; kind++) {
    let shift = weights[placeOf(kind, dim, dim)];
    for (let j = 0; j < dim; j++) {
      const w = weights[placeOf(kind, j, dim)] / scale;
      weight[kind * dim + j] = w;
      shift -= w * mean[j];
    }
    bias[kind] = shift;
  }
  return { weight, bias };
}
