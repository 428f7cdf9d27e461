/**
 * slimvit eval MODEL --data D: top-1 and top-5 on an engine of the runtime. --against DENSE adds the loss against
 * another model on the same pictures, and with --unlabelled measures how often both agree.
 */
import { basename } from "node:path";
import type { EngineName } from "../../src/engines/engine.ts";
import { messageOf, SlimViTError } from "../../src/errors.ts";
import { featureDim, type WeightsDtype } from "../../src/format/model.ts";
import { softmax } from "../../src/reference/scores.ts";
import { classOrder, labelIndices, openDataset, type Picture, type Split, spread } from "../data/data.ts";
import { readManifestFile, readModelFolder } from "../models/folders.ts";
import { type AccuracyRecord, type Metrics, recordMetrics } from "../models/metrics.ts";
import { titleOf } from "../models/sources.ts";
import { klDivergence } from "../shared/divergence.ts";
import { startProgress } from "../shared/progress.ts";
import { bestClass, rankOf } from "../shared/ranks.ts";
import { percent, say } from "../shared/terminal.ts";
import { USUAL_THREADS } from "../shared/threads.ts";
import { warnOfTrainingPictures } from "./trainedOn.ts";
import { type Outputs, openHere, type Viewer } from "./viewer.ts";

export interface EvalOptions {
  data: string[];
  /** default test; all, where the classes are not looked at */
  split?: Split;
  engine: EngineName | "auto";
  dtype?: WeightsDtype;
  /** default the usual number */
  threads?: number;
  limit?: number;
  /** write the figures into the model's manifest and card */
  record?: boolean;
  /** folder of a model to compare with, picture by picture, by its most exact weights */
  against?: string;
  /** the data's classes are not looked at: {@link agreeWith} */
  unlabelled?: boolean;
}

export interface EvalReport {
  top1: number;
  top5: number;
  n: number;
  engine: EngineName;
  dtype: WeightsDtype;
  against?: Paired;
}

/** Two models on the same pictures. */
export interface Paired {
  /** of the other model */
  name: string;
  dtype: WeightsDtype;
  top1: number;
  /** top-1 of this model less the other's, and its 95 % interval; fractions of 1 */
  difference: number;
  interval: [low: number, high: number];
}

/** Pictures decoded while the engine runs. */
const AHEAD = 4;

export async function evaluate(source: string, options: EvalOptions): Promise<EvalReport> {
  if (!readManifestFile(source).head) {
    throw new SlimViTError(
      "bad-input",
      `${source}: gives features and has no classes, so it has no accuracy. Compare its features with another model's: --against MODEL --unlabelled.`,
    );
  }
  await warnOfTrainingPictures(source, options.data, splitOf(options));
  const seen = await seeAll("eval", source, options);
  const { ranks, engine, dtype } = seen;
  const other = options.against
    ? await seeAll("against", options.against, { ...options, dtype: undefined })
    : undefined;
  const n = ranks.size;
  const within = (limit: number) => [...ranks.values()].filter((rank) => rank < limit).length / n;
  const report: EvalReport = { top1: within(1), top5: within(5), n, engine, dtype };
  if (options.record)
    record(source, { ...report, data: options.data.map((d) => basename(d)).join(" + "), split: splitOf(options) });
  say(`eval: top-1 ${percent(report.top1)}, top-5 ${percent(report.top5)}, ${n} pictures, ${engine}, ${dtype}`);
  if (other) {
    report.against = { name: other.name, dtype: other.dtype, ...paired(ranks, other.ranks) };
    const { top1, difference, interval } = report.against;
    const [low, high] = interval.map(points);
    say(`eval: ${points(difference)} points to ${other.name}'s ${percent(top1)}, 95 % interval ${low} to ${high}`);
  }
  return report;
}

