/**
 * Compares the speed of training with that of the plain form of the same network under automatic differentiation.
 *   npm run bench:train -- [--batch N] [--rounds N] [--backend NAME] [--precision bf16] [--no-deit] [--json]
 * The gradients of both are compared first. Then their steps (forward, backward, AdamW) are timed in interleaved rounds,
 * so that drifts of the machine's speed affect both alike. Prints medians, and images a second of DeiT-Ti at 224 px.
 */
import os from "node:os";
import type * as tfjs from "@tensorflow/tfjs-core";
import { Command } from "commander";
import { messageOf, SlimViTError } from "../../src/errors.ts";
import { type Architecture, denseTokens, plainArchitecture, tensorShapes } from "../../src/format/model.ts";
import { forward, type Weights } from "../../src/tfjs/forward.ts";
import type { Tensor, TF } from "../../src/tfjs/ops.ts";
import { type Variables, variablesFrom } from "../models/variables.ts";
import { count } from "../options/values.ts";
import { random } from "../shared/random.ts";
import { printJson, say } from "../shared/terminal.ts";
import { AdamW } from "../training/adamw.ts";
import { BACKENDS, type BackendName, environmentOf, openBackend, type Precision } from "../training/backend.ts";
import { crossEntropy, smoothTargets } from "../training/losses.ts";

/** Gradients may differ by this fraction of their tensor's largest value. */
const TOLERANCE = 1e-3;
const WARM_UP = 2;
const CLASSES = 10;

export interface TrainBench {
  environment: string;
  cpu: string;
  batch: number;
  rounds: number;
  /** worst difference of a gradient, relative to its tensor's largest value */
  gradientError: number;
  ours: number;
  plain: number;
  /** median over the rounds of how much faster our step was than the plain one beside it */
  ratio: number;
  deitTiny?: { batch: number; imagesPerSecond: number };
}

export function vit(image: number, patchSize: number, embedDim: number, depth: number): Architecture {
  const sizes = { patchSize, embedDim, headDim: 64, layerNormEps: 1e-6, prefixTokens: 1 };
  const keepIdx = Array.from({ length: (image / patchSize) ** 2 + 1 }, (_, token) => token);
  const block = { headDims: Array(embedDim / 64).fill(64), mlpHidden: 4 * embedDim, keepIdx };
  return plainArchitecture({ ...sizes, imageSize: [image, image], blocks: Array(depth).fill(block) });
}

export async function benchTrain(options: {
  batch: number;
  rounds: number;
  backend?: BackendName;
  precision: Precision;
  deit: boolean;
}): Promise<TrainBench> {
  const backend = await openBackend(options.backend, options.precision);
  const { tf } = backend;
  const { batch, rounds } = options;
  const arch = vit(32, 4, 192, 6);
  const gradientError = compareGradients(tf, arch, options.precision === "bf16" ? 0.2 : TOLERANCE);
  say(`gradients of both forms agree within ${gradientError.toExponential(1)} of each tensor's largest value`);

  const forms = [step(tf, arch, batch, forwardOurs), step(tf, arch, batch, forwardPlain)];
  for (let k = 0; k < WARM_UP; k++) for (const run of forms) run();
  const seconds = Array.from({ length: rounds }, () => forms.map(timed));
  const [ours, plain] = [0, 1].map((k) => batch / median(seconds.map((round) => round[k])));
  const report: TrainBench = {
    environment: environmentOf(backend),
    cpu: `${os.cpus()[0].model}, ${os.availableParallelism()} cores`,
    batch,
    rounds,
    gradientError,
    ours,
    plain,
    ratio: median(seconds.map(([a, b]) => b / a)),
  };
  if (options.deit) {
    const deitBatch = 32;
    const run = step(tf, vit(224, 16, 192, 12), deitBatch, forwardOurs);
    run();
    const each = Array.from({ length: Math.min(rounds, 5) }, () => timed(run));
    report.deitTiny = { batch: deitBatch, imagesPerSecond: deitBatch / median(each) };
  }
  return report;
}

type Forward = (tf: TF, arch: Architecture, weights: Weights, pixels: Tensor) => Tensor;

const forwardOurs: Forward = (tf, arch, weights, pixels) => forward(tf, arch, weights, pixels).logits;

