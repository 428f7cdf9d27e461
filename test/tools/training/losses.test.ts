/** Losses, targets and the optimiser against PyTorch's and timm's numbers. */
import type * as tfjs from "@tensorflow/tfjs-core";
import { beforeAll, describe, expect, test } from "vitest";
import type { Tensor, TF } from "../../../src/tfjs/ops.ts";
import { AdamW, decaysByDefault } from "../../../tools/training/adamw.ts";
import { openBackend } from "../../../tools/training/backend.ts";
import { baseLoss, mixTargets, smoothTargets } from "../../../tools/training/losses.ts";
import { variablesFrom } from "../../../tools/training/train.ts";
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
