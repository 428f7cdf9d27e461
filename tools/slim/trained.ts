/** The part of slim that trains: a head for other classes first, then smaller models than what is found without training. */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Model } from "../../src/format/model.ts";
import { readModelFolder, writeModelFolder } from "../models/folders.ts";
import { FINETUNE, RETRAIN } from "../options/retrain.ts";
import { readOptions } from "../options/spec.ts";
import { say } from "../shared/terminal.ts";
import { finetune } from "../training/finetune.ts";
import { batchFor, secondsAPicture, trainingBytes } from "../training/probe.ts";
import { retrain } from "../training/retrain.ts";
import { type Builder, widened } from "./build.ts";
import { decided } from "./decided.ts";
import { lossOf, type PointMeasurer } from "./measure.ts";
import type { SlimRun } from "./run.ts";
import type { Choice, Measured } from "./search.ts";
import { DENSE, keyOf, type Setting, type Space, settingOf } from "./space.ts";
import { settingText } from "./verdict.ts";

/** What a few thousand pictures of a class folder were trained best with; the same for the dense model and the slim ones. */
const RECIPE = { lr: 1.5e-4, warmup: 0.3, mixup: 0.2, randaugment: 7, erase: 0.1, minScale: 0.4 };
const MOST_EPOCHS = { finetune: 15, retrain: 40 };
const LEAST_EPOCHS = 1;
/** Share of the time that goes to a head for other classes. */
const FINETUNE_SHARE = 0.3;
/** Val pictures that accuracy is measured on while training. */
const VAL_PICTURES = 512;
/** What a step costs beside its forward and backward pass: decoding, the optimiser, measurements. */
const OVERHEAD = 1.25;