/** The network as one writes it from the paper in TensorFlow.js, without a gradient of our own: the judge. */
const forwardPlain: Forward = (tf, arch, weights, pixels) => {
  const { embedDim, headDim, patchSize: p, imageSize, blocks } = arch;
  const batch = pixels.shape[0]!;
  const tokens = denseTokens(arch);
  const heads = embedDim / headDim;
  const w = (name: string) => weights.get(name)!;
  const linear = (x: Tensor, name: string): Tensor =>
    tf.add(tf.matMul(x as tfjs.Tensor2D, w(`${name}.weight`) as tfjs.Tensor2D, false, true), w(`${name}.bias`));
  const norm = (x: Tensor, name: string): Tensor => {
    const { mean, variance } = tf.moments(x, -1, true);
    const normal = tf.div(tf.sub(x, mean), tf.sqrt(tf.add(variance, arch.layerNormEps)));
    return tf.add(tf.mul(normal, w(`${name}.weight`)), w(`${name}.bias`));
  };
  const gelu = (x: Tensor): Tensor => tf.mul(tf.mul(x, 0.5), tf.add(tf.erf(tf.div(x, Math.SQRT2)), 1));

  const [rows, columns] = [imageSize[0] / p, imageSize[1] / p];
  const split = tf.transpose(tf.reshape(pixels, [batch, 3, rows, p, columns, p]), [0, 2, 4, 1, 3, 5]);
  const kernel = tf.reshape(w("patch_embed.proj.weight"), [embedDim, 3 * p * p]) as tfjs.Tensor2D;
  const patches = tf.add(
    tf.matMul(tf.reshape(split, [-1, 3 * p * p]) as tfjs.Tensor2D, kernel, false, true),
    w("patch_embed.proj.bias"),
  );
  const embedded = tf.reshape(patches, [batch, rows * columns, embedDim]);
  let x: Tensor = tf.add(tf.concat([tf.tile(w("cls_token"), [batch, 1, 1]), embedded], 1), w("pos_embed"));
  x = tf.reshape(x, [batch * tokens, embedDim]);
  blocks.forEach((_, i) => {
    const at = `blocks.${i}`;
    const qkv = tf.reshape(linear(norm(x, `${at}.norm1`), `${at}.attn.qkv`), [batch, tokens, 3, heads, headDim]);
    const [q, k, v] = tf.unstack(tf.transpose(qkv, [2, 0, 3, 1, 4]));
    const scores = tf.softmax(tf.mul(tf.matMul(q, k, false, true), 1 / Math.sqrt(headDim)));
    const mixed = tf.reshape(tf.transpose(tf.matMul(scores, v), [0, 2, 1, 3]), [batch * tokens, embedDim]);
    x = tf.add(x, linear(mixed, `${at}.attn.proj`));
    x = tf.add(x, linear(gelu(linear(norm(x, `${at}.norm2`), `${at}.mlp.fc1`)), `${at}.mlp.fc2`));
  });
  const first = tf.slice(tf.reshape(x, [batch, tokens, embedDim]), [0, 0, 0], [batch, 1, embedDim]);
  return linear(norm(tf.reshape(first, [batch, embedDim]), "norm"), "head");
};

/** @throws SlimViTError `unsupported` when the two forms do not agree: their speeds would mean nothing */
export function compareGradients(tf: TF, arch: Architecture, tolerance = TOLERANCE): number {
  const variables = randomVariables(tf, arch);
  const pixels = randomPixels(arch, 4);
  const [ours, plain] = [forwardOurs, forwardPlain].map((form) => gradients(tf, arch, variables, pixels, form));
  let [worst, where] = [0, ""];
  for (const [name, variable] of variables) {
    const [a, b] = [ours[variable.name].dataSync(), plain[variable.name].dataSync()];
    // A key bias has a true gradient of 0, which the plain form gives as rounding noise.
    const third = name.endsWith("qkv.bias") ? arch.embedDim : 0;
    const isKey = (k: number) => third > 0 && k >= third && k < 2 * third;
    let [largest, error] = [1e-6, 0];
    for (let k = 0; k < b.length; k++) {
      if (isKey(k)) continue;
      largest = Math.max(largest, Math.abs(b[k]));
      error = Math.max(error, Math.abs(a[k] - b[k]));
    }
    if (!(error / largest <= worst)) [worst, where] = [error / largest, name];
  }
  tf.dispose([ours, plain, [...variables.values()]]);
  if (!(worst <= tolerance)) {
    throw new SlimViTError(
      "unsupported",
      `The gradient of "${where}" differs by ${worst.toExponential(1)} of its largest value between the two forms; at most ${tolerance} is rounding.`,
    );
  }
  return worst;
}

