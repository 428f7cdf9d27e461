/**
 * The head solved again for a slim model's features, in closed form, so that its logits come close to the dense model's on train
 * pictures. No labels and no training. On a DeiT-Ti for ten classes it gave back two to three of the four points that smaller pictures
 * and merged patches had cost.
 */
import { featureDim, type Manifest, type Tensors } from "../../src/format/model.ts";
import { float32 } from "../../src/format/read.ts";
import { addRidge, cholesky, solveFactored } from "../masks/ridge.ts";

/** What a network answers of a picture. */
export interface Answer {
  features: Float32Array;
  logits: Float32Array;
}

/** Share of the features' mean variance that is added to each: with some hundred pictures, less fits their noise. */
const RIDGE = 0.3;

/** Whether logits are one linear of the features. */
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
  const mean = meanOf(
    slim.map(({ features }) => features),
    size,
  );
  const missing = slim.map(({ logits }, k) => Float64Array.from(logits, (value, c) => wanted[k][c] - value));
  const shift = meanOf(missing, classes);
  const inputs = new Float64Array(size * size);
  const targets = Array.from({ length: classes }, () => new Float64Array(size));
  slim.forEach(({ features }, k) => {
    const x = Float64Array.from(features, (value, d) => value - mean[d]);
    for (let a = 0; a < size; a++) for (let b = 0; b < size; b++) inputs[a * size + b] += x[a] * x[b];
    for (let c = 0; c < classes; c++) for (let d = 0; d < size; d++) targets[c][d] += x[d] * (missing[k][c] - shift[c]);
  });
  let variance = 0;
  for (let d = 0; d < size; d++) variance += inputs[d * size + d] / size;
  for (let d = 0; d < size; d++) inputs[d * size + d] += RIDGE * variance;
  addRidge(inputs, size, size); // features that never vary
  const factor = cholesky(inputs, size);
  const weight = float32(tensors, "head.weight").slice();
  const bias = float32(tensors, "head.bias").slice();
  targets.forEach((row, c) => {
    solveFactored(factor, size, row);
    bias[c] += shift[c];
    for (let d = 0; d < size; d++) {
      weight[c * size + d] += row[d];
      bias[c] -= row[d] * mean[d];
    }
  });
  return new Map(tensors)
    .set("head.weight", { dtype: "F32", shape: [classes, size], data: weight })
    .set("head.bias", { dtype: "F32", shape: [classes], data: bias });
}

function meanOf(rows: ArrayLike<number>[], size: number): Float64Array {
  const mean = new Float64Array(size);
  for (const row of rows) for (let d = 0; d < size; d++) mean[d] += row[d] / rows.length;
  return mean;
}
