/**
 * The part of slim that trains: first a head for other classes, then smaller models than those that are found without
 * training.
 */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Model } from "../../src/format/model.ts";
import { withoutMerges } from "../masks/mergeSchedule.ts";
import { readModelFolder, writeModelFolder } from "../models/folders.ts";
import { FINETUNE, RETRAIN } from "../options/retrain.ts";
import { readOptions } from "../options/spec.ts";
import { percent, say } from "../shared/terminal.ts";
import { finetune } from "../training/finetune.ts";
import { batchFor, secondsAPicture, trainingBytes } from "../training/probe.ts";
import { retrain } from "../training/retrain.ts";
import { type Builder, widened } from "./build.ts";
import { decided } from "./decided.ts";
import { lossOf, type PointMeasurer } from "./measure.ts";
import type { SlimRun } from "./run.ts";
import type { Choice, Measured } from "./search.ts";
import { DENSE, keyOf, lossText, type Setting, type Space, settingOf, settingText } from "./space.ts";

/** The settings that worked best for a few thousand pictures in class folders. The dense model and the slim ones use the same. */
const RECIPE = { lr: 1.5e-4, warmup: 0.3, minScale: 0.4 };
/** Added where pictures come often enough to be learned by heart; a short training is worse with it. */
const AUGMENTATION = { mixup: 0.2, randaugment: 7, erase: 0.1 };
const MANY_EPOCHS = 10;
const trainingOf = ({ options }: TrainingPlan) => ({
  ...RECIPE,
  ...(options.epochs >= MANY_EPOCHS && AUGMENTATION),
  ...options,
});

const MOST_EPOCHS = { finetune: 20, retrain: 80 };
const LEAST_EPOCHS = 1;
/** Share of the time that goes to a head for other classes. */
const FINETUNE_SHARE = 0.3;
/** Val pictures that accuracy is measured on while training. */
const VAL_PICTURES = 512;
/** Factor for the time of a step beyond its forward and backward pass: decoding, the optimiser, measurements. */
const OVERHEAD = 1.25;

/** @returns the folder of the model with a new head; the dense one from then on */
export async function finetuneDense(run: SlimRun, unknown: string): Promise<string> {
  const { source, data, options, folder, clock, trainingKey } = run;
  const out = join(folder, `finetune-${trainingKey.slice(0, 10)}`);
  if (!existsSync(out)) say(`slim: finetunes first, because the data's classes are not the model's: ${unknown}`);
  const plan = await planOf(run, out, readModelFolder(source), FINETUNE_SHARE * clock.total, MOST_EPOCHS.finetune);
  const given = { ...trainingOf(plan), data: options.data, out, keepBest: true, valPictures: VAL_PICTURES };
  const all = readOptions(FINETUNE, { ...given, seed: options.seed ?? 0 }, "slim");
  if (!existsSync(out)) await clock.during(() => finetune(source, all));
  run.notes.push(`the dense model was finetuned for ${plan.options.epochs} epochs on ${data.train.length} pictures`);
  return out;
}

interface TrainingPlan {
  options: { epochs: number; batch: number };
  /** of the whole training */
  seconds: number;
}

/** Decided once, because a checkpoint is valid for one number of epochs only. */
async function planOf(
  { folder, data, backend }: SlimRun,
  name: string,
  model: Model,
  seconds: number,
  mostEpochs: number,
  teacher?: Model,
): Promise<TrainingPlan> {
  return decided(join(folder, "plans.json"), name, async () => {
    const { tf } = backend!;
    const batch = batchFor(model);
    // A teacher runs forward only, a third of a step.
    const ofTeacher = teacher ? (await secondsAPicture(tf, teacher, batchFor(teacher))) / 3 : 0;
    const each = (await secondsAPicture(tf, model, batch)) + ofTeacher;
    const epochSeconds = each * data.train.length * OVERHEAD;
    const epochs = Math.min(mostEpochs, Math.max(LEAST_EPOCHS, Math.floor(seconds / epochSeconds)));
    const gigabytes = trainingBytes(model, batch) / 1e9;
    say(
      `slim: trains ${epochs} epochs of ${data.train.length} pictures, about ${minutes(epochs * epochSeconds)} at ` +
        `${(1 / each).toFixed(0)} images/s, in batches of ${batch}, which take about ${gigabytes.toFixed(1)} GB`,
    );
    return { options: { epochs, batch }, seconds: epochs * epochSeconds };
  });
}

