/**
 * Solves the head again for a slim model's features, in closed form, so that its logits come close to the dense model's
 * on train pictures. It needs no labels and no training. On a DeiT-Ti for ten classes it recovered two to three of the
 * four points that smaller pictures and merged patches had lost.
 */
import { featureDim, type Manifest, type Tensors } from "../../src/format/model.ts";
import { float32 } from "../../src/format/read.ts";
import { cholesky, solveFactored } from "../../src/reference/cholesky.ts";
import { addRidge } from "../masks/ridge.ts";

/** A network's answer to a picture. */
export interface Answer {
  features: Float32Array;
  logits: Float32Array;
}

/**
 * Shares of the features' mean variance that are added to each. The more pictures there are, the less is needed so that their noise
 * is not fitted. Which share it is, pictures that are held back decide.
 */
const RIDGES = [1, 0.3, 0.1, 0.03, 0.01];
/** With fewer pictures, the result on a fifth of them is chance, so the second share is taken. */
const ENOUGH = 100;
const HELD_BACK = 5;

/** Whether logits are a single linear function of the features. */
export function canRefit({ head, distilled }: Manifest): boolean {
  return head !== undefined && !head.cosine && !distilled;
}

/**
 * Adds to the head what maps the features to the missing part of the logits.
 *
 * @param slim answers of the slim model, picture by picture
 * @param wanted logits of the dense model on the same pictures
 */
export function refitHead(manifest: Manifest, tensors: Tensors, slim: Answer[], wanted: Float32Array[]): Tensors {
  const size = featureDim(manifest);
  const classes = manifest.labels.length;
  const pictures = slim.map(({ features, logits }, k) => ({
    features,
    missing: Float64Array.from(logits, (value, c) => wanted[k][c] - value),
  }));
  const correction = correctionOf(sumsOf(pictures, size, classes), ridgeFor(pictures, size, classes));
  const weight = float32(tensors, "head.weight").slice();
  const bias = float32(tensors, "head.bias").slice();
  correction.forEach((row, c) => {
    for (let d = 0; d < size; d++) weight[c * size + d] += row.weight[d];
    bias[c] += row.bias;
  });
  return new Map(tensors)
    .set("head.weight", { dtype: "F32", shape: [classes, size], data: weight })
    .set("head.bias", { dtype: "F32", shape: [classes], data: bias });
}

interface Example {
  features: Float32Array;
  /** the difference that the slim model's logits lack */
  missing: Float64Array;
}

/** The ridge with which the corrections of four fifths of the pictures fit the last fifth best. */
function ridgeFor(pictures: Example[], size: number, classes: number): number {
  if (pictures.length < ENOUGH) return RIDGES[1];
  const isHeld = (k: number) => k % HELD_BACK === HELD_BACK - 1;
  const held = pictures.filter((_, k) => isHeld(k));
  const sums = sumsOf(
    pictures.filter((_, k) => !isHeld(k)),
    size,
    classes,
  );
  const errors = RIDGES.map((ridge) => errorOf(correctionOf(sums, ridge), held));
  return RIDGES[errors.indexOf(Math.min(...errors))];
}

interface Sums {
  size: number;
  mean: Float64Array;
  /** mean of what is missing */
  shift: Float64Array;
  /** Σ x xᵀ of the centred features, [size, size] */
  inputs: Float64Array;
  /** Σ x y of the centred features, a row a class */
  targets: Float64Array[];
}

function sumsOf(pictures: Example[], size: number, classes: number): Sums {
  const mean = meanOf(
    pictures.map(({ features }) => features),
    size,
  );
  const shift = meanOf(
    pictures.map(({ missing }) => missing),
    classes,
  );
  const inputs = new Float64Array(size * size);
  const targets = Array.from({ length: classes }, () => new Float64Array(size));
  for (const { features, missing } of pictures) {
    const x = Float64Array.from(features, (value, d) => value - mean[d]);
    for (let a = 0; a < size; a++) for (let b = 0; b < size; b++) inputs[a * size + b] += x[a] * x[b];
    for (let c = 0; c < classes; c++) for (let d = 0; d < size; d++) targets[c][d] += x[d] * (missing[c] - shift[c]);
  }
  return { size, mean, shift, inputs, targets };
}

/** The change of each class's row of the head. */
interface Correction {
  weight: Float64Array;
  bias: number;
}

function correctionOf({ size, mean, shift, inputs, targets }: Sums, ridge: number): Correction[] {
  const matrix = inputs.slice();
  let variance = 0;
  for (let d = 0; d < size; d++) variance += matrix[d * size + d] / size;
  for (let d = 0; d < size; d++) matrix[d * size + d] += ridge * variance;
  addRidge(matrix, size, size); // features that never vary
  const factor = cholesky(matrix, size);
  return targets.map((target, c) => {
    const weight = target.slice();
    solveFactored(factor, weight);
    return { weight, bias: weight.reduce((bias, w, d) => bias - w * mean[d], shift[c]) };
  });
}

/** The sum of squared errors after a correction. */
function errorOf(correction: Correction[], pictures: Example[]): number {
  let error = 0;
  for (const { features, missing } of pictures)
    correction.forEach(({ weight, bias }, c) => {
      const added = weight.reduce((sum, w, d) => sum + w * features[d], bias);
      error += (missing[c] - added) ** 2;
    });
  return error;
}

function meanOf(rows: ArrayLike<number>[], size: number): Float64Array {
  const mean = new Float64Array(size);
  for (const row of rows) for (let d = 0; d < size; d++) mean[d] += row[d] / rows.length;
  return mean;
}
