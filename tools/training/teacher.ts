/** Fixed networks in TensorFlow.js that a student learns from. */

import { SlimViTError } from "../../src/errors.ts";
import { featureDim, type Manifest, type Model, type Preprocess } from "../../src/format/model.ts";
import { float32 } from "../../src/format/read.ts";
import { forward } from "../../src/tfjs/forward.ts";
import type { Tensor, TF } from "../../src/tfjs/ops.ts";
import { resampleMatrix } from "../checkpoints/resize.ts";
import { classOrder } from "../data/data.ts";
import { readModelFolder } from "../models/folders.ts";

/** A model's tensors on the backend; dispose them when done. */
export function weightsOnBackend(tf: TF, { tensors }: Model): Map<string, Tensor> {
  const weights = new Map<string, Tensor>();
  for (const [name, { shape }] of tensors) {
    if (!name.endsWith(".scale")) weights.set(name, tf.tensor(float32(tensors, name), shape));
  }
  return weights;
}

export interface Teacher {
  /** the student's pixels [batch, 3, height, width] → [batch, classes], or for a student without a head features */
  outputs(pixels: Tensor): Tensor;
  dispose(): void;
}

/**
 * @param folder of the teacher; without one there is none
 * @throws SlimViTError `bad-option` for a teacher with other classes or scores; the same classes in another order are found by
 *   their names. For a student without a head: `bad-option` for a teacher whose features are of another width
 */
export function openTeacher(tf: TF, folder: string | undefined, student: Manifest): Teacher | undefined {
  if (folder === undefined) return undefined;
  const model = readModelFolder(folder);
  const { manifest } = model;
  if (!student.head && featureDim(manifest) !== featureDim(student))
    throw new SlimViTError(
      "bad-option",
      `${folder}: its embeddings have ${featureDim(manifest)} numbers, the model's ${featureDim(student)}; give a teacher whose embeddings have the same length.`,
    );
  if (student.head && manifest.head && manifest.head.scores !== student.head.scores)
    throw new SlimViTError(
      "bad-option",
      `${folder}: its scores are made by ${manifest.head.scores}, the model's by ${student.head.scores}; give a teacher of the same kind.`,
    );
  const order = student.head ? classOrder(student.labels, manifest.labels, folder) : [];
  const isSorted = order.every((place, index) => place === index);
  const weights = weightsOnBackend(tf, model);
  return {
    outputs: (pixels) =>
      tf.tidy(() => {
        const own = adapted(tf, pixels, student.preprocess, manifest.preprocess);
        const { logits, features } = forward(tf, manifest, weights, own);
        if (!student.head) return features;
        return isSorted ? logits : (tf.gather(logits, order, 1) as Tensor);
      }),
    dispose: () => tf.dispose([...weights.values()]),
  };
}

/**
 * Pixels as another network wants them: the same crop, mixed and augmented alike, at its size and in its normalisation.
 *
 * @param pixels [batch, 3, …from.crop]
 * @returns [batch, 3, …to.crop]
 */
export function adapted(tf: TF, pixels: Tensor, from: Preprocess, to: Preprocess): Tensor {
  return tf.tidy(() => {
    let out = pixels;
    if (from.crop.join() !== to.crop.join()) {
      const [batch] = pixels.shape as number[];
      const [[h, w], [height, width]] = [from.crop, to.crop];
      const across = (x: Tensor, a: number, b: number) =>
        tf.matMul(tf.reshape(x, [-1, a]), tf.tensor2d(resampleMatrix(a, b), [a, b])) as Tensor;
      const rows = tf.reshape(across(out, w, width), [batch, 3, h, width]);
      const columns = across(tf.transpose(rows, [0, 1, 3, 2]), h, height);
      out = tf.transpose(tf.reshape(columns, [batch, 3, width, height]), [0, 1, 3, 2]);
    }
    if (from.mean.join() !== to.mean.join() || from.std.join() !== to.std.join()) {
      const channels = (of: (c: number) => number) => tf.tensor4d([0, 1, 2].map(of), [1, 3, 1, 1]);
      const scaled = tf.mul(
        out,
        channels((c) => from.std[c] / to.std[c]),
      );
      out = tf.add(
        scaled,
        channels((c) => (from.mean[c] - to.mean[c]) / to.std[c]),
      );
    }
    return out;
  });
}