const minutes = (seconds: number) =>
  seconds > 5400 ? `${(seconds / 3600).toFixed(1)} h` : `${Math.ceil(seconds / 60)} min`;

export interface Search {
  space: Space;
  measurer: PointMeasurer;
  builder: Builder;
  /** the target, in the unit of the cost */
  most: number;
  untrained: Choice;
  /** the search without training, over the models that can be made of another one */
  from(model: Model, key: string): Promise<FoundFrom>;
}

/** The result of a search over the models that can be made of a trained one. */
export interface FoundFrom {
  space: Space;
  measurer: PointMeasurer;
  builder: Builder;
  /** nothing where none keeps the target */
  choice: Choice | undefined;
}

/** A trained model, and the model that a search from it found. */
export interface Trained extends FoundFrom {
  choice: Choice;
  /** "of a model trained with 160×160 px, patches merged to 59 % of the MACs" */
  how: string;
}

/**
 * Training is skipped where the search without it leaves at most this share of the MACs or loses at most this many
 * points.
 */
const GOOD_ENOUGH = { macsShare: 0.3, loss: 0.3 };
/** A shorter training would not learn. */
const LEAST_SECONDS = 60;
/** Share of the MACs that is trained for a target of accuracy, or of those that the search without training has left. */
const TRAINED_SHARE = 0.29;
const TRAINED_OF_FOUND = 0.75;

/**
 * Trains the dense model for smaller pictures whose patches merge, with itself as the teacher, and searches on from there without
 * training. All of the time goes to one model: half as many epochs of two give two worse ones.
 *
 * @returns what was found so; nothing where training was not tried, or gave nothing better
 */
export async function trainWherePays(run: SlimRun, search: Search): Promise<Trained | undefined> {
  const { clock, backend, notes, target } = run;
  const { untrained } = search;
  if (run.untrainable || !backend) return undefined;
  const isEnough =
    target.kind === "loss" ? shareOf(search) <= GOOD_ENOUGH.macsShare : untrained.chosen.loss <= GOOD_ENOUGH.loss;
  if (isEnough && !clock.isGiven) {
    notes.push(
      "nothing more was trained: what the search found leaves little to gain (--train 1h trains all the same)",
    );
    return undefined;
  }
  const trained = clock.left < LEAST_SECONDS ? undefined : await trainAndSearch(run, search, startOf(run, search));
  if (trained && isBetter(target, trained.choice.chosen, untrained.chosen)) return trained;
  notes.push("training gave no better model than the search without training");
  return undefined;
}

/** MACs of what was found without training, as a share of the dense model's. */
const shareOf = ({ measurer, space, untrained }: Search): number =>
  measurer.macs(settingOf(space, untrained.chosen.point))! / measurer.macs(measurer.reference)!;

/** Compares by accuracy under a target of cost, and by cost under a target of accuracy. */
const isBetter = ({ kind }: SlimRun["target"], a: Measured, b: Measured): boolean =>
  kind === "loss" ? a.cost < b.cost : a.loss < b.loss;

/**
 * The setting that is trained. The picture size does half of the saving, and patches that merge, or where they cannot are dropped,
 * the other half; where only bytes count, it has the widths that were taken.
 */
function startOf({ target }: SlimRun, search: Search): Setting {
  const { space, measurer, untrained } = search;
  if (target.kind === "bytes") return settingOf(space, untrained.chosen.point);
  const denseMacs = measurer.macs(measurer.reference)!;
  const share = target.kind === "loss" ? Math.min(TRAINED_SHARE, TRAINED_OF_FOUND * shareOf(search)) : shareOf(search);
  const axis = space.merges.length > 1 ? "merges" : "lists";
  const sizes = space.size.map((size) => {
    const whole: Setting = { ...measurer.reference, size };
    return { whole, sizeShare: measurer.macs(whole)! / denseMacs };
  });
  const starts = sizes.flatMap(({ whole, sizeShare }) => {
    const start = { ...whole, [axis]: Math.min(1, Math.floor((1000 * share) / sizeShare) / 1000) };
    const isReached = (measurer.macs(start) ?? Infinity) <= share * denseMacs;
    return isReached ? [{ start, distance: Math.abs(sizeShare - Math.sqrt(share)) }] : [];
  });
  // Where too few patches can go, as in shallow networks, the picture size does what it can.
  if (!starts.length)
    for (const { whole, sizeShare } of sizes) starts.push({ start: whole, distance: Math.abs(sizeShare - share) });
  return starts.reduce((a, b) => (b.distance < a.distance ? b : a)).start;
}

