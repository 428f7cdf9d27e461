/**
 * slimvit eval MODEL --data D: top-1 and top-5 through an engine of the runtime; --against DENSE adds what it loses to another
 * model on the same pictures, and with --unlabelled says how often both agree. slimvit run MODEL IMAGE...: one by one.
 */
import { readFileSync } from "node:fs";
import { basename } from "node:path";
import { openEngine } from "../../src/engines/auto.ts";
import type { Engine, EngineName } from "../../src/engines/engine.ts";
import { messageOf, SlimViTError } from "../../src/errors.ts";
import type { WeightsDtype } from "../../src/format/model.ts";
import { preprocess } from "../../src/image/resample.ts";
import { softmax } from "../../src/reference/scores.ts";
import { decode, evalPixels, labelIndices, openDataset, type Picture, type Split, spread } from "../data/data.ts";
import { readManifestFile, readModelFolder } from "../models/folders.ts";
import { type AccuracyRecord, type Metrics, recordMetrics } from "../models/metrics.ts";
import { startProgress } from "../shared/progress.ts";
import { percent, say } from "../shared/terminal.ts";
import { bestClass, rankOf } from "./ranks.ts";

export interface EvalOptions {
  data: string[];
  split: Split;
  engine: EngineName | "auto";
  dtype?: WeightsDtype;
  threads: number;
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
  const seen = await seeAll("eval", source, options);
  const { ranks, engine, dtype } = seen;
  const other = options.against
    ? await seeAll("against", options.against, { ...options, dtype: undefined })
    : undefined;
  const n = ranks.size;
  const within = (limit: number) => [...ranks.values()].filter((rank) => rank < limit).length / n;
  const report: EvalReport = { top1: within(1), top5: within(5), n, engine, dtype };
  if (options.record)
    record(source, { ...report, data: options.data.map((d) => basename(d)).join(" + "), split: options.split });
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
  /** share of the pictures on which both have the same best class */
  agreement: number;
  /** Kullback-Leibler divergence of this model's distribution from the other's, Σ q·ln(q/p), mean over the pictures */
  divergence: number;
}

export async function agreeWith(source: string, options: EvalOptions): Promise<AgreementReport> {
  const { against } = options;
  if (!against)
    throw new SlimViTError("bad-option", "eval: --unlabelled compares with another model; give --against MODEL.");
  if (options.record) throw new SlimViTError("bad-option", "eval: --record keeps accuracies; --unlabelled has none.");
  const names = [source, against].map((model) =>
    readManifestFile(model)
      .labels.map(({ id }) => id)
      .join(),
  );
  if (names[0] !== names[1])
    throw new SlimViTError(
      "bad-model",
      `${against}: has other classes than ${source}; their logits cannot be compared.`,
    );
  const [seen, other] = [
    await seeAll("eval", source, options),
    await seeAll("against", against, { ...options, dtype: undefined }),
  ];
  let [same, divergence] = [0, 0];
  for (const [picture, logits] of seen.logits) {
    const wanted = other.logits.get(picture)!;
    const best = bestClass(logits);
    if (best >= 0 && best === bestClass(wanted)) same++;
    const [p, q] = [softmax(logits), softmax(wanted)];
    for (let k = 0; k < q.length; k++)
      if (q[k] > 0) divergence += q[k] * Math.log(q[k] / Math.max(p[k], Number.MIN_VALUE));
  }
  const n = seen.logits.size;
  const { engine, dtype } = seen;
  const report = { against: other.name, n, engine, dtype, agreement: same / n, divergence: divergence / n };
  say(
    `eval: the class of ${other.name} on ${percent(report.agreement)} of ${n} pictures, ` +
      `divergence ${report.divergence.toFixed(4)} nats, ${engine}, ${dtype}`,
  );
  return report;
}

const points = (share: number) => `${share < 0 ? "" : "+"}${(100 * share).toFixed(2)}`;

interface Seen {
  name: string;
  engine: EngineName;
  dtype: WeightsDtype;
  /** by the picture's name; without those that cannot be read */
  logits: Map<string, Float32Array>;
  /** {@link rankOf} the right class; empty for unlabelled data */
  ranks: Map<string, number>;
}

