/**
 * The training loop that search, retrain and finetune share: batches → loss terms → AdamW, with checkpoints.
 * All randomness is a function of seed and step (random.ts), so a checkpoint is the variables, the optimiser and a step.
 */
import { existsSync } from "node:fs";
import type * as tfjs from "@tensorflow/tfjs-core";
import { SlimViTError } from "../../src/errors.ts";
import type { Tensor, TF } from "../../src/tfjs/ops.ts";
import { type Accuracy, accuracySummary, accuracyText } from "../models/history.ts";
import { commandLine, type Interrupts, watchInterrupts } from "../shared/interrupt.ts";
import { startProgress } from "../shared/progress.ts";
import { random } from "../shared/random.ts";
import { percent, say } from "../shared/terminal.ts";
import { AdamW } from "./adamw.ts";
import { updateAverages, withAverages } from "./averages.ts";
import type { Backend } from "./backend.ts";
import { type Batch, stepsPerEpoch, trainBatches } from "./batches.ts";
import { restoreCheckpoint, saveCheckpoint } from "./checkpoint.ts";
import { addGradients, type Gradients, gradientsOf } from "./gradients.ts";
import type { Recipe } from "./recipe.ts";
import type { TrainTask } from "./task.ts";
import { accuracyMeter, meanAccuracy } from "./validation.ts";

export type { Student, Together, TrainTask } from "./task.ts";

export interface TrainReport {
  steps: number;
  imagesPerSecond: number;
  seconds: number;
  /** share of the time that training waited for pictures */
  waitShare: number;
  /** of the weights that are the result, where it was measured; shares of `valPictures` pictures */
  valTop1?: number;
  valAgreement?: number;
  /** of an embedding model: mean cosine of its features with the teacher's */
  valCosine?: number;
  valPictures?: number;
  /** a line every few steps: step and the terms' values; where accuracy was measured, that too, at step 0 alone */
  history: Record<string, number>[];
}

const HISTORY_LINES = 400;

/**
 * @returns when all steps are done, with `task.variables` at their last (or, with EMA, averaged) values
 * @throws SlimViTError `bad-input` when a loss is NaN, naming step, batch and the last good checkpoint; `aborted` after
 *   Ctrl-C, with the command that continues
 */
export async function train({ tf }: Backend, task: TrainTask, recipe: Recipe): Promise<TrainReport> {
  const interrupts = watchInterrupts("this step is done and the checkpoint is written");
  try {
    return await trainSteps(tf, task, recipe, interrupts);
  } finally {
    interrupts.stop();
  }
}

