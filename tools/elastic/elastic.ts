/**
 * slimvit elastic MODEL --budgets 0.8,0.6,0.4,0.25 -o OUT [--data D]: one folder with a variant for each share of MODEL's MACs, on
 * one set of weights, without training. A variant has a picture size, merges, and the most important MLP units. With pictures the
 * units' order and the choice are measured, and so is each variant's accuracy. Prints a line a variant.
 */
import { basename, resolve } from "node:path";
import { openSimd } from "../../src/engines/simd/engine.ts";
import { SlimViTError } from "../../src/errors.ts";
import { countMacs, type Manifest, type Model, type WeightsDtype } from "../../src/format/model.ts";
import { growthOf, nest } from "../../src/format/nesting.ts";
import { encodeTensors } from "../../src/format/write.ts";
import { softmax } from "../../src/reference/scores.ts";
import { evalPixels, openDataset, type Picture, type Split, spread } from "../data/data.ts";
import { evaluate } from "../evaluation/evaluate.ts";
import { cardText } from "../models/card.ts";
import { claimOutput, readModelFolder, withStep } from "../models/folders.ts";
import { startProgress } from "../shared/progress.ts";
import { percent, say, si } from "../shared/terminal.ts";
import { openBackend } from "../training/backend.ts";
import { type Candidate, candidate, mostTrusted, UNIT_SHARES } from "./candidates.ts";
import { cutToWidths } from "./cut.ts";
import { writeElasticFolder } from "./folder.ts";
import { ordered, statisticsOfPictures, statisticsOfWeights, type UnitStatistics } from "./units.ts";

export interface ElasticOptions {
  out: string;
  /** shares of MODEL's MACs */
  budgets: number[];
  /** sides of square pictures; default MODEL's and three quarters of it, and so on, in whole patches */
  sizes?: number[];
  dtype: WeightsDtype[];
  weightStep?: number;
  /** of its `train` split units are ordered and variants chosen; on `split` accuracy is measured */
  data?: string[];
  split?: Split;
  name?: string;
  force?: boolean;
}

export interface ElasticReport {
  out: string;
  variants: {
    name: string;
    macs: number;
    macsShare: number;
    imageSize: [number, number];
    units: number;
    top1?: number;
  }[];
  /** of each weights file, as a share of what the largest variant alone would be */
  sizeShare?: number;
}

/** Pictures on which candidates are compared. */
const CHOICE_PICTURES = 96;

export async function elastic(source: string, options: ElasticOptions): Promise<ElasticReport> {
  const { out, dtype, data, split = "val", force } = options;
  claimOutput(out, force, [source, ...(data ?? [])]);
  const read = readModelFolder(source);
  const { family: _, ...model } = { ...read, tensors: encodeTensors(read.tensors, "f32"), dtype: "f32" as const };
  const pictures = data?.length ? (await openDataset(data, "train", { unlabelled: true })).pictures : undefined;
  const known = pictures ? await statistics(model, pictures) : statisticsOfWeights(model);
  const { tensors, statistics: sorted } = ordered(model, known);
  const whole: Model = { ...model, tensors };
  const chosen = await choose(whole, sorted, options, pictures);
  const { manifest } = await write(whole, chosen, options);
  const names = manifest.variants.map(({ name }) => name);
  const accuracies = new Map<string, number>();
  if (data?.length) {
    for (const name of names)
      for (const one of dtype) {
        const evalOptions = { data, split, engine: "simd" as const, dtype: one, threads: 1, record: true };
        accuracies.set(name, (await evaluate(`${out}#${name}`, evalOptions)).top1);
      }
  }
  return report(out, whole, manifest, chosen, accuracies);
}

async function statistics(model: Model, pictures: Picture[]): Promise<UnitStatistics[]> {
  const { tf } = await openBackend();
  const { manifest, tensors } = model;
  const merged = manifest.blocks.some(({ merge }) => merge > 0);
  const unmerged = { ...manifest, blocks: manifest.blocks.map((block) => ({ ...block, merge: 0 })) };
  if (merged) say("elastic: units are ordered by what they do before tokens merge");
  return statisticsOfPictures(tf, unmerged, tensors, pictures, manifest.preprocess);
}

/** A network for each budget, the largest first; each has no more units than the one before. */
async function choose(
  whole: Model,
  known: UnitStatistics[],
  { budgets, sizes }: ElasticOptions,
  pictures?: Picture[],
): Promise<Candidate[]> {
  const { manifest } = whole;
  const macs = countMacs(manifest, manifest.labels.length);
  const sides = sizesOf(manifest, sizes);
  const chosen: Candidate[] = [];
  for (const budget of [...new Set(budgets)].sort((a, b) => b - a)) {
    const most = chosen.at(-1)?.units ?? 1;
    const shares = UNIT_SHARES.filter((units) => units <= most);
    const all = sides.flatMap((imageSize) =>
      shares.flatMap((units) => candidate(whole, known, { imageSize, units }, budget * macs) ?? []),
    );
    if (!all.length)
      throw new SlimViTError(
        "bad-option",
        `elastic: ${percent(budget)} of the MACs cannot be reached; give a larger budget, or --sizes with smaller pictures.`,
      );
    chosen.push(
      pictures ? await closest(whole, plausible(all), pictures, percent(budget)) : mostTrusted(plausible(all)),
    );
  }
  return chosen;
}

/** At each size the few with the least merging that still has units to lose, and the budget met nearly. */
function plausible(all: Candidate[]): Candidate[] {
  const most = Math.max(...all.map(({ macs }) => macs));
  const near = all.filter(({ macs, mergeShare }) => macs > 0.9 * most && mergeShare >= 0.4);
  return near.length ? near : all;
}