/** Two models on pictures whose labels are not known, or not the models'. */
export interface AgreementReport {
  /** of the other model */
  against: string;
  n: number;
  engine: EngineName;
  dtype: WeightsDtype;
  /** share of the pictures on which both have the same best class; of two classifiers */
  agreement?: number;
  /** Kullback-Leibler divergence of this model's distribution from the other's, Σ q·ln(q/p), mean over the pictures */
  divergence?: number;
  /** cosine of the two models' features, mean over the pictures; of two models whose features are equally wide */
  cosine?: number;
}

export async function agreeWith(source: string, options: EvalOptions): Promise<AgreementReport> {
  const { against } = options;
  if (!against)
    throw new SlimViTError("bad-option", "eval: --unlabelled compares with another model; give --against MODEL.");
  if (options.record) throw new SlimViTError("bad-option", "eval: --record keeps accuracies; --unlabelled has none.");
  const manifests = [source, against].map(readManifestFile);
  const areClassifiers = manifests.every(({ head }) => head);
  const [width, otherWidth] = manifests.map((manifest) => featureDim(manifest));
  if (!areClassifiers && width !== otherWidth) {
    throw new SlimViTError(
      "bad-option",
      `eval: ${source} gives ${width} features and ${against} ${otherWidth}, and they are not both classifiers, so their outputs cannot be compared.`,
    );
  }
  const order = areClassifiers ? classOrder(manifests[1].labels, manifests[0].labels, source) : [];
  const [seen, other] = [
    await seeAll("eval", source, options),
    await seeAll("against", against, { ...options, dtype: undefined }),
  ];
  const n = seen.outputs.size;
  const { engine, dtype } = seen;
  const report: AgreementReport = {
    against: other.name,
    n,
    engine,
    dtype,
    ...(areClassifiers && distributions(seen, other, order)),
    ...(width === otherWidth && { cosine: meanCosine(seen, other) }),
  };
  const { agreement, divergence, cosine } = report;
  const found = [
    ...(agreement === undefined ? [] : [`the class of ${other.name} on ${percent(agreement)} of ${n} pictures`]),
    ...(divergence === undefined ? [] : [`divergence ${divergence.toFixed(4)} nats`]),
    ...(cosine === undefined ? [] : [`features' cosine to ${other.name}'s ${cosine.toFixed(4)}`]),
  ];
  say(`eval: ${found.join(", ")}, ${n} pictures, ${engine}, ${dtype}`);
  return report;
}

/** @param order of the other model's classes, their places in this one's logits */
function distributions(seen: Seen, other: Seen, order: number[]): { agreement: number; divergence: number } {
  let [same, divergence] = [0, 0];
  for (const [picture, { logits }] of seen.outputs) {
    const p = softmax(Float32Array.from(order, (place) => logits[place]));
    const q = softmax(other.outputs.get(picture)!.logits);
    const best = bestClass(p);
    if (best !== undefined && best === bestClass(q)) same++;
    divergence += klDivergence(q, p);
  }
  const n = seen.outputs.size;
  return { agreement: same / n, divergence: divergence / n };
}

/** The mean cosine. A picture for which a model's features are all zero counts as 0. */
function meanCosine(seen: Seen, other: Seen): number {
  let sum = 0;
  for (const [picture, { features: a }] of seen.outputs) {
    const b = other.outputs.get(picture)!.features;
    let [dot, aa, bb] = [0, 0, 0];
    for (let i = 0; i < a.length; i++) {
      dot += a[i] * b[i];
      aa += a[i] ** 2;
      bb += b[i] ** 2;
    }
    sum += dot / (Math.sqrt(aa * bb) || 1);
  }
  return sum / seen.outputs.size;
}

const splitOf = ({ split, unlabelled }: EvalOptions): Split => split ?? (unlabelled ? "all" : "test");

const points = (share: number) => `${share < 0 ? "" : "+"}${(100 * share).toFixed(2)}`;

interface Seen {
  name: string;
  engine: EngineName;
  dtype: WeightsDtype;
  /** by the picture's name; without those that cannot be read */
  outputs: Map<string, Outputs>;
  /** how many classes score at least as high as the right one; empty for unlabelled data */
  ranks: Map<string, number>;
}

