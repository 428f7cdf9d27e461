/** The part of slim that trains: a head for other classes first, then smaller models than what is found without training. */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Model } from "../../src/format/model.ts";
import { encodeTensors } from "../../src/format/write.ts";
import { architectureOf, readModelFolder, writeModelFolder } from "../models/folders.ts";
import { FINETUNE, RETRAIN } from "../options/retrain.ts";
import { readOptions } from "../options/spec.ts";
import { percent, say } from "../shared/terminal.ts";
import { finetune } from "../training/finetune.ts";
import { batchFor, secondsAPicture, trainingBytes } from "../training/probe.ts";
import { retrain } from "../training/retrain.ts";
import type { Builder } from "./build.ts";
import { decided } from "./decided.ts";
import { type Answers, lossOf, type PointMeasurer } from "./measure.ts";
import type { SlimRun } from "./run.ts";
import { type Candidate, type Choice, exploreFrontier } from "./search.ts";
import { DENSE, keyOf, type Setting, type Space, settingOf } from "./space.ts";
import { COSTS } from "./target.ts";
import { settingText } from "./verdict.ts";

/** Whether patches that merge can be trained. Until they can, trained models drop patches instead. */
const TRAINS_MERGES = false;

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
  if (existsSync(out)) return out;
  say(`slim: finetunes first, because the data's classes are not the model's: ${unknown}`);
  const plan = await planOf(run, out, readModelFolder(source), FINETUNE_SHARE * clock.total, MOST_EPOCHS.finetune);
  const given = { ...RECIPE, ...plan.options, data: options.data, out, keepBest: true, valPictures: VAL_PICTURES };
  await clock.during(() => finetune(source, readOptions(FINETUNE, { ...given, seed: options.seed ?? 0 }, "slim")));
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
}

/** A model that was trained and keeps the target. */
export interface Trained {
  folder: string;
  setting: Setting;
  cost: number;
  loss: number;
  /** than the same model before its training */
  isBetter: boolean;
}

/** Without training, that little is left or lost that more training is not worth hours of it. */
const GOOD_ENOUGH = { macsShare: 0.3, loss: 0.3 };
/** Of the time that is left, what the next attempt may take; the last one takes what there is. */
const ATTEMPT_SHARE = 0.5;
/** An attempt that had less time than this would not learn. */
const LEAST_SECONDS = 60;
/** The first attempt aims at this share of what is reached without training. */
const FIRST_AIM = 0.6;
/** No attempt goes below this share of the dense cost. */
const FLOOR = 0.1;
/** The next aim is this close to what is known: no more attempts. */
const CLOSE = 0.88;

/** @returns the best that was trained; nothing where training was not tried, or gave nothing better */
export async function trainWherePays(run: SlimRun, search: Search): Promise<Trained | undefined> {
  const { clock, backend, data, notes, target } = run;
  const { measurer, space, untrained } = search;
  if (run.untrainable || !backend) return undefined;
  const dense = (await measurer.cost(DENSE))!;
  const share = measurer.macs(settingOf(space, untrained.chosen.point))! / measurer.macs(measurer.reference)!;
  const isEnough = target.kind === "loss" ? share <= GOOD_ENOUGH.macsShare : untrained.chosen.loss <= GOOD_ENOUGH.loss;
  if (isEnough && !clock.isGiven) {
    notes.push(
      "nothing was trained after the search: what it found leaves little to gain (--train 1h trains all the same)",
    );
    return undefined;
  }
  const trainable = { ...space, merges: TRAINS_MERGES ? space.merges : [1] };
  const own = measurer.over(trainable);
  const limits = { leastCost: FLOOR * dense, reach: FLOOR * dense, mostDisagreement: 1, axes: COSTS[target.kind].axes };
  const frontier = await own.interruptibly(() => exploreFrontier(trainable, own, limits));
  const attempts = new Attempts(run, search, own, trainable, frontier);
  if (target.kind !== "loss") return attempts.best(await attempts.oneUnder(search.most));
  let [good, bad] = [untrained.chosen.cost, FLOOR * dense];
  let best: Trained | undefined;
  let aim = FIRST_AIM * good;
  while (clock.left > LEAST_SECONDS && bad / good < CLOSE) {
    const trained = await attempts.at(aim);
    if (!trained) break;
    if (trained.isBetter && trained.loss <= search.most && trained.cost < good) [best, good] = [trained, trained.cost];
    else bad = Math.max(bad, Math.min(trained.cost, aim));
    aim = Math.sqrt(good * bad);
  }
  if (!best) notes.push(`training gave nothing smaller that keeps the target (${data.train.length} train pictures)`);
  return best;
}