/** @returns nothing where no model that can be made of the trained one keeps the target */
async function trainAndSearch(run: SlimRun, search: Search, setting: Setting): Promise<Trained | undefined> {
  const { measurer } = search;
  const name = createHash("sha256")
    .update(`${run.trainingKey} ${keyOf(setting)}`)
    .digest("hex")
    .slice(0, 10);
  const start = join(run.folder, `start-${name}`);
  const model = await search.builder.exact(setting);
  if (!existsSync(start)) {
    const { format: _, weights: __, ...draft } = { ...model.manifest, metrics: {} };
    writeModelFolder(start, draft, model.tensors, ["f32"]);
  }
  const out = await retrainInRounds(run, start, join(run.folder, `retrain-${name}`), model);
  const before = lossOf(await measurer.onVal(setting), await measurer.onVal(measurer.reference));
  const trained = widened(readModelFolder(out));
  let found = await search.from(trained, name);
  const after = await found.measurer.loss(DENSE);
  const result = `${settingText(setting)}: ${lossText(before)} before training, ${lossText(after)} after`;
  say(`slim: trained ${result}`);
  const isWorse = after > before;
  run.notes.push(`trained ${result}${isWorse ? "; thrown away, as training made it worse" : ""}`);
  if (isWorse) return undefined;
  // Where this many merges lose too much, the same weights lose less with fewer.
  if (!found.choice && setting.merges < 1)
    found = await search.from({ ...trained, manifest: withoutMerges(trained.manifest) }, `${name} whole`);
  if (found.choice) return { ...found, choice: found.choice, how: `of a model trained with ${settingText(setting)}` };
  if (run.target.kind === "loss")
    run.notes.push(missedNote(after, measurer.macs(setting)! / measurer.macs(measurer.reference)!));
  return undefined;
}

/** Says with which target a trained model would have been taken. @param lost points that it loses, more than the target allows */
export function missedNote(lost: number, macsShare: number): string {
  const most = (Math.ceil(10 * lost) / 10).toFixed(1);
  return `--lose-at-most ${most} takes it, ${percent(macsShare)} of the MACs, and does not train again`;
}

/**
 * A training that ends with at least this share of the time left was planned while the machine was slower. Its result is
 * trained again.
 */
const AGAIN_SHARE = 0.25;

/** @returns the folder of the last round's result: `first`, `first-2`, … */
async function retrainInRounds(run: SlimRun, start: string, first: string, model: Model): Promise<string> {
  const { clock, folder } = run;
  const teacher = readModelFolder(run.source);
  const outOf = (round: number) => (round === 1 ? first : `${first}-${round}`);
  let [from, epochs] = [start, 0];
  for (let round = 1; ; round++) {
    const out = outOf(round);
    const plan = await planOf(run, out, model, clock.left, MOST_EPOCHS.retrain - epochs, teacher);
    if (!existsSync(out)) await clock.during(() => retrainOne(run, from, out, plan, round));
    epochs += plan.options.epochs;
    const isTimeLeft = async () => epochs < MOST_EPOCHS.retrain && clock.left >= AGAIN_SHARE * clock.total;
    if (!(await decided(join(folder, "plans.json"), `${out} again`, isTimeLeft))) return out;
    if (!existsSync(outOf(round + 1)))
      say(`slim: ${minutes(clock.left)} of ${minutes(clock.total)} are left, so the result is trained again`);
    from = out;
  }
}

async function retrainOne(
  { options, source }: SlimRun,
  from: string,
  out: string,
  plan: TrainingPlan,
  round: number,
): Promise<void> {
  const given = { ...trainingOf(plan), data: options.data, out, teacher: source, keepBest: true };
  const seed = (options.seed ?? 0) + round - 1; // other crops than the round before
  const more = { valPictures: VAL_PICTURES, seed, ...(options.unlabelled && { unlabelled: true }) };
  await retrain(from, readOptions(RETRAIN, { ...given, ...more }, "slim"));
}
