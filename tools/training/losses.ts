/** Targets and losses of training. Targets are plain arrays, losses tensors. */
import type { ForwardOutput } from "../../src/tfjs/forward.ts";
import type { Tensor, TF } from "../../src/tfjs/ops.ts";

/** What of a forward pass is trained: one head, or a distilled network's two. */
export type Heads = Pick<ForwardOutput, "classLogits" | "distLogits">;

/**
 * The terms of the base loss by name, weighted: cross-entropy to the labels, and distillation where there is a teacher.
 * Of two heads the class head learns the labels and the distillation head the teacher; what there is alone, labels or
 * teacher, both heads learn, as their mean is what classifies.
 *
 * @param targets [batch, classes]; none for unlabelled pictures
 * @see Touvron et al. 2021 — https://arxiv.org/abs/2012.12877
 */
export function baseLoss(
  tf: TF,
  { alpha, tau, distillation }: { alpha: number; tau: number; distillation: "soft" | "hard" },
  { classLogits, distLogits }: Heads,
  targets: Tensor | undefined,
  teacher: Tensor | undefined,
): Record<string, Tensor> {
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
      mean(apart ? [classLogits] : both, (logits) => crossEntropy(tf, logits, targets)),
      1 - share,
    );
  if (teacher && share > 0) {
    const distill = (logits: Tensor) =>
      distillation === "soft"
        ? softDistillation(tf, logits, teacher, tau, "batch")
        : hardDistillation(tf, logits, teacher);
    terms.kd = tf.mul(mean(apart ? [distLogits!] : both, distill), share);
  }
  return terms;
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

/** Hard distillation: cross-entropy to the teacher's best class. */
export function hardDistillation(tf: TF, student: Tensor, teacher: Tensor): Tensor {
  return crossEntropy(tf, student, tf.oneHot(tf.argMax(teacher, -1), student.shape[1]!));
}
