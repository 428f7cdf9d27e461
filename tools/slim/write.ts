/** The end of a run: writes the model in f16 and int8, its measurements, and its report. */
import { basename, resolve } from "node:path";
import { messageOf, SlimViTError } from "../../src/errors.ts";
import { countMacs, type Model, type WeightsDtype } from "../../src/format/model.ts";
import { encodeTensors } from "../../src/format/write.ts";
import type { Picture } from "../data/data.ts";
import { writeElasticFolder } from "../elastic/folder.ts";
import { paired } from "../evaluation/evaluate.ts";
import { cardText, denseOf } from "../models/card.ts";
import { fileBytes, readManifestFile, withStep, writeModel } from "../models/folders.ts";
import type { AccuracyRecord } from "../models/metrics.ts";
import { say } from "../shared/terminal.ts";
import type { Builder } from "./build.ts";
import { type Answers, type PointMeasurer, timeInTurn } from "./measure.ts";
import type { Outcome, PairedTop1, Row } from "./outcome.ts";
import { slimPage } from "./page.ts";
import type { SlimRun } from "./run.ts";
import type { Choice, Measured } from "./search.ts";
import { type Setting, type Space, settingOf, settingText } from "./space.ts";
import { targetText } from "./target.ts";
import type { Trained } from "./trained.ts";
import { type Member, unbeaten, variantsOf } from "./variants.ts";

export interface Found {
  space: Space;
  measurer: PointMeasurer;
  builder: Builder;
  untrained: Choice;
  trained?: Trained;
  /** performance.now() at the beginning */
  started: number;
}

/** A model that is shown, with its answers on val. */
interface Shown {
  setting: Setting;
  /** its tensors in f32 */
  model: Model;
  answers: Answers;
  what: string;
  isTaken: boolean;
}

/** Points of the frontier that are shown on either side of the one that is taken. */
const BESIDE = 2;
const ROUNDS = 15;

export async function writeOutcome(run: SlimRun, found: Found): Promise<Outcome> {
  const { options, data, target, key, notes } = run;
  const unlabelled = options.unlabelled ?? false;
  const dense = await shownAt(found, found.measurer.reference, false);
  const frontier = await shownFrontier(found, !found.trained);
  const trained = found.trained ? await shownFrontier(toFound(found, found.trained), true, found.trained.how) : [];
  const all = [dense, ...frontier, ...trained];
  const taken = all.find(({ isTaken }) => isTaken)!;
  const ms = await timeInTurn(all.map(shipped), ROUNDS);
  const rows = all.map((shown, k) => rowOf(shown, dense, ms[k]));
  const outcome: Outcome = {
    key,
    out: options.out,
    target: targetText(target, unlabelled),
    unlabelled,
    denseName: dense.model.manifest.name,
    dense: rows[0],
    slim: rows[all.indexOf(taken)],
    // Trained models stand among the others by what they cost, and in the place of those that they beat.
    frontier: notBeaten(rows.slice(1)).sort((a, b) => b.macs - a.macs || b.ms - a.ms),
    val: pairedTop1(taken.answers, dense.answers),
    notes,
    seconds: (performance.now() - found.started) / 1000,
    pointsMeasured: found.untrained.measured.length,
  };
  const tested = data.test.length ? await onTest(found, data.test, taken, dense) : undefined;
  if (tested) outcome.test = pairedTop1(tested.slim, tested.dense);
  const accuracy = unlabelled ? [] : await accuracies(run, found, taken, tested?.slim);
  const page = await slimPage(run, outcome, { dense: dense.answers, slim: taken.answers });
  const members = (found.trained ? trained : all).map((shown): Member => {
    const own = unlabelled ? [] : [accuracyOf(run, "val", shown.setting.dtype, shown.answers)];
    const { model, isTaken } = shown;
    const row = rows[all.indexOf(shown)];
    return { model, isTaken, isDense: shown === dense, top1: row.top1, accuracy: isTaken ? accuracy : own };
  });
  await writeSlim(run, taken, { accuracy, page, members: unbeaten(members) });
  return outcome;
}

/** Drops beaten models. One search has none, but two searches together have some; the chosen model stays. */
const notBeaten = (rows: Row[]): Row[] =>
  rows.filter(
    (row) =>
      row.isTaken ||
      !rows.some((other) => other.macs < row.macs && other.top1 > row.top1 && other.setting !== row.setting),
  );

const shipped = ({ model, setting }: Shown): Model => ({
  ...model,
  dtype: setting.dtype,
  tensors: encodeTensors(model.tensors, setting.dtype),
});

/** The trained model's own search. */
const toFound = (found: Found, { space, measurer, builder, choice }: Trained): Found => ({
  ...found,
  ...{ space, measurer, builder, untrained: choice },
});

async function shownAt({ builder, measurer }: Found, setting: Setting, isTaken: boolean, how?: string): Promise<Shown> {
  const [model, answers] = [await builder.exact(setting), await measurer.onVal(setting)];
  return { setting, model, answers, what: [settingText(setting), ...(how ? [how] : [])].join(", "), isTaken };
}