async function seeAll(what: string, source: string, options: EvalOptions): Promise<Seen> {
  const model = readModelFolder(source, options.dtype);
  const { pictures, classNames } = await openDataset(options.data, splitOf(options), options);
  const indices = options.unlabelled ? undefined : labelIndices(classNames, model.manifest.labels);
  const viewer =
    options.engine === "webnn"
      ? await (await import("./inBrowser.ts")).openInBrowser(source, model, !!options.unlabelled)
      : await openHere(model, options.engine, options.threads ?? USUAL_THREADS);
  const chosen = options.limit ? spread(pictures, options.limit) : pictures;
  const progress = startProgress(what, chosen.length);
  const outputs = new Map<string, Outputs>();
  const ranks = new Map<string, number>();
  let right = 0;
  try {
    const queue: { picture: Picture; prepared: ReturnType<Viewer["prepare"]> }[] = [];
    const enqueue = (picture: Picture) => {
      const prepared = viewer.prepare(picture);
      prepared.catch(() => {}); // awaited below, where it is reported
      queue.push({ picture, prepared });
    };
    chosen.slice(0, AHEAD).forEach(enqueue);
    for (let k = 0; queue.length; k++) {
      const { picture, prepared } = queue.shift()!;
      if (k + AHEAD < chosen.length) enqueue(chosen[k + AHEAD]);
      const seen = await see(prepared);
      if (!seen) continue;
      outputs.set(picture.name, seen);
      if (indices) {
        const rank = rankOf(seen.logits, indices.get(picture.className)!);
        ranks.set(picture.name, rank);
        if (rank < 1) right++;
      }
      progress.update(k + 1, indices ? `top-1 ${percent(right / ranks.size)}` : "");
    }
  } finally {
    progress.stop();
    await viewer.close();
  }
  if (outputs.size === 0) throw new SlimViTError("bad-input", "No picture of the data can be read.");
  return { name: titleOf(model.manifest), engine: viewer.engine, dtype: model.dtype, outputs, ranks };
}

/**
 * The interval is Wald's with half a picture added to each of the four cells, which keeps its 95 % on few pictures and when
 * the models hardly differ.
 *
 * @param a picture → how many classes score at least as high as the right one
 * @see Bonett and Price 2012 — https://doi.org/10.3102/1076998611411915
 */
export function paired(a: Map<string, number>, b: Map<string, number>): Omit<Paired, "name" | "dtype"> {
  let [n, right, gained, lost] = [0, 0, 0, 0];
  for (const [picture, rank] of a) {
    const other = b.get(picture);
    if (other === undefined) continue;
    n++;
    if (other < 1) right++;
    if (rank < 1 && other >= 1) gained++;
    if (rank >= 1 && other < 1) lost++;
  }
  const [p, q] = [(gained + 1) / (n + 2), (lost + 1) / (n + 2)];
  const half = 1.96 * Math.sqrt((p + q - (p - q) ** 2) / (n + 2));
  return { top1: right / n, difference: (gained - lost) / n, interval: [p - q - half, p - q + half] };
}

/** undefined for a picture that cannot be read, which is named and left out. */
async function see(prepared: ReturnType<Viewer["prepare"]>): Promise<Outputs | undefined> {
  let look: () => Promise<Outputs>;
  try {
    look = await prepared;
  } catch (error) {
    say(`skipped: ${messageOf(error)}`);
    return undefined;
  }
  const { logits, features } = await look();
  return { logits: logits.slice(), features: features.slice() };
}

/** Records figures. A repeated measurement on the same data, split, engine and dtype replaces the old one. */
function record(source: string, entry: AccuracyRecord): void {
  const same = (a: AccuracyRecord) =>
    a.data === entry.data && a.split === entry.split && a.engine === entry.engine && a.dtype === entry.dtype;
  const { accuracy = [] } = readManifestFile(source).metrics as Metrics;
  recordMetrics(source, { accuracy: [...accuracy.filter((a) => !same(a)), entry] });
}