function sizesOf({ imageSize, patchSize }: Manifest, sizes?: number[]): [number, number][] {
  if (sizes) return sizes.map((side) => [side, side]);
  const scaled = (share: number) =>
    imageSize.map((side) => Math.max(patchSize, patchSize * Math.round((side * share) / patchSize)));
  const all = [1, 6 / 7, 5 / 7].map(scaled) as [number, number][];
  return all.filter((size, i) => all.findIndex((other) => String(other) === String(size)) === i);
}

/** The candidate whose answers diverge least from the whole model's. */
async function closest(whole: Model, candidates: Candidate[], pictures: Picture[], what: string): Promise<Candidate> {
  const some = spread(pictures, CHOICE_PICTURES);
  const wanted = await scoresOf(whole, some);
  const progress = startProgress(`variants of ${what}`, candidates.length);
  let best: { one: Candidate; divergence: number } | undefined;
  for (const [i, one] of candidates.entries()) {
    const scores = await scoresOf(one.model, some);
    const divergence = scores.reduce((sum, p, k) => sum + klDivergence(wanted[k], p), 0) / scores.length;
    if (!best || divergence < best.divergence) best = { one, divergence };
    progress.update(i + 1, `divergence ${best.divergence.toFixed(3)}`);
  }
  progress.stop();
  return best!.one;
}

async function scoresOf(model: Model, pictures: Picture[]): Promise<Float64Array[]> {
  const engine = await openSimd(model, { threads: 1 });
  try {
    const scores: Float64Array[] = [];
    for (const picture of pictures) {
      const { logits, features } = await engine.run(await evalPixels(picture, model.manifest.preprocess));
      scores.push(softmax(logits.length ? logits : features));
    }
    return scores;
  } finally {
    engine.dispose();
  }
}

const klDivergence = (q: Float64Array, p: Float64Array) =>
  q.reduce((sum, share, k) => (share > 0 ? sum + share * Math.log(share / Math.max(p[k], Number.MIN_VALUE)) : sum), 0);

/** @param chosen the largest first */
async function write(whole: Model, chosen: Candidate[], options: ElasticOptions): Promise<{ manifest: Manifest }> {
  const { out, budgets, dtype, weightStep, name, force } = options;
  const largest = chosen[0].model;
  const { format: _, weights: __, variants: ___, variant: ____, ...draft } = largest.manifest;
  const encoded = new Map(
    dtype.map((one) => [one, encodeTensors(largest.tensors, one, one === "int8" ? weightStep : undefined)]),
  );
  const variants = [...chosen].reverse().map(({ model, macs, ...rest }) => ({
    name: nameOf(macs, whole.manifest),
    manifest: { ...model.manifest, metrics: {} },
    tensors: (one: WeightsDtype) => {
      const tensors = cutToWidths(encoded.get(one)!, largest.manifest, model.manifest);
      for (const [key, tensor] of model.tensors) {
        if (isPart(key, model, largest)) continue;
        tensors.set(key, encodeTensors(new Map([[key, tensor]]), one).get(key)!);
      }
      return tensors;
    },
    ...rest,
  }));
  const made = {
    budgets,
    ...(weightStep && { weightStep }),
    ...(options.data && { data: options.data.map((path) => basename(path)) }),
  };
  const provenance = withStep(draft.provenance, "elastic", made);
  const content = {
    draft: { ...draft, name: name ?? basename(resolve(out)), provenance, metrics: {} },
    variants,
    dtypes: dtype,
    extra: (manifest: Manifest) => ({ "card.md": cardText(manifest) }),
  };
  return { manifest: await writeElasticFolder(out, content, force) };
}

/** Whether a tensor of a variant is a part of the largest one's, or the same. */
function isPart(key: string, { manifest, tensors }: Model, largest: Model): boolean {
  const [own, whole] = [tensors, largest.tensors].map((all) => all.get(key)!);
  if (own.data === whole.data) return true;
  const [from, to] = [growthOf(manifest, key), growthOf(largest.manifest, key)];
  if (from && to && nest(from, to)) return true;
  return own.data.length === whole.data.length && own.data.every((value, i) => value === whole.data[i]);
}

const nameOf = (macs: number, { labels, ...arch }: Manifest) =>
  `macs-${Math.round((100 * macs) / countMacs({ ...arch }, labels.length))}`;

function report(
  out: string,
  whole: Model,
  manifest: Manifest,
  chosen: Candidate[],
  accuracies: Map<string, number>,
): ElasticReport {
  const macsOfWhole = countMacs(whole.manifest, whole.manifest.labels.length);
  const variants = manifest.variants.map(({ name, macs, imageSize }, i) => {
    const top1 = accuracies.get(name);
    const { units, model } = chosen[i];
    const merges = model.manifest.blocks.reduce((sum, { merge }) => sum + merge, 0);
    say(
      `elastic: ${name}: ${si(macs)} MACs (${percent(macs / macsOfWhole)}), ${imageSize[1]}×${imageSize[0]} px, ${merges} merges, ` +
        `${percent(units)} of the units${top1 === undefined ? "" : `, top-1 ${percent(top1)}`}`,
    );
    return { name, macs, macsShare: macs / macsOfWhole, imageSize, units, ...(top1 !== undefined && { top1 }) };
  });
  for (const { file, bytes, slabs = [] } of manifest.weights)
    say(
      `elastic: ${file} ${(bytes / 1e6).toFixed(2)} MB; the smallest variant is its first ${(slabs[0].bytes / 1e6).toFixed(2)} MB`,
    );
  return { out, variants };
}