async function seeAll(what: string, source: string, options: EvalOptions): Promise<Seen> {
  const model = readModelFolder(source, options.dtype);
  const { pictures, classNames } = await openDataset(options.data, options.split);
  const indices = options.unlabelled ? undefined : labelIndices(classNames, model.manifest.labels);
  const { engine } = await openEngine(options.engine, model, { threads: options.threads });
  const chosen = options.limit ? spread(pictures, options.limit) : pictures;
  const progress = startProgress(what, chosen.length);
  const logits = new Map<string, Float32Array>();
  const ranks = new Map<string, number>();
  let right = 0;
  try {
    const queue: { picture: Picture; pixels: Promise<Float32Array> }[] = [];
    const enqueue = (picture: Picture) => {
      const pixels = evalPixels(picture, model.manifest.preprocess);
      pixels.catch(() => {}); // awaited below, where it is reported
      queue.push({ picture, pixels });
    };
    chosen.slice(0, AHEAD).forEach(enqueue);
    for (let k = 0; queue.length; k++) {
      const { picture, pixels } = queue.shift()!;
      if (k + AHEAD < chosen.length) enqueue(chosen[k + AHEAD]);
      const seen = await see(engine, pixels);
      if (!seen) continue;
      logits.set(picture.name, seen);
      if (indices) {
        const rank = rankOf(seen, indices.get(picture.className)!);
        ranks.set(picture.name, rank);
        if (rank < 1) right++;
      }
      progress.update(k + 1, indices ? `top-1 ${percent(right / ranks.size)}` : "");
    }
  } finally {
    progress.stop();
    engine.dispose();
  }
  if (logits.size === 0) throw new SlimViTError("bad-input", "No picture of the data can be read.");
  return { name: model.manifest.name, engine: engine.name, dtype: model.dtype, logits, ranks };
}

/**
 * The interval is Wald's with half a picture added to each of the four cells, which keeps its 95 % on few pictures and when
 * the models hardly differ.
 *
 * @param a picture → {@link rankOf} its right class
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

/** Logits; none for a picture that cannot be read, which is named and left out. */
async function see(engine: Engine, pixels: Promise<Float32Array>): Promise<Float32Array | undefined> {
  let input: Float32Array;
  try {
    input = await pixels;
  } catch (error) {
    say(`skipped: ${messageOf(error)}`);
    return undefined;
  }
  return (await engine.run(input)).logits.slice();
}

/** The same data, split, engine and dtype measured again replace their old figures. */
function record(source: string, entry: AccuracyRecord): void {
  const same = (a: AccuracyRecord) =>
    a.data === entry.data && a.split === entry.split && a.engine === entry.engine && a.dtype === entry.dtype;
  const { accuracy = [] } = readManifestFile(source).metrics as Metrics;
  recordMetrics(source, { accuracy: [...accuracy.filter((a) => !same(a)), entry] });
}

export interface RunReport {
  file: string;
  classes: { id: string; label: string; index: number; score: number }[];
  logits: number[];
  latencyMs: { preprocess: number; inference: number; total: number };
}

export async function runFiles(
  source: string,
  files: string[],
  options: { engine: EngineName | "auto"; dtype?: WeightsDtype; threads: number; topK: number },
): Promise<RunReport[]> {
  const model = readModelFolder(source, options.dtype);
  const { labels, preprocess: how } = model.manifest;
  const { engine } = await openEngine(options.engine, model, { threads: options.threads });
  const reports: RunReport[] = [];
  try {
    for (const file of files) {
      const start = performance.now();
      const pixels = preprocess(await decode(readImageFile(file), file), how);
      const middle = performance.now();
      const { logits } = await engine.run(pixels);
      const end = performance.now();
      const scores = softmax(logits);
      const best = [...scores.keys()].sort((a, b) => scores[b] - scores[a]).slice(0, options.topK);
      reports.push({
        file,
        classes: best.map((index) => ({ ...labels[index], index, score: scores[index] })),
        logits: Array.from(logits),
        latencyMs: { preprocess: middle - start, inference: end - middle, total: end - start },
      });
    }
  } finally {
    engine.dispose();
  }
  return reports;
}

function readImageFile(file: string): Buffer {
  try {
    return readFileSync(file);
  } catch (error) {
    throw new SlimViTError("bad-input", `${file}: cannot be read (${messageOf(error)}).`);
  }
}