/** @returns the folder of the model with a new head; the dense one from then on */
export async function finetuneDense(run: SlimRun, unknown: string): Promise<string> {
  const { source, data, options, folder, clock, key } = run;
  const out = join(folder, `finetune-${key.slice(0, 10)}`);
  if (!existsSync(out)) say(`slim: finetunes first, because the data's classes are not the model's: ${unknown}`);
  const plan = await planOf(run, out, readModelFolder(source), FINETUNE_SHARE * clock.total, MOST_EPOCHS.finetune);
  const given = { ...RECIPE, ...plan.options, data: options.data, out, keepBest: true, valPictures: VAL_PICTURES };
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

/** Decided once: the number of epochs is part of what a checkpoint is for. */
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
    // A teacher runs forward only, a third of a step.
    const each = (await secondsAPicture(tf, model)) + (teacher ? (await secondsAPicture(tf, teacher)) / 3 : 0);
    const epochSeconds = each * data.train.length * OVERHEAD;
    const epochs = Math.min(mostEpochs, Math.max(LEAST_EPOCHS, Math.floor(seconds / epochSeconds)));
    const batch = batchFor(model);
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

/** What was found among the models that can be made of a trained one. */
export interface FoundFrom {
  space: Space;
  measurer: PointMeasurer;
  builder: Builder;
  /** nothing where none keeps the target */
  choice: Choice | undefined;
}

/** A model that was trained and then searched from, and what was taken of it. */
export interface Trained extends FoundFrom {
  choice: Choice;
  /** "trained at 160×160 px" */
  how: string;
}

/** Without training, that little is left or lost that more training is not worth hours of it. */
const GOOD_ENOUGH = { macsShare: 0.3, loss: 0.3 };
/** A training that had less time than this would not learn. */
const LEAST_SECONDS = 60;
/** MACs of the picture sizes that are trained for a target of accuracy, the first one with this share of the time that is left. */
const TRAINED_SHARES = [0.5, 0.33];
const FIRST_SHARE = 0.6;

/**
 * Trains the dense model for smaller pictures, with itself as the teacher, and searches on from there without training: what
 * training makes up for best is the picture size, and merged patches lose least without.
 *
 * @returns the best that was found so; nothing where training was not tried, or gave nothing better
 */
export async function trainWherePays(run: SlimRun, search: Search): Promise<Trained | undefined> {
  const { clock, backend, notes, target } = run;
  const { measurer, space, untrained } = search;
  if (run.untrainable || !backend) return undefined;
  const denseMacs = measurer.macs(measurer.reference)!;
  const share = measurer.macs(settingOf(space, untrained.chosen.point))! / denseMacs;
  const isEnough = target.kind === "loss" ? share <= GOOD_ENOUGH.macsShare : untrained.chosen.loss <= GOOD_ENOUGH.loss;
  if (isEnough && !clock.isGiven) {
    notes.push(
      "nothing more was trained: what the search found leaves little to gain (--train 1h trains all the same)",
    );
    return undefined;
  }
  let best: Trained | undefined;
  for (const [k, start] of startsOf(run, search).entries()) {
    if (clock.left < LEAST_SECONDS) break;
    const last = k === TRAINED_SHARES.length - 1 || target.kind !== "loss";
    const trained = await trainAndSearch(run, search, start, last ? 1 : FIRST_SHARE);
    if (!trained) break; // smaller pictures lose more
    if (isBetter(target, trained.choice.chosen, (best?.choice ?? untrained).chosen)) best = trained;
  }
  if (!best) notes.push("training gave nothing better than what was found without");
  return best;
}

/** By accuracy under a target of cost, by cost under one of accuracy. */
const isBetter = ({ kind }: SlimRun["target"], a: Measured, b: Measured): boolean =>
  kind === "loss" ? a.cost < b.cost : a.loss < b.loss;

/**
 * Points of the space that are trained: smaller pictures; where only bytes count, the widths that were taken. Patches do not merge
 * while training; where they can, a start may have `merges` as well.
 */
function startsOf({ target }: SlimRun, { space, measurer, untrained }: Search): Setting[] {
  if (target.kind === "bytes") return [settingOf(space, untrained.chosen.point)];
  const denseMacs = measurer.macs(measurer.reference)!;
  const taken = measurer.macs(settingOf(space, untrained.chosen.point))! / denseMacs;
  // Of a target of cost, the picture size does half of the saving, and merged patches the other half.
  const shares = target.kind === "loss" ? TRAINED_SHARES : [Math.sqrt(taken)];
  const starts = shares.map((share) => {
    const distance = (size: [number, number]) =>
      Math.abs(measurer.macs({ ...measurer.reference, size })! / denseMacs - share);
    const size = space.size.reduce((a, b) => (distance(b) < distance(a) ? b : a));
    return { ...measurer.reference, size };
  });
  return starts.filter((start, k) => k === 0 || keyOf(start) !== keyOf(starts[k - 1]));
}

/** @returns nothing where no model that can be made of the trained one keeps the target */
async function trainAndSearch(
  run: SlimRun,
  search: Search,
  setting: Setting,
  timeShare: number,
): Promise<Trained | undefined> {
  const { measurer } = search;
  const name = createHash("sha256")
    .update(`${run.key} ${keyOf(setting)}`)
    .digest("hex")
    .slice(0, 10);
  const [start, out] = ["start", "retrain"].map((stage) => join(run.folder, `${stage}-${name}`));
  const model = await search.builder.exact(setting);
  if (!existsSync(start)) {
    const { format: _, weights: __, ...draft } = { ...model.manifest, metrics: {} };
    writeModelFolder(start, draft, model.tensors, ["f32"]);
  }
  if (!existsSync(out)) await retrainOne(run, start, out, model, timeShare);
  const before = lossOf(await measurer.onVal(setting), await measurer.onVal(measurer.reference));
  const found = await search.from(widened(readModelFolder(out)), name);
  const after = await found.measurer.loss(DENSE);
  const result = `${settingText(setting)}: ${before.toFixed(2)} points lost before training, ${after.toFixed(2)} after`;
  say(`slim: trained ${result}`);
  const isWorse = after > before;
  run.notes.push(`trained ${result}${isWorse ? "; thrown away, as training made it worse" : ""}`);
  return found.choice && !isWorse
    ? { ...found, choice: found.choice, how: `trained at ${setting.size[1]}×${setting.size[0]} px` }
    : undefined;
}

async function retrainOne(run: SlimRun, start: string, out: string, model: Model, timeShare: number): Promise<void> {
  const { options, clock, source } = run;
  const plan = await planOf(run, out, model, timeShare * clock.left, MOST_EPOCHS.retrain, readModelFolder(source));
  const given = { ...RECIPE, ...plan.options, data: options.data, out, teacher: source, keepBest: true };
  const more = { valPictures: VAL_PICTURES, seed: options.seed ?? 0, ...(options.unlabelled && { unlabelled: true }) };
  await clock.during(() => retrain(start, readOptions(RETRAIN, { ...given, ...more }, "slim")));
}
