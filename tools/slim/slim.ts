/**
 * slimvit slim MODEL --data PICTURES -o OUT --lose-at-most 1: finds the right small model by itself. It reads the data,
 * searches picture size, merged patches, widths and dtype without training (search.ts), trains only where that pays
 * (trained.ts), and ends with the model, a verdict and a report. Measurements are in OUT.stages, so the same command
 * continues.
 */
import { existsSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { SlimViTError } from "../../src/errors.ts";
import type { Model } from "../../src/format/model.ts";
import { spread } from "../data/data.ts";
import { digestData } from "../data/digest.ts";
import {
  claimOutput,
  modelDigest,
  readManifestFile,
  readModelFolder,
  sha256,
  writeFileAtomic,
} from "../models/folders.ts";
import { withLock } from "../shared/lock.ts";
import { startProgress } from "../shared/progress.ts";
import { say } from "../shared/terminal.ts";
import { type Backend, openBackend } from "../training/backend.ts";
import { Builder, widened } from "./build.ts";
import { indicesOf, withDataClasses } from "./classes.ts";
import { TrainingClock } from "./clock.ts";
import { lookAtData, type SlimData, sayData } from "./dataReport.ts";
import { int8Choice } from "./dtypes.ts";
import { type CostName, FIRST_LOOK, type Measuring, PointMeasurer } from "./measure.ts";
import type { Outcome } from "./outcome.ts";
import type { SlimOptions, SlimRun } from "./run.ts";
import { type Choice, cheapestWithin, exploreFrontier, mostAccurateUnder } from "./search.ts";
import { DENSE, type Space, spaceOf } from "./space.ts";
import { Stops } from "./stops.ts";
import { COSTS, requireReachable, targetOf } from "./target.ts";
import { trainWherePays } from "./trained.ts";
import { verdictLines } from "./verdict.ts";
import { writeOutcome } from "./write.ts";

export async function slimModel(source: string, options: SlimOptions): Promise<Outcome> {
  const target = targetOf(options);
  const manifest = readManifestFile(source);
  if (options.unlabelled && !manifest.head)
    throw new SlimViTError(
      "bad-option",
      `slim: ${source} is an embedding model, which has no best class to agree on. Give labelled pictures, for which slim makes a head.`,
    );
  if (options.elastic && target.kind === "bytes")
    throw new SlimViTError(
      "bad-option",
      "slim: --elastic keeps all widths, and only widths make a file smaller: give another target than --bytes.",
    );
  const folder = options.stages ?? `${resolve(options.out)}.stages`;
  const digests = await Promise.all(options.data.map(digestData));
  const identity = [modelDigest(manifest), digests.map((digest) => digest.sha256)];
  const keyOf = (...more: unknown[]) => sha256(Buffer.from(JSON.stringify([identity, ...more])));
  const trainingKey = keyOf(options.unlabelled ?? false, options.train, options.seed ?? 0);
  const key = keyOf(trainingKey, target, options.elastic ?? false);
  const before = madeBefore(options, folder, key);
  if (before) return before;
  claimOutput(options.out, options.force, [source, folder], options.data);
  const wait = () => say("slim: another run works in the same folder of stages; waiting for it");
  return withLock(join(folder, ".slim.lock"), wait, async () => {
    const started = performance.now();
    const data = await lookAtData(options.data, options.unlabelled ?? false);
    sayData(data);
    const backend = await backendFor();
    const untrainable = untrainableBy(options, data, backend);
    const clock = new TrainingClock(options.train, join(folder, `clock-${key.slice(0, 10)}.json`));
    const notes: string[] = [];
    const keys = { key, trainingKey };
    const stops = new Stops(folder);
    const begun: SlimRun = {
      options,
      target,
      data,
      source,
      folder,
      ...keys,
      backend,
      clock,
      stops,
      untrainable,
      notes,
    };
    const ahead = (model: Model) => requireTarget(begun, model, `${JSON.stringify(identity)} with a new head`);
    const run = { ...begun, source: await withDataClasses(begun, ahead) };
    return searchAndWrite(run, JSON.stringify(identity), started);
  });
}

/** Repeats the result when the same command runs again; nothing is made again. */
function madeBefore({ out, force }: SlimOptions, folder: string, key: string): Outcome | undefined {
  const file = join(folder, "verdict.json");
  if (force || !existsSync(join(out, "slimvit.json")) || !existsSync(file)) return undefined;
  const outcome: Outcome = JSON.parse(readFileSync(file, "utf8"));
  if (outcome.key !== key || resolve(outcome.out) !== resolve(out)) return undefined;
  say("slim: this model is done already");
  for (const line of verdictLines(outcome)) say(line);
  return outcome;
}

/** Opens TensorFlow.js, which cuts widths and trains. Where it would be very slow, both are left out. */
async function backendFor(): Promise<Backend | undefined> {
  try {
    const backend = await openBackend();
    if (backend.name !== "wasm") return backend;
  } catch (error) {
    if (!(error instanceof SlimViTError) || error.code !== "unsupported") throw error;
  }
  say('slim: widths are not cut, since TensorFlow\'s native library is not installed ("npm run setup:tools")');
  return undefined;
}

/** @throws SlimViTError where a training time was given and training is not possible */
function untrainableBy({ train }: SlimOptions, data: SlimData, backend: Backend | undefined): string | undefined {
  if (train === "no") return "--train no was given";
  const why = backend
    ? data.isHeldOut && "the data has no train and val pictures of its own, such as train/CLASS and val/CLASS"
    : 'TensorFlow\'s native library is not installed (run "npm run setup:tools")';
  if (!why) return undefined;
  if (train !== "auto")
    throw new SlimViTError("bad-option", `slim: --train is not possible: ${why}. Change that, or give --train no.`);
  say(`slim: nothing is trained: ${why}`);
  return why;
}

/** Held-back train pictures by which candidates are ranked. */
const HELD = 160;
/** Other train pictures, by which widths are compensated and candidates' heads solved again. */
const CALIBRATION = 160;
/**
 * Train pictures, including the ones above, by which heads are solved again before a point is measured on val. On
 * clothing10 heads solved by 1,817 pictures were no better than by 1,000.
 */
const SOLVING = 1000;

async function searchAndWrite(run: SlimRun, identity: string, started: number): Promise<Outcome> {
  const { source, folder } = run;
  const dense = widened(readModelFolder(source));
  const denseKey = JSON.stringify([identity, HELD, CALIBRATION, SOLVING, modelDigest(readManifestFile(source))]);
  const pictures = picturesOf(run, dense);
  const searchBegan = performance.now();
  const lab = await openLab(run, dense, denseKey, pictures);
  const choice = await searchIn(run, lab);
  if (!choice) throw new Error("The dense model does not keep its own accuracy."); // a target is at least 0
  const minutes = ((performance.now() - searchBegan) / 60_000).toFixed(1);
  say(`slim: without training: ${lab.measurer.runs} measurements in ${minutes} min`);
  const from = async (model: Model, key: string) => {
    const other = await openLab(run, model, `${denseKey} ${key}`, pictures, lab);
    return { ...other, choice: await searchIn(run, other) };
  };
  const trained = await trainWherePays(run, { ...lab, untrained: choice, from });
  const outcome = await writeOutcome(run, { ...lab, untrained: choice, trained, started });
  writeFileAtomic(join(folder, "verdict.json"), `${JSON.stringify(outcome, null, 2)}\n`);
  for (const line of verdictLines(outcome)) say(line);
  return outcome;
}

/** The builder and the measurer of the models that can be made of one model. */
interface Lab {
  space: Space;
  builder: Builder;
  measurer: PointMeasurer;
  /** the target, in the unit of the cost */
  most: number;
}

/** @param dense what a trained model is compared with */
async function openLab(run: SlimRun, model: Model, identity: string, pictures: Measuring, dense?: Lab): Promise<Lab> {
  const { folder, target } = run;
  const { whole, builder, measurerFor } = benchOf(run, model, identity, pictures, dense);
  const speeds = join(folder, "speed.json");
  const { space, int8Factor } = await int8Choice(whole, target, builder, measurerFor, speeds, identity);
  const measurer = measurerFor(space, COSTS[target.kind].cost, int8Factor);
  return { space, builder, measurer, most: dense?.most ?? (await requireReachable(target, space, builder, measurer)) };
}

/** All models that can be made of one, before it is known whether 8 bits are worth it. */
function benchOf(
  { backend, folder, options, stops }: SlimRun,
  model: Model,
  identity: string,
  pictures: Measuring,
  dense?: Lab,
) {
  const whole = spaceOf(model.manifest, backend !== undefined && !options.elastic);
  const middle = whole.size[whole.size.length >> 1];
  const builder = new Builder(model, identity, pictures.calibration, middle, folder, backend?.tf);
  builder.turn = () => stops.turn();
  const settings = { identity, folder, stops, against: dense?.measurer };
  const measurerFor = (space: Space, costName: CostName, int8Factor: number) =>
    new PointMeasurer(builder, space, pictures, { ...settings, costName, int8Factor });
  return { whole, builder, measurerFor };
}

/**
 * Refuses a target that not even models in 8 bits reach, before a head is trained.
 *
 * @param model with a head of the data's classes
 */
async function requireTarget(run: SlimRun, model: Model, identity: string): Promise<void> {
  const { whole, builder, measurerFor } = benchOf(run, model, identity, picturesOf(run, model));
  const space: Space = { ...whole, dtype: ["int8"] };
  await requireReachable(run.target, space, builder, measurerFor(space, COSTS[run.target.kind].cost, 1));
}

function picturesOf({ data, options }: SlimRun, { manifest }: Model): Measuring {
  const { held, calibration } = heldBack(data);
  const indices = options.unlabelled ? {} : { indices: indicesOf(data, manifest.labels) };
  const pictures = { held, calibration, firstLook: spread(held, FIRST_LOOK), val: data.val };
  return { ...pictures, solving: spread(data.train, SOLVING), ...indices };
}

/** Every second train picture of those that are needed ranks candidates, the others calibrate. */
function heldBack({ train }: SlimData) {
  const even = train.filter((_, k) => k % 2 === 0);
  const odd = train.filter((_, k) => k % 2 === 1);
  const step = Math.max(1, Math.floor(even.length / HELD));
  return {
    held: even.filter((_, k) => k % step === 0).slice(0, HELD),
    calibration: spread(odd.length ? odd : train, CALIBRATION),
  };
}

async function searchIn(
  { target, stops }: SlimRun,
  { space, builder, measurer, most }: Lab,
): Promise<Choice | undefined> {
  const { axes } = COSTS[target.kind];
  const dense = (await measurer.cost(DENSE))!;
  const isLoss = target.kind === "loss";
  const limits = isLoss
    ? { leastCost: LEAST_SHARE * dense, mostDisagreement: DISAGREEMENT_BASE + (DISAGREEMENT_FACTOR * most) / 100, axes }
    : { leastCost: BELOW_TARGET * most, reach: most, mostDisagreement: 1, axes };
  const search = stops.during(async () => {
    const progress = startProgress("slim: candidates", USUAL_LOOKS);
    const frontier = await exploreFrontier(space, measurer, limits, (looked, found) =>
      progress.update(Math.min(looked, USUAL_LOOKS - 1), `${found.length} on the frontier`),
    );
    progress.stop();
    return isLoss ? cheapestWithin(frontier, measurer, most) : mostAccurateUnder(frontier, measurer, most);
  });
  return search.finally(() => builder.free());
}

/** Candidates that are looked at before the frontier is known, for the bar. */
const USUAL_LOOKS = 60;
/** With a target of accuracy, models below this share of the dense model's cost are not looked at. */
const LEAST_SHARE = 0.04;
/** With a target of cost, models down to this share of it are looked at. */
const BELOW_TARGET = 0.75;
/** Points whose best class differs on a larger share of held-back pictures are not useful for a target of accuracy. */
const DISAGREEMENT_BASE = 0.05;
const DISAGREEMENT_FACTOR = 3;
