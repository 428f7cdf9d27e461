/** The search model and its optimiser against golden numbers: logits, sparsity, losses, gradients, three steps of AdamW. */

import type { Architecture } from "../../src/format/model.ts";
import type { StoredTensor } from "../../src/format/safetensors.ts";
import { forward, type Weights } from "../../src/tfjs/forward.ts";
import type { Tensor, TF } from "../../src/tfjs/ops.ts";
import { foldZeta, patchGates, sparsity } from "../masks/masks.ts";
import { AdamW } from "../training/adamw.ts";
import { crossEntropy, smoothTargets } from "../training/losses.ts";
import {
  type Case,
  numbers,
  type Report,
  relative,
  relativeWorst,
  type Stored,
  scalar,
  TOLERANCE,
  tensorOf,
  worst,
} from "./goldenFolder.ts";

const DECAY = 1e-3;
const LR = 5e-4;

export function checkSearch(tf: TF, c: Case, expected: Stored, report: Report): void {
  const { mode, arch, pixels, softTargets } = c;
  const variables = variablesOf(tf, [...c.stored, ...c.zetas]);
  const zetas = new Map([...variables].filter(([name]) => c.zetas.has(name)));
  const classes = softTargets.shape[1]!;

  const outputs: number[][] = [];
  const logits = tf.tidy(() =>
    Array.from(searchLogits(tf, arch, variables, zetas, pixels, (x) => outputs.push([...x.dataSync()])).dataSync()),
  );
  report(`${mode}: search logits`, worst(logits, numbers(expected.get("logits")!)), TOLERANCE.logits);
  outputs.forEach((output, i) => {
    const stored = expected.get(`block_out.${i}`);
    if (stored) report(`${mode}: block ${i} output`, worst(output, numbers(stored)), TOLERANCE.logits);
  });

  for (const family of ["attn", "mlp", "patch"] as const) {
    const value = scalar(tf, () => sparsity(tf, arch, zetas)[family]);
    report(`${mode}: sparsity ${family}`, relative(value, c.expected[`sparsity_${family}`] as number), TOLERANCE.loss);
  }
  const losses: [string, () => Tensor][] = [
    ["ce_soft_target", () => softTargets],
    ["ce_plain", () => tf.tensor2d(smoothTargets(c.labels, classes, 0), [c.labels.length, classes])],
    ["ce_label_smoothing_0.1", () => tf.tensor2d(smoothTargets(c.labels, classes, 0.1), [c.labels.length, classes])],
  ];
  for (const [key, targets] of losses) {
    const value = scalar(tf, () => crossEntropy(tf, searchLogits(tf, arch, variables, zetas, pixels), targets()));
    report(`${mode}: ${key}`, relative(value, c.expected[key] as number), TOLERANCE.loss);
  }

  const { value, grads } = tf.variableGrads(
    () => searchLoss(tf, arch, variables, zetas, pixels, softTargets, c.expected.weights_attn_mlp_patch).asScalar(),
    [...variables.values()],
  );
  report(`${mode}: loss_total`, relative(value.dataSync()[0], c.expected.loss_total as number), TOLERANCE.loss);
  let [error, compared] = [0, 0];
  for (const [name, variable] of variables) {
    const stored = expected.get(`grad.${name}`);
    if (!stored) continue;
    error = Math.max(error, relativeWorst(grads[variable.name].dataSync(), numbers(stored)));
    compared++;
  }
  report(`${mode}: gradients of ${compared} tensors`, compared ? error : Infinity, TOLERANCE.gradient);
  tf.dispose([value, grads, [...variables.values()]]);
}

export function checkAdamW(tf: TF, c: Case, expected: Stored, report: Report): void {
  const { mode, arch, pixels, softTargets } = c;
  const variables = variablesOf(tf, [...c.stored, ...c.zetas]);
  const zetas = new Map([...variables].filter(([name]) => c.zetas.has(name)));
  const optimiser = new AdamW(tf, { weightDecay: DECAY });
  c.expected.adamw3_losses!.forEach((expectedLoss, step) => {
    const { value, grads } = tf.variableGrads(
      () => searchLoss(tf, arch, variables, zetas, pixels, softTargets, c.expected.weights_attn_mlp_patch).asScalar(),
      [...variables.values()],
    );
    report(`${mode}: AdamW loss before step ${step + 1}`, relative(value.dataSync()[0], expectedLoss), TOLERANCE.loss);
    const byName = new Map([...variables].map(([name, variable]) => [name, grads[variable.name]]));
    optimiser.step(variables, byName, () => LR);
    tf.dispose([value, grads]);
  });
  for (const [key, stored] of expected) {
    const name = key.replace(/^after3\./, "");
    const actual =
      name === "logits"
        ? tf.tidy(() => searchLogits(tf, arch, variables, zetas, pixels).dataSync())
        : variables.get(name)!.dataSync();
    report(`${mode}: after 3 steps ${name}`, relativeWorst(actual, numbers(stored)), TOLERANCE.adamw);
  }
  optimiser.dispose();
  tf.dispose([...variables.values()]);
}

/** The search model: ζ folded into the weights, tanh ζ_patch as gates. */
function searchLogits(
  tf: TF,
  arch: Architecture,
  weights: Weights,
  zetas: Weights,
  pixels: Tensor,
  onBlock?: (x: Tensor) => void,
): Tensor {
  return forward(tf, arch, foldZeta(tf, arch, weights, zetas), pixels, {
    tokenGates: patchGates(tf, arch, zetas),
    onBlock,
  }).logits;
}

function searchLoss(
  tf: TF,
  arch: Architecture,
  weights: Weights,
  zetas: Weights,
  pixels: Tensor,
  targets: Tensor,
  w: [number, number, number],
): Tensor {
  const l1 = sparsity(tf, arch, zetas);
  const terms = tf.addN([tf.mul(l1.attn, w[0]), tf.mul(l1.mlp, w[1]), tf.mul(l1.patch, w[2])]);
  return tf.add(crossEntropy(tf, searchLogits(tf, arch, weights, zetas, pixels), targets), terms);
}

function variablesOf(tf: TF, entries: [string, StoredTensor][]) {
  return new Map(entries.map(([name, stored]) => [name, tf.tidy(() => tf.variable(tensorOf(tf, stored)))]));
}
