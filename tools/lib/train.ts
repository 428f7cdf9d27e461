/**
 * The training loop that search, retrain and finetune share: batches → loss terms → AdamW, with checkpoints.
 * All randomness is a function of seed and step (random.ts), so a checkpoint is the variables, the optimiser and a step.
 */
import { existsSync, readFileSync, rmSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import type * as tfjs from "@tensorflow/tfjs-core";
import type { Tensor, TF } from "../../src/engines/tfjs/ops.ts";
import { SlimViTError } from "../../src/errors.ts";
import { readSafetensors, type StoredTensor, writeSafetensors } from "../../src/format/safetensors.ts";
import { AdamW } from "./adamw.ts";
import type { Backend } from "./backend.ts";
import { type Batch, stepsPerEpoch, type TrainData, trainBatches } from "./data.ts";
import { writeFileAtomic } from "./folders.ts";
import { crossEntropy, hardDistillation, mixTargets, smoothTargets, softDistillation } from "./losses.ts";
import { startProgress } from "./progress.ts";
import { beta, random } from "./random.ts";
import { say } from "./terminal.ts";

/** Options of every training command; the paper's values are in the README of the tools. */
export interface Recipe {
  epochs: number;
  batch: number;
  lr: number;
  /** epochs of linear warm-up */
  warmup: number;
  schedule: "cosine" | "constant";
  weightDecay: number;
  smoothing: number;
  /** Beta parameters; 0 turns each off. With both on, each batch takes one at random. */
  mixup: number;
  cutmix: number;
  dropPath: number;
  minScale: number;
  /** share of distillation in the base loss when there is a teacher */
  alpha: number;
  tau: number;
  distillation: "soft" | "hard";
  /** decay of the exponential moving average of the weights; 0 keeps none */
  ema: number;
  seed: number;
  checkpointSeconds: number;
}

export type Variables = Map<string, tfjs.Variable>;

export interface TrainTask {
  name: string;
  variables: Variables;
  /** The base loss's forward pass. */
  logits(pixels: Tensor, branchGates: { attn: Tensor; mlp: Tensor }[] | undefined): Tensor;
  /** further terms, already weighted, by name */
  penalties?(): Record<string, Tensor>;
  teacher?: (pixels: Tensor) => Tensor;
  classes: number;
  depth: number;
  /** the recipe's rate → this variable's */
  rate?: (name: string, lr: number) => number;
  decays?: (name: string, variable: Tensor) => boolean;
  /** e.g. a projection of masks onto their allowed range */
  afterStep?: () => void;
  data: TrainData;
  /** where the checkpoint goes and under which options it may be continued */
  checkpoint: { path: string; fingerprint: string; resume: boolean };
}

export interface TrainReport {
  steps: number;
  imagesPerSecond: number;
  seconds: number;
  /** share of the time that training waited for pictures */
  waitShare: number;
  /** a line every few steps: step and the terms' values */
  history: Record<string, number>[];
}

const HISTORY_LINES = 400;

/**
 * @returns when all steps are done, with `task.variables` at their last (or, with EMA, averaged) values
 * @throws SlimViTError `bad-input` when a loss is NaN, naming step, batch and the last good checkpoint
 */
export async function train({ tf }: Backend, task: TrainTask, recipe: Recipe): Promise<TrainReport> {
  const perEpoch = stepsPerEpoch(task.data.pictures.length, recipe.batch);
  const total = Math.max(1, Math.round(recipe.epochs * perEpoch));
  const optimiser = new AdamW(tf, { weightDecay: recipe.weightDecay, ...(task.decays && { decays: task.decays }) });
  const ema = new Map<string, Tensor>();
  const history: Record<string, number>[] = [];
  let step = task.checkpoint.resume ? restore(tf, task, optimiser, ema, history) : 0;
  if (step) say(`${task.name}: resumed at step ${step} of ${total}`);
  const firstStep = step;
  const progress = startProgress(task.name, total, step);
  const started = performance.now();
  let [images, waited, lastCheckpoint] = [0, 0, started];

  const batches = trainBatches(task.data, { batch: recipe.batch, seed: recipe.seed, from: step, to: total });
  for (;;) {
    const waiting = performance.now();
    const { value: batch, done } = await batches.next();
    waited += performance.now() - waiting;
    if (done) break;
    const lr = learningRate(recipe, step, perEpoch, total);
    const terms = trainStep(tf, task, recipe, optimiser, batch, step, lr);
    if (!Number.isFinite(terms.loss)) {
      progress.stop();
      throw new SlimViTError(
        "bad-input",
        `${task.name}: the loss became ${terms.loss} at step ${step} (pictures ${batch.names.slice(0, 3).join(", ")} …). ` +
          (existsSync(task.checkpoint.path) ? `The last good checkpoint is ${task.checkpoint.path}; ` : "") +
          "lower --lr.",
      );
    }
    task.afterStep?.();
    if (recipe.ema) updateEma(tf, task.variables, ema, recipe.ema, step);
    step++;
    images += batch.size;
    if (step % Math.max(1, Math.floor(total / HISTORY_LINES)) === 0 || step === total) history.push({ step, ...terms });
    const now = performance.now();
    const figures = Object.entries(terms).map(([name, value]) => `${name} ${value.toFixed(3)}`);
    progress.update(step, `${figures.join(" ")}  ${(images / ((now - started) / 1000)).toFixed(1)} images/s`);
    if (now - lastCheckpoint > recipe.checkpointSeconds * 1000) {
      save(task, optimiser, ema, history, step);
      lastCheckpoint = now;
    }
  }
  progress.stop();
  save(task, optimiser, ema, history, step); // so that a kill while the result is written loses nothing
  for (const [name, average] of ema) task.variables.get(name)!.assign(average as tfjs.Tensor);
  optimiser.dispose();
  tf.dispose([...ema.values()]);
  const seconds = (performance.now() - started) / 1000;
  return {
    steps: step - firstStep,
    imagesPerSecond: images / seconds,
    seconds,
    waitShare: waited / 1000 / seconds,
    history,
  };
}

/** Beside the output, so that it survives a kill and is found by --resume. */
export const checkpointPath = (out: string) =>
  join(dirname(resolve(out)), `.${basename(resolve(out))}.checkpoint.safetensors`);

/** To be called once the result is safely written. */
export function removeCheckpoint({ checkpoint }: TrainTask): void {
  rmSync(checkpoint.path, { force: true });
}

function trainStep(
  tf: TF,
  task: TrainTask,
  recipe: Recipe,
  optimiser: AdamW,
  batch: Batch,
  step: number,
  lr: number,
): Record<string, number> {
  const rng = random(recipe.seed, 0x73746570, step);
  const mixed = mix(batch, task, recipe, rng);
  const values: Record<string, number> = {};
  const [height, width] = task.data.preprocess.crop;
  const kept: Record<string, Tensor> = {};
  const { gradients, terms } = tf.tidy(() => {
    const pixels = tf.tensor4d(mixed.pixels, [batch.size, 3, height, width]);
    const targets = mixed.targets && tf.tensor2d(mixed.targets, [batch.size, task.classes]);
    const teacher = task.teacher?.(pixels);
    const gates = dropPathGates(tf, task.depth, batch.size, recipe.dropPath, rng);
    const { value, grads } = tf.variableGrads(() => {
      const logits = task.logits(pixels, gates);
      const parts: Record<string, Tensor> = {
        ...baseLoss(tf, recipe, logits, targets, teacher),
        ...task.penalties?.(),
      };
      for (const [name, term] of Object.entries(parts)) kept[name] = tf.keep(term.clone());
      return tf.addN(Object.values(parts)).asScalar();
    }, [...task.variables.values()]);
    return { gradients: grads, terms: { loss: value as Tensor } };
  });
  for (const [name, term] of Object.entries({ ...terms, ...kept })) values[name] = term.dataSync()[0];
  if (Number.isFinite(values.loss)) {
    const byName = new Map([...task.variables].map(([name, variable]) => [name, gradients[variable.name]]));
    optimiser.step(task.variables, byName, (name) => task.rate?.(name, lr) ?? lr);
  }
  tf.dispose([gradients, terms, kept]);
  return values;
}

function baseLoss(
  tf: TF,
  recipe: Recipe,
  logits: Tensor,
  targets: Tensor | undefined,
  teacher: Tensor | undefined,
): Record<string, Tensor> {
  const terms: Record<string, Tensor> = {};
  const alpha = teacher ? (targets ? recipe.alpha : 1) : 0;
  if (targets && alpha < 1) terms.ce = tf.mul(crossEntropy(tf, logits, targets), 1 - alpha);
  if (teacher && alpha > 0) {
    const distill =
      recipe.distillation === "soft"
        ? softDistillation(tf, logits, teacher, recipe.tau, "batch")
        : hardDistillation(tf, logits, teacher);
    terms.kd = tf.mul(distill, alpha);
  }
  return terms;
}

/** Mixup or cutmix of the batch with its reverse, targets alike; distillation sees the mixed pictures too. */
function mix(
  batch: Batch,
  { classes, data }: TrainTask,
  recipe: Recipe,
  rng: () => number,
): { pixels: Float32Array; targets?: Float32Array } {
  const labelled = data.indices !== undefined;
  const targets = labelled ? smoothTargets(batch.labels, classes, recipe.smoothing) : undefined;
  const useCutmix = recipe.cutmix > 0 && (recipe.mixup === 0 || rng() < 0.5);
  const strength = useCutmix ? recipe.cutmix : recipe.mixup;
  if (strength === 0 || batch.size < 2) return { pixels: batch.pixels, targets };
  const { size, pixels } = batch;
  const [height, width] = data.preprocess.crop;
  const each = 3 * height * width;
  let lam = beta(strength, rng);
  const out = new Float32Array(pixels.length);
  if (useCutmix) {
    const h = Math.round(height * Math.sqrt(1 - lam));
    const w = Math.round(width * Math.sqrt(1 - lam));
    const top = Math.floor(rng() * (height - h + 1));
    const left = Math.floor(rng() * (width - w + 1));
    lam = 1 - (h * w) / (height * width);
    out.set(pixels);
    for (let b = 0; b < size; b++) {
      for (let c = 0; c < 3; c++) {
        for (let y = top; y < top + h; y++) {
          const at = (c * height + y) * width + left;
          out.set(pixels.subarray((size - 1 - b) * each + at, (size - 1 - b) * each + at + w), b * each + at);
        }
      }
    }
  } else {
    for (let b = 0; b < size; b++) {
      const [mine, other] = [b * each, (size - 1 - b) * each];
      for (let k = 0; k < each; k++) out[mine + k] = lam * pixels[mine + k] + (1 - lam) * pixels[other + k];
    }
  }
  const flipped = targets && smoothTargets([...batch.labels].reverse(), classes, recipe.smoothing);
  return { pixels: out, targets: targets && mixTargets(targets, flipped!, lam) };
}

/** Stochastic depth: block i's branches are dropped with a probability that grows linearly with depth. */
function dropPathGates(tf: TF, depth: number, batch: number, rate: number, rng: () => number) {
  if (rate === 0) return undefined;
  const gate = (drop: number) =>
    tf.tensor3d(
      Float32Array.from({ length: batch }, () => (rng() < drop ? 0 : 1 / (1 - drop))),
      [batch, 1, 1],
    ) as Tensor;
  return Array.from({ length: depth }, (_, i) => {
    const drop = depth > 1 ? (rate * i) / (depth - 1) : 0;
    return { attn: gate(drop), mlp: gate(drop) };
  });
}

function learningRate({ lr, warmup, schedule }: Recipe, step: number, perEpoch: number, total: number): number {
  const warm = Math.round(warmup * perEpoch);
  if (step < warm) return (lr * (step + 1)) / warm;
  if (schedule === "constant") return lr;
  return lr * (0.01 + 0.99 * 0.5 * (1 + Math.cos((Math.PI * (step - warm)) / Math.max(1, total - warm))));
}

/** A young average follows faster: the decay is capped by (1 + step) / (10 + step). */
function updateEma(tf: TF, variables: Variables, ema: Map<string, Tensor>, decay: number, step: number): void {
  const d = Math.min(decay, (1 + step) / (10 + step));
  for (const [name, variable] of variables) {
    const before = ema.get(name);
    ema.set(
      name,
      tf.keep(tf.tidy(() => (before ? tf.add(tf.mul(before, d), tf.mul(variable, 1 - d)) : variable.clone()))),
    );
    before?.dispose();
  }
}

function save(
  { checkpoint, variables }: TrainTask,
  optimiser: AdamW,
  ema: Map<string, Tensor>,
  history: Record<string, number>[],
  step: number,
): void {
  const stored = new Map<string, StoredTensor>();
  const put = (name: string, t: Tensor) =>
    stored.set(name, { dtype: "F32", shape: t.shape, data: t.dataSync() as Float32Array });
  for (const [name, variable] of variables) put(`variable.${name}`, variable);
  for (const [name, [m, v]] of optimiser.moments) {
    put(`m.${name}`, m);
    put(`v.${name}`, v);
  }
  for (const [name, average] of ema) put(`ema.${name}`, average);
  const metadata = { step: String(step), fingerprint: checkpoint.fingerprint, history: JSON.stringify(history) };
  writeFileAtomic(checkpoint.path, writeSafetensors(stored, metadata));
}

/** @returns the step to go on with; 0 when there is no checkpoint */
function restore(
  tf: TF,
  { name, checkpoint, variables }: TrainTask,
  optimiser: AdamW,
  ema: Map<string, Tensor>,
  history: Record<string, number>[],
): number {
  if (!existsSync(checkpoint.path)) {
    say(`${name}: no checkpoint at ${checkpoint.path}; starting from the beginning`);
    return 0;
  }
  const bytes = readFileSync(checkpoint.path);
  const stored = readSafetensors(bytes, checkpoint.path);
  const length = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
  const metadata = JSON.parse(bytes.subarray(8, 8 + length).toString("utf8")).__metadata__ ?? {};
  if (metadata.fingerprint !== checkpoint.fingerprint) {
    throw new SlimViTError(
      "bad-option",
      `${checkpoint.path}: was made with other options, model or data. Resume with the same ones, or remove it to start again.`,
    );
  }
  const tensor = (key: string) => {
    const found = stored.get(key);
    return found && (tf.tensor(found.data as Float32Array, found.shape) as Tensor);
  };
  for (const [key, variable] of variables) {
    const value = tensor(`variable.${key}`);
    if (!value) throw new SlimViTError("bad-model", `${checkpoint.path}: lacks "${key}".`);
    variable.assign(value as tfjs.Tensor);
    value.dispose();
    const [m, v, average] = [tensor(`m.${key}`), tensor(`v.${key}`), tensor(`ema.${key}`)];
    if (m && v) optimiser.moments.set(key, [m, v]);
    if (average) ema.set(key, average);
  }
  optimiser.steps = Number(metadata.step);
  history.push(...JSON.parse(metadata.history));
  return Number(metadata.step);
}

/** Named f32 tensors → trainable variables. */
export function variablesFrom(tf: TF, entries: Iterable<[string, { shape: number[]; data: Float32Array }]>): Variables {
  return new Map(
    [...entries].map(([name, { shape, data }]) => [name, tf.tidy(() => tf.variable(tf.tensor(data, shape)))]),
  );
}