async function trainSteps(tf: TF, task: TrainTask, recipe: Recipe, interrupts: Interrupts): Promise<TrainReport> {
  const perEpoch = stepsPerEpoch(task.data.pictures.length, recipe.batch * recipe.accumulate);
  const total = Math.max(1, Math.round(recipe.epochs * perEpoch));
  const optimiser = new AdamW(tf, { weightDecay: recipe.weightDecay, ...(task.decays && { decays: task.decays }) });
  const ema = new Map<string, Tensor>();
  const history: Record<string, number>[] = [];
  let step = restoreCheckpoint(tf, task, optimiser, ema, history);
  if (step) say(`${task.name}: resumed at step ${step} of ${total}`);
  const firstStep = step;
  const progress = startProgress(task.name, total, step);
  const started = performance.now();
  let [images, waited, lastCheckpoint] = [0, 0, started];
  const imagesPerSecond = () => images / ((performance.now() - started - (meter?.spentMs() ?? 0)) / 1000);

  const meter = openMeter(tf, task, recipe, ema, total);
  const measuredEvery = Math.max(1, Math.round(recipe.valEvery * perEpoch));
  if (meter && step === 0) {
    history.push({ step, ...(await meter.measure(step)) });
    say(`${task.name}: ${costOfMeasuring(task, meter, measuredEvery, total)}`);
  }

  const { batch: size, accumulate, repeats, seed } = recipe;
  const batches = trainBatches(task.data, { batch: size, accumulate, repeats, seed, from: step, to: total });
  let sum: Gradients | undefined;
  for (let part = 0; ; part++) {
    const waiting = performance.now();
    const { value: batch, done } = await batches.next();
    waited += performance.now() - waiting;
    if (done) break;
    if (batch.size) {
      const rng = random(seed, 0x73746570, step, ...(part ? [part] : []));
      const gradients = await gradientsOf(tf, task, recipe, batch, rng, { step, progress: step / total });
      if (!Number.isFinite(gradients.terms.loss)) {
        progress.stop();
        throw notFinite(task, gradients.terms.loss, step, batch);
      }
      sum = sum ? addGradients(tf, sum, gradients) : gradients;
      images += batch.size;
    }
    if (!batch.last) continue;

    // Before the update: these weights have just given a finite loss. What the update makes of them is not known yet.
    const now = performance.now();
    const isDue = step > firstStep && now - lastCheckpoint > recipe.checkpointSeconds * 1000;
    if (isDue || interrupts.requested) {
      await saveCheckpoint(task, optimiser, ema, history, step);
      lastCheckpoint = now;
    }
    if (interrupts.requested) {
      progress.stop();
      throw interrupted(task, step, total);
    }
    if (sum) {
      const { byName, terms } = sum;
      const lr = learningRate(recipe, step, perEpoch, total);
      optimiser.step(task.variables, byName, (name) => task.rate?.(name, lr) ?? lr);
      tf.dispose([...byName.values()]);
      task.afterStep?.();
      if (recipe.ema) updateAverages(tf, task.variables, ema, recipe.ema, step);
      const isLast = step + 1 === total;
      const accuracy = (step + 1) % measuredEvery === 0 || isLast ? await meter?.measure(step + 1) : undefined;
      if (accuracy) progress.note(`${task.name}: step ${step + 1} of ${total}: ${accuracyText(accuracy)} on val`);
      if (accuracy || isLast || (step + 1) % Math.max(1, Math.floor(total / HISTORY_LINES)) === 0)
        history.push({ step: step + 1, ...terms, ...(await task.figures?.()), ...accuracy });
      const figures = Object.entries(terms).map(([name, value]) => `${name} ${value.toFixed(3)}`);
      progress.update(step + 1, `${figures.join(" ")}  ${imagesPerSecond().toFixed(1)} images/s`);
    }
    [sum, part] = [undefined, -1];
    step++;
  }
  await checkWeights(task, step - 1);
  progress.stop();
  await saveCheckpoint(task, optimiser, ema, history, step); // so that a kill while the result is written loses nothing
  const endsWith = takeResult(task, ema, step);
  optimiser.dispose();
  tf.dispose([...ema.values()]);
  const seconds = (performance.now() - started) / 1000;
  if (meter) sayAccuracy(task, history, meter.spentMs() / 1000 / seconds);
  return {
    steps: step - firstStep,
    imagesPerSecond: imagesPerSecond(),
    seconds,
    waitShare: waited / 1000 / seconds,
    ...(meter && { valPictures: task.validation!.pictures.length }),
    ...accuracyAt(endsWith, history),
    history,
  };
}

interface Meter {
  /** Of what the run would end with at this step: with EMA, of the averaged weights. */
  measure(step: number): Promise<Accuracy>;
  /** milliseconds so far */
  spentMs(): number;
}

/** @returns nothing where accuracy is not measured */
function openMeter(
  tf: TF,
  task: TrainTask,
  recipe: Recipe,
  ema: Map<string, Tensor>,
  total: number,
): Meter | undefined {
  if (!task.validation) return undefined;
  const accuracyOfOutputs = accuracyMeter(tf, task.validation, recipe.batch, task.teacher, task.learns);
  let spent = 0;
  const measure = async (step: number): Promise<Accuracy> => {
    const began = performance.now();
    const accuracyOf = (forward: TrainTask["forward"]) =>
      accuracyOfOutputs((pixels) => {
        const { logits, features } = forward(pixels, undefined, step / total);
        return task.learns === "features" ? features : logits;
      });
    const accuracy = await withAverages(tf, task.variables, ema, async () => {
      const found = task.together
        ? await meanAccuracy(task.together.all, ({ forward }) => accuracyOf(forward))
        : await accuracyOf(task.forward);
      task.best?.offer(tf, task.variables, found, step);
      return found;
    });
    spent += performance.now() - began;
    return accuracy;
  };
  return { measure, spentMs: () => spent };
}

