/** Targets and losses of training. Targets are plain arrays, losses tensors. */
import type { Architecture } from "../../src/format/model.ts";
import type { ForwardOutput } from "../../src/tfjs/forward.ts";
import type { Tensor, TF } from "../../src/tfjs/ops.ts";

/**
 * The outputs of a forward pass that are trained: one head, the two of a distilled network, or the features of a
 * network without a head.
 */
export type Heads = Pick<ForwardOutput, "classLogits" | "distLogits"> & Partial<Pick<ForwardOutput, "features">>;

/**
 * softmax: one class of all; sigmoid: each class by itself. An embedding model learns a teacher's features: their direction,
 * as embeddings are compared by cosine.
 */
export type Learns = "softmax" | "sigmoid" | "features";

export const learnsOf = ({ head }: Pick<Architecture, "head">): Learns => head?.scores ?? "features";

/**
 * The terms of the base loss by name, weighted: cross-entropy to the labels, and distillation where there is a teacher.
 * With two heads, the class head learns the labels and the distillation head the teacher. Where there are only labels
 * or only a teacher, both heads learn from them, because the mean of the heads classifies.
 *
 * @param targets [batch, classes]; none for unlabelled pictures
 * @param teacher its logits [batch, classes], or its features
 * @see Touvron et al. 2021 — https://arxiv.org/abs/2012.12877
 */
export function baseLoss(
  tf: TF,
  { alpha, tau, distillation }: { alpha: number; tau: number; distillation: "soft" | "hard" },
  { classLogits, distLogits, features }: Heads,
  targets: Tensor | undefined,
  teacher: Tensor | undefined,
  learns: Learns = "softmax",
): Record<string, Tensor> {
  if (learns === "features") return { kd: directionLoss(tf, features!, teacher!) };
  const one = learns === "sigmoid";
  const share = teacher ? (targets ? alpha : 1) : 0;
  const both = distLogits ? [classLogits, distLogits] : [classLogits];
  const apart = distLogits !== undefined && share > 0 && share < 1;
  const mean = (heads: Tensor[], loss: (logits: Tensor) => Tensor) =>
    tf.div(
      heads.map(loss).reduce((a, b) => tf.add(a, b)),
      heads.length,
    ) as Tensor;
  const terms: Record<string, Tensor> = {};
  if (targets && share < 1)
    terms.ce = tf.mul(
      mean(apart ? [classLogits] : both, (logits) => labelLoss(tf, logits, targets, learns)),
      1 - share,
    );
  if (teacher && share > 0) {
    const distill = (logits: Tensor) => {
      if (distillation === "hard") return hardDistillation(tf, logits, teacher, learns);
      return one ? softBinary(tf, logits, teacher, tau) : softDistillation(tf, logits, teacher, tau, "batch");
    };
    terms.kd = tf.mul(mean(apart ? [distLogits!] : both, distill), share);
  }
  return terms;
}

/** Cross-entropy of all classes together, or of each by itself. */
export function labelLoss(tf: TF, logits: Tensor, targets: Tensor, learns: Learns): Tensor {
  return learns === "sigmoid" ? binaryCrossEntropy(tf, logits, targets) : crossEntropy(tf, logits, targets);
}

/**
 * The loss of a network that scores as `learns` against its teacher: on logits, or on features where it has no head.
 */
export function softLoss(tf: TF, student: Tensor, teacher: Tensor, tau: number, learns: Learns): Tensor {
  if (learns === "features") return directionLoss(tf, student, teacher);
  if (learns === "sigmoid") return softBinary(tf, student, teacher, tau);
  return softDistillation(tf, student, teacher, tau, "batch");
}

/**
 * Mean over the batch of Σ −target · log σ(logits) − (1 − target) · log(1 − σ(logits)), summed over classes as SigLIP has it;
 * the gradient is taken of the logits alone.
 * @see Zhai et al. 2023 — https://arxiv.org/abs/2303.15343
 */
