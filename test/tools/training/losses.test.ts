/** Losses, targets and the optimiser against PyTorch's and timm's numbers. */
import type * as tfjs from "@tensorflow/tfjs-core";
import { beforeAll, describe, expect, test } from "vitest";
import type { Tensor, TF } from "../../../src/tfjs/ops.ts";
import { variablesFrom } from "../../../tools/models/variables.ts";
import { AdamW, decaysByDefault } from "../../../tools/training/adamw.ts";
import { openBackend } from "../../../tools/training/backend.ts";
import { baseLoss, mixTargets, smoothTargets } from "../../../tools/training/losses.ts";
import { trainingNumbers } from "../../fixtures/oracle/numbers.ts";
import { expectClose } from "../../helpers.ts";

const { distillation, targets, adamw } = trainingNumbers();
let tf: TF;
beforeAll(async () => {
  ({ tf } = await openBackend("tfjs-node"));
});

describe("distillation", () => {
  const { shape, cases, ...numbers } = distillation;
  const name = (c: (typeof cases)[0]) =>
    `${c.distillation}, tau ${c.tau}, alpha ${c.alpha}, ${c.heads} heads` +
    `${c.labels ? "" : ", unlabelled"}${c.teacher ? "" : ", no teacher"}`;

  test.each(cases.map((c) => [name(c), c] as const))("%s: loss and gradients are PyTorch's", (_, c) => {
    tf.tidy(() => {
      const tensor = (values: number[]) => tf.tensor2d(values, shape) as Tensor;
      const labels = c.labels ? tensor(numbers.targets) : undefined;
      const teacher = c.teacher ? tensor(numbers.teacher) : undefined;
      const loss = (classLogits: Tensor, distLogits?: Tensor) => {
        const heads = c.heads === 2 ? { classLogits, distLogits } : { classLogits };
        return tf.addN(Object.values(baseLoss(tf, c, heads, labels, teacher))).asScalar();
      };
      // A head that takes no part has no gradient, of which TensorFlow.js would complain: it is added with factor 0.
      const total = (a: Tensor, b: Tensor) =>
        tf.add(loss(a, b), tf.mul(0, tf.add(tf.sum(a), tf.sum(b)))) as tfjs.Scalar;
      const { value, grads } = tf.valueAndGrads(total as never)([
        tensor(numbers.classLogits),
        tensor(numbers.distLogits),
      ] as never);
      expectClose(value.dataSync(), [c.loss], 1e-5, "loss");
      expectClose(grads[0].dataSync(), c.classGradient, 1e-6, "class head");
      expectClose(grads[1].dataSync(), c.distGradient, 1e-6, "distillation head");
    });
  });
});