function costOfMeasuring({ validation }: TrainTask, { spentMs }: Meter, every: number, total: number): string {
  return (
    `accuracy on ${validation!.pictures.length} val pictures, now and after ${every === 1 ? "each" : `every ${every}`} of ${total} steps, ` +
    `takes ${(spentMs() / 1000).toFixed(1)} s each (--val-pictures 0 leaves it out)`
  );
}

function sayAccuracy({ name }: TrainTask, history: TrainReport["history"], share: number): void {
  const summary = accuracySummary(history);
  if (summary.length) say(`${name}: on val ${summary.join("; ")}; measuring took ${percent(share)} of the time`);
}

/** Gives the variables the averaged or the best weights, where there are such. @returns the step that they are of */
function takeResult(task: TrainTask, ema: Map<string, Tensor>, step: number): number {
  for (const [name, average] of ema) task.variables.get(name)!.assign(average as tfjs.Tensor);
  const endsWith = task.best?.takeOver(task.variables) ?? step;
  if (endsWith < step) say(`${task.name}: ends with the weights of step ${endsWith}, which were best on val`);
  return endsWith;
}

function accuracyAt(
  step: number,
  history: TrainReport["history"],
): Pick<TrainReport, "valTop1" | "valAgreement" | "valCosine"> {
  const line = history.find((line) => line.step === step) ?? history.at(-1) ?? {};
  return {
    ...("val.top1" in line && { valTop1: line["val.top1"] }),
    ...("val.agreement" in line && { valAgreement: line["val.agreement"] }),
    ...("val.cosine" in line && { valCosine: line["val.cosine"] }),
  };
}

/** @throws SlimViTError `bad-input` where an update made NaN of a weight */
async function checkWeights(task: TrainTask, step: number): Promise<void> {
  for (const [name, variable] of task.variables)
    if (!(await variable.data()).every(Number.isFinite)) throw notFinite(task, NaN, step, undefined, name);
}

/** The error after Ctrl-C, which says how to continue. */
function interrupted({ name, checkpoint }: TrainTask, step: number, total: number): SlimViTError {
  return new SlimViTError(
    "aborted",
    `${name}: stopped at step ${step} of ${total}; ${checkpoint.path} holds its state. The same command continues:\n  ${commandLine()}`,
  );
}

function notFinite(task: TrainTask, loss: number, step: number, batch?: Batch, variable?: string): SlimViTError {
  const what = variable
    ? `the weights became NaN ("${variable}") in step ${step}`
    : `the loss became ${loss} at step ${step}`;
  const pictures = batch ? ` (pictures ${batch.names.slice(0, 3).join(", ")}${batch.size > 3 ? " …" : ""})` : "";
  const { path } = task.checkpoint;
  const next = existsSync(path)
    ? `The last good checkpoint is ${path}: the same command with a lower --lr continues from it.`
    : "There is no checkpoint yet: start again with a lower --lr.";
  return new SlimViTError("bad-input", `${task.name}: ${what}${pictures}. ${next}`);
}

function learningRate({ lr, warmup, schedule }: Recipe, step: number, perEpoch: number, total: number): number {
  const warm = Math.round(warmup * perEpoch);
  if (step < warm) return (lr * (step + 1)) / warm;
  if (schedule === "constant") return lr;
  return lr * (0.01 + 0.99 * 0.5 * (1 + Math.cos((Math.PI * (step - warm)) / Math.max(1, total - warm))));
}
