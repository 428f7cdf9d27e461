/** Targets and losses of training. Targets are plain arrays, losses tensors. */
import type { Tensor, TF } from "../../src/engines/tfjs/ops.ts";

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

/** Hard distillation: cross-entropy to the teacher's best class. */
export function hardDistillation(tf: TF, student: Tensor, teacher: Tensor): Tensor {
  return crossEntropy(tf, student, tf.oneHot(tf.argMax(teacher, -1), student.shape[1]!));
}