describe("a head of several labels", () => {
  const [logits, targets, teacher] = [
    [3, -2, 0.5, -40, 40, 0],
    [1, 0, 0.3, 0, 1, 0.5],
    [2, -1, 0.1, -30, 30, 0.2],
  ];
  const sigmoid = (v: number) => 1 / (1 + Math.exp(-v));
  const entropy = (share: number, of: number) => {
    const plain = (p: number, q: number) => (p === 0 ? 0 : -p * Math.log(q));
    return plain(share, sigmoid(of)) + plain(1 - share, sigmoid(-of));
  };
  const sum = (values: number[]) => values.reduce((a, b) => a + b, 0);
  const pictures = 2;
  const learn = { alpha: 0.25, tau: 2, distillation: "soft" as "soft" | "hard" };
  const gradient = (options: typeof learn, withLabels: boolean, withTeacher: boolean) =>
    tf.tidy(() => {
      const matrix = (values: number[]) => tf.tensor2d(values, [pictures, 3]) as Tensor;
      const loss = (classLogits: Tensor) => {
        const [labels, taught] = [withLabels ? matrix(targets) : undefined, withTeacher ? matrix(teacher) : undefined];
        return tf.addN(Object.values(baseLoss(tf, options, { classLogits }, labels, taught, "sigmoid"))).asScalar();
      };
      const { value, grad } = tf.valueAndGrad(loss as never)(matrix(logits) as never);
      return { loss: value.dataSync()[0], slopes: [...grad.dataSync()] };
    });

  test("learns each class by itself, and its gradient is σ − target", () => {
    const { loss, slopes } = gradient(learn, true, false);
    expect(loss).toBeCloseTo(sum(logits.map((v, k) => entropy(targets[k], v))) / pictures, 5);
    expectClose(
      slopes,
      logits.map((v, k) => (sigmoid(v) - targets[k]) / pictures),
      1e-6,
    );
  });

  test("learns each class's probability from a teacher, softened by τ, and loses nothing where they agree", () => {
    const { loss, slopes } = gradient(learn, false, true);
    const soft = teacher.map((v) => sigmoid(v / 2));
    const least = sum(teacher.map((v, k) => entropy(soft[k], v / 2)));
    expect(loss).toBeCloseTo((4 * (sum(logits.map((v, k) => entropy(soft[k], v / 2))) - least)) / pictures, 4);
    expectClose(
      slopes,
      logits.map((v, k) => (2 * (sigmoid(v / 2) - soft[k])) / pictures),
      1e-6,
    );
    const same = tf.tidy(() => {
      const x = tf.tensor2d(teacher, [pictures, 3]) as Tensor;
      return baseLoss(tf, learn, { classLogits: x }, undefined, x, "sigmoid").kd.dataSync()[0];
    });
    expect(same).toBeCloseTo(0, 5);
  });

  test("takes the classes that a teacher finds likelier than not, and shares out labels and teacher", () => {
    const { loss } = gradient({ ...learn, distillation: "hard" }, false, true);
    const hard = teacher.map((v) => Number(v > 0));
    const taught = sum(logits.map((v, k) => entropy(hard[k], v))) / pictures;
    expect(loss).toBeCloseTo(taught, 4);
    const labelled = gradient(learn, true, false).loss;
    const both = gradient({ ...learn, distillation: "hard" }, true, true).loss;
    expect(both).toBeCloseTo(0.75 * labelled + 0.25 * taught, 4);
  });
});

test("an embedding model learns the direction of its teacher's features, whatever their length", () => {
  tf.tidy(() => {
    const teacher = tf.tensor2d([3, 4, 0, 2], [2, 2]) as Tensor;
    const features = tf.tensor2d([4, 3, 0, 7], [2, 2]) as Tensor;
    const none = tf.zeros([2, 0]) as Tensor;
    const loss = { alpha: 0.5, tau: 1, distillation: "soft" as const };
    const terms = baseLoss(tf, loss, { classLogits: none, features }, undefined, teacher, "features");
    expect(Object.keys(terms)).toEqual(["kd"]);
    expect(terms.kd.dataSync()[0]).toBeCloseTo(1 - (24 / 25 + 1) / 2, 5);
  });
});

test.each(targets)(
  "targets of lam $lam, smoothed by $smoothing, are timm's",
  ({ labels, classes, smoothing, lam, ...c }) => {
    const own = smoothTargets(labels, classes, smoothing);
    const partner = smoothTargets(labels.toReversed(), classes, smoothing);
    expectClose(mixTargets(own, partner, lam), c.targets, 1e-6);
  },
);

describe("AdamW", () => {
  const decayed = Object.entries(adamw.groups).filter(([, isDecayed]) => isDecayed);

  test("decays the tensors that timm decays: no norm, bias, LayerScale, embedding or prefix token", () => {
    expect(decayed.length).toBeGreaterThan(5);
    expect(Object.keys(adamw.groups).length).toBeGreaterThan(25);
    for (const [name, isDecayed] of Object.entries(adamw.groups)) {
      const rank = /^(pos_embed|(cls|dist|reg)_token)$/.test(name) ? 3 : name === "patch_embed.proj.weight" ? 4 : 2;
      const shape = isDecayed || rank === 3 ? Array(rank).fill(2) : [2];
      expect([name, decaysByDefault(name, tf.zeros(shape))]).toEqual([name, isDecayed]);
    }
  });

  test("takes PyTorch's five steps in both groups", () => {
    const { lr, weightDecay, shapes, start, gradients, end } = adamw;
    const variables = variablesFrom(
      tf,
      Object.entries(shapes).map(([name, shape]) => [name, { shape, data: Float32Array.from(start[name]) }]),
    );
    const optimiser = new AdamW(tf, { weightDecay });
    for (const step of gradients) {
      const byName = new Map(Object.entries(step).map(([name, g]) => [name, tf.tensor(g, shapes[name]) as Tensor]));
      optimiser.step(variables, byName, () => lr);
    }
    for (const [name, variable] of variables) expectClose(variable.dataSync(), end[name], 2e-6, name);
  });
});