export function binaryCrossEntropy(tf: TF, logits: Tensor, targets: Tensor): Tensor {
  const op = tf.customGrad((x, save) => {
    const xt = x as Tensor;
    (save as unknown as (tensors: Tensor[]) => void)([xt, targets]);
    const rest = tf.log(tf.add(tf.exp(tf.neg(tf.abs(xt))), 1));
    const each = tf.add(tf.sub(tf.relu(xt), tf.mul(xt, targets)), rest);
    const batch = xt.shape[0]!;
    return {
      value: tf.div(tf.sum(each), batch),
      gradFunc: (dy: Tensor, [xt, wanted]: Tensor[]) => tf.mul(tf.div(dy, batch), tf.sub(tf.sigmoid(xt), wanted)),
    };
  });
  return op(logits);
}

/** τ² times the divergence of each class's probability from the teacher's at temperature τ; 0 where they agree. */
function softBinary(tf: TF, student: Tensor, teacher: Tensor, tau: number): Tensor {
  const wanted = tf.div(teacher, tau);
  const shares = tf.sigmoid(wanted);
  const least = binaryCrossEntropy(tf, wanted, shares);
  return tf.mul(tf.sub(binaryCrossEntropy(tf, tf.div(student, tau), shares), least), tau * tau);
}

/** Mean over the batch of 1 − cosine of the features. */
export function directionLoss(tf: TF, student: Tensor, teacher: Tensor): Tensor {
  return tf.sub(1, tf.mean(cosines(tf, student, teacher)));
}

/** Cosine of each row of one with the same row of the other, both [batch, dim]: [batch] */
export function cosines(tf: TF, a: Tensor, b: Tensor): Tensor {
  const length = (x: Tensor) => tf.sqrt(tf.add(tf.sum(tf.square(x), -1), 1e-12));
  return tf.div(tf.sum(tf.mul(a, b), -1), tf.mul(length(a), length(b)));
}

/** Mean over the batch of −Σ target · log softmax(logits); both [batch, classes]. */
export function crossEntropy(tf: TF, logits: Tensor, targets: Tensor): Tensor {
  return tf.neg(tf.mean(tf.sum(tf.mul(targets, tf.logSoftmax(logits)), -1)));
}

/** One-hot with label smoothing: [labels.length × classes]. */
export function smoothTargets(labels: ArrayLike<number>, classes: number, smoothing: number): Float32Array {
  const off = smoothing / classes;
  const targets = new Float32Array(labels.length * classes).fill(off);
  for (let b = 0; b < labels.length; b++) targets[b * classes + labels[b]] = 1 - smoothing + off;
  return targets;
}

/** lam · a + (1 − lam) · b, element by element: mixup's targets for pictures mixed the same way. */
export function mixTargets(a: Float32Array, b: Float32Array, lam: number): Float32Array {
  return a.map((v, k) => lam * v + (1 - lam) * b[k]);
}

/**
 * Soft distillation: τ² · KL(teacher ‖ student) at temperature τ.
 * @param per what the sum is divided by: `batch`, the usual mean over pictures; or `element`, as ViT-Slim's code has it,
 *   which makes the term smaller by the number of classes
 * @see Hinton, Vinyals, Dean 2015 — https://arxiv.org/abs/1503.02531
 */
export function softDistillation(
  tf: TF,
  student: Tensor,
  teacher: Tensor,
  tau: number,
  per: "batch" | "element",
): Tensor {
  const logStudent = tf.logSoftmax(tf.div(student, tau));
  const logTeacher = tf.logSoftmax(tf.div(teacher, tau));
  const sum = tf.sum(tf.mul(tf.exp(logTeacher), tf.sub(logTeacher, logStudent)));
  return tf.mul(sum, (tau * tau) / (per === "batch" ? student.shape[0]! : student.size));
}

/** Hard distillation: cross-entropy to the teacher's best class, or to the classes that it finds likelier than not. */
export function hardDistillation(tf: TF, student: Tensor, teacher: Tensor, learns: Learns = "softmax"): Tensor {
  if (learns === "sigmoid") return binaryCrossEntropy(tf, student, tf.cast(tf.greater(teacher, 0), "float32"));
  return crossEntropy(tf, student, tf.oneHot(tf.argMax(teacher, -1), student.shape[1]!));
}