class Attempts {
  private readonly tried = new Set<string>();

  constructor(
    private readonly run: SlimRun,
    private readonly search: Search,
    private readonly measurer: PointMeasurer,
    private readonly space: Space,
    private readonly frontier: Candidate[],
  ) {}

  oneUnder(most: number): Promise<Trained | undefined> {
    return this.at(most);
  }

  /** For a target of cost: only what is more accurate than what the search found counts. */
  best(trained: Trained | undefined): Trained | undefined {
    const { chosen } = this.search.untrained;
    return trained?.isBetter && trained.loss < chosen.loss && trained.cost <= this.search.most ? trained : undefined;
  }

  /** Trains the dearest candidate of at most this cost. */
  async at(aim: number): Promise<Trained | undefined> {
    const { run, measurer, space, search } = this;
    const candidate = this.frontier.find(
      ({ cost, point }) => cost <= aim && !this.tried.has(keyOf(settingOf(space, point))),
    );
    if (!candidate) return undefined;
    const setting = settingOf(space, candidate.point);
    this.tried.add(keyOf(setting));
    const name = createHash("sha256")
      .update(`${run.key} ${keyOf(setting)}`)
      .digest("hex")
      .slice(0, 10);
    const [start, out] = ["start", "retrain"].map((stage) => join(run.folder, `${stage}-${name}`));
    const model = await search.builder.exact(setting);
    if (!existsSync(start)) {
      const {
        format: _,
        weights: __,
        ...draft
      } = { ...model.manifest, ...architectureOf(model.manifest), metrics: {} };
      writeModelFolder(start, draft, model.tensors, ["f32"]);
    }
    const before = await measurer.loss(candidate.point);
    if (!existsSync(out)) await this.retrainOne(start, out, model, setting);
    const answers = await decided<Answers>(join(run.folder, "trained.json"), `${out} ${setting.dtype}`, async () => {
      const trained = readModelFolder(out);
      const shipped = { ...trained, dtype: setting.dtype, tensors: encodeTensors(trained.tensors, setting.dtype) };
      return measurer.answersOf(shipped, run.data.val);
    });
    const loss = lossOf(answers, await measurer.onVal(measurer.reference));
    const share = measurer.macs(setting)! / measurer.macs(measurer.reference)!;
    const result = `${percent(share)} of the MACs (${settingText(setting)}): ${before.toFixed(2)} points lost before training, ${loss.toFixed(2)} after`;
    say(`slim: ${result}`);
    const isBetter = loss <= before;
    run.notes.push(`trained: ${result}${isBetter ? "" : "; thrown away, as training made it worse"}`);
    return { folder: out, setting, cost: candidate.cost, loss, isBetter };
  }

  private async retrainOne(start: string, out: string, model: Model, setting: Setting): Promise<void> {
    const { run } = this;
    const { options, clock, source } = run;
    const teacher = readModelFolder(source);
    const plan = await planOf(run, out, model, ATTEMPT_SHARE * clock.left, MOST_EPOCHS.retrain, teacher);
    say(`slim: retrains ${settingText(setting)}`);
    const given = { ...RECIPE, ...plan.options, data: options.data, out, teacher: source, keepBest: true };
    const more = {
      valPictures: VAL_PICTURES,
      seed: options.seed ?? 0,
      ...(options.unlabelled && { unlabelled: true }),
    };
    await clock.during(() => retrain(start, readOptions(RETRAIN, { ...given, ...more }, "slim")));
  }
}