/** The chosen model of a search, and the next two on either side. */
async function shownFrontier(found: Found, isTaken: boolean, how?: string): Promise<Shown[]> {
  const { chosen, measured } = found.untrained;
  const isBeaten = (one: Measured) => measured.some((other) => other.cost < one.cost && other.loss <= one.loss);
  const frontier = measured.filter((one) => one === chosen || !isBeaten(one));
  const at = frontier.indexOf(chosen);
  const shown: Shown[] = [];
  for (const one of frontier.slice(Math.max(0, at - BESIDE), at + BESIDE + 1))
    shown.push(await shownAt(found, settingOf(found.space, one.point), isTaken && one === chosen, how));
  return shown;
}

function rowOf({ setting, model, answers, what, isTaken }: Shown, dense: Shown, ms: number): Row {
  const macsOf = ({ manifest }: Model) => countMacs(manifest, manifest.labels.length);
  const { slim: top1, difference, interval } = pairedTop1(answers, dense.answers);
  return {
    ...{ what, dtype: setting.dtype, setting, isTaken, ms, top1, difference, interval },
    macs: macsOf(model),
    macsShare: macsOf(model) / macsOf(dense.model),
    bytes: fileBytes(model.tensors, setting.dtype),
  };
}

/** Compares top-1. Without labels the right class is the dense model's best one. */
export function pairedTop1(slim: Answers, dense: Answers): PairedTop1 {
  const labelled = dense.ranks.length > 0;
  const ranks = (own: Answers) =>
    labelled ? own.ranks : own.best.map((best, k) => (best >= 0 && best === dense.best[k] ? 0 : 1));
  const map = (values: number[]) => new Map(values.map((rank, k) => [String(k), rank]));
  const [own, whole] = [map(ranks(slim)), map(labelled ? dense.ranks : dense.best.map((best) => (best < 0 ? 1 : 0)))];
  const { top1, difference, interval } = paired(own, whole);
  return { n: dense.best.length, dense: top1, slim: top1 + difference, difference, interval };
}

/** The test pictures are looked at once, by the chosen model and the dense one. */
async function onTest({ measurer }: Found, pictures: Picture[], taken: Shown, dense: Shown) {
  return {
    slim: await measurer.answersOf(shipped(taken), pictures),
    dense: await measurer.answersOf(shipped(dense), pictures),
  };
}

function accuracyOf({ options }: SlimRun, split: string, dtype: WeightsDtype, { ranks }: Answers): AccuracyRecord {
  const within = (limit: number) => ranks.filter((rank) => rank < limit).length / ranks.length;
  const name = options.data.map((source) => basename(resolve(source))).join(" + ");
  return { data: name, split, top1: within(1), top5: within(5), n: ranks.length, engine: "simd", dtype };
}

/** Accuracies on val for both dtypes that ship, and on test for the chosen one. */
async function accuracies(run: SlimRun, { measurer }: Found, taken: Shown, test?: Answers): Promise<AccuracyRecord[]> {
  const { dtype } = taken.setting;
  const other: WeightsDtype = dtype === "int8" ? "f16" : "int8";
  const records = [accuracyOf(run, "val", dtype, taken.answers)];
  try {
    const inOther = shipped({ ...taken, setting: { ...taken.setting, dtype: other } });
    records.push(accuracyOf(run, "val", other, await measurer.answersOf(inOther, run.data.val)));
  } catch (error) {
    if (!(error instanceof SlimViTError) || error.code !== "bad-model") throw error; // writing reports it, too
  }
  return test ? [...records, accuracyOf(run, "test", dtype, test)] : records;
}

async function writeSlim(
  run: SlimRun,
  { model, setting, what }: Shown,
  { accuracy, page, members }: { accuracy: AccuracyRecord[]; page: string; members: Member[] },
): Promise<void> {
  const { options, target, key } = run;
  const before = readManifestFile(run.source);
  const { imageSize } = model.manifest;
  const isResized = before.imageSize.join() !== imageSize.join();
  const step = {
    ...{ target: target.kind, most: target.most, made: what },
    data: options.data.map((source) => basename(resolve(source))),
    ...(isResized && { imageSize, imageSizeBefore: before.imageSize }),
    ...(options.elastic && { elastic: true }),
  };
  const denseMacs = countMacs(before, before.labels.length);
  const widths = denseOf(before).blocks;
  const dense = { heads: widths[0].headDims.length, mlpHidden: widths.map(({ mlpHidden }) => mlpHidden) };
  const largest = options.elastic ? members.at(-1)!.model.manifest : model.manifest;
  const { format: _, weights: __, variants: ___, variant: ____, ...draft } = largest;
  const provenance = { ...withStep({ ...draft.provenance, dense }, "slim", step), slim: { key } };
  const metrics = accuracy.length ? { accuracy } : {};
  const content = (dtypes: WeightsDtype[]) => ({
    draft: { ...draft, name: basename(resolve(options.out)), provenance, metrics },
    dtypes,
    extra: (manifest: Model["manifest"]) => ({ "card.md": cardText(manifest), "report.html": page }),
  });
  const write = async (dtypes: WeightsDtype[]): Promise<unknown> => {
    if (options.elastic)
      return writeElasticFolder(
        options.out,
        { ...content(dtypes), variants: variantsOf(members, denseMacs) },
        options.force,
      );
    return writeModel(options.out, { ...content(dtypes), tensors: model.tensors }, options.force);
  };
  try {
    await write(["f16", "int8"]);
  } catch (error) {
    if (!(error instanceof SlimViTError) || error.code !== "bad-model") throw error;
    say(`slim: ${messageOf(error)}`);
    await write([setting.dtype]); // the one that was measured
  }
}