function gradients(tf: TF, arch: Architecture, variables: Variables, input: Float32Array, form: Forward) {
  return tf.tidy(() => {
    const [height, width] = arch.imageSize;
    const batch = input.length / (3 * height * width);
    const pixels = tf.tensor4d(input, [batch, 3, height, width]);
    const labels = Array.from({ length: batch }, (_, k) => k % CLASSES);
    const targets = tf.tensor2d(smoothTargets(labels, CLASSES, 0.1), [batch, CLASSES]);
    const { grads } = tf.variableGrads(
      () => crossEntropy(tf, form(tf, arch, variables, pixels), targets).asScalar(),
      [...variables.values()],
    );
    return grads;
  });
}

function randomPixels({ imageSize: [height, width] }: Architecture, batch: number): Float32Array {
  const rng = random(batch);
  return Float32Array.from({ length: batch * 3 * height * width }, () => 2 * rng() - 1);
}

/** Forward, backward and AdamW of one batch. */
function step(tf: TF, arch: Architecture, batch: number, form: Forward): () => void {
  const variables = randomVariables(tf, arch);
  const optimiser = new AdamW(tf, { weightDecay: 0.05 });
  const pixels = randomPixels(arch, batch);
  const probe = variables.get("head.bias")!;
  return () => {
    const grads = gradients(tf, arch, variables, pixels, form);
    optimiser.step(variables, new Map([...variables].map(([name, v]) => [name, grads[v.name]])), () => 1e-4);
    tf.dispose(grads);
    probe.dataSync(); // waits for a backend that runs ahead
  };
}

function randomVariables(tf: TF, arch: Architecture): Variables {
  const rng = random(1);
  return variablesFrom(
    tf,
    [...tensorShapes(arch, CLASSES)].map(([name, shape]) => {
      const isGain = name.includes("norm") && name.endsWith("weight");
      const size = shape.reduce((a, b) => a * b, 1);
      return [name, { shape, data: Float32Array.from({ length: size }, () => (isGain ? 1 : 0.08 * (rng() - 0.5))) }];
    }),
  );
}

function timed(run: () => void): number {
  const start = performance.now();
  run();
  return (performance.now() - start) / 1000;
}

function median(values: number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

async function main(): Promise<void> {
  const program = new Command("bench-train")
    .option("--batch <n>", "pictures a step", count, 128)
    .option("--rounds <n>", "timed steps of each form", count, 15)
    .option("--backend <name>", BACKENDS.join(", "))
    .option("--precision <p>", "f32 or bf16", "f32")
    .option("--no-deit", "leave DeiT-Ti out")
    .option("--json", "one JSON value on stdout");
  program.parse();
  const { json, ...options } = program.opts();
  const report = await benchTrain(options as Parameters<typeof benchTrain>[0]);
  if (json) return printJson(report);
  const lines = [
    `${report.environment}; ${report.cpu}`,
    `ViT 32×32/4, D192 L6, batch ${report.batch}, ${report.rounds} rounds in turn, medians:`,
    `  ours   ${report.ours.toFixed(1)} images/s`,
    `  plain  ${report.plain.toFixed(1)} images/s`,
    `  ratio  ${report.ratio.toFixed(2)}`,
  ];
  if (report.deitTiny)
    lines.push(
      `DeiT-Ti 224 px, batch ${report.deitTiny.batch}: ${report.deitTiny.imagesPerSecond.toFixed(1)} images/s`,
    );
  process.stdout.write(`${lines.join("\n")}\n`);
}

if (process.argv[1]?.endsWith("benchTrain.ts")) {
  main().catch((error) => {
    say(`bench-train: ${messageOf(error)}`);
    process.exitCode = 1;
  });
}
