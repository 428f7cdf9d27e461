/**
 * slimvit teach MODEL --data D -o OUT: fits a head for the data's classes to the model's features. The network is not
 * trained, so it takes the time of one inference for each picture. Any training has to beat its accuracy.
 */
import { basename, resolve } from "node:path";
import { featureDim, type Manifest, type Model, type WeightsDtype } from "../../src/format/model.ts";
import type { Taught, TaughtInfo } from "../../src/protocol.ts";
import {
  headTensors,
  TAUGHT_FILE,
  type TaughtRecord,
  taughtManifest,
  teachHead,
  writeTaught,
} from "../../src/teach/index.ts";
import { openDataset, type Split } from "../data/data.ts";
import { digestData } from "../data/digest.ts";
import { evaluate } from "../evaluation/evaluate.ts";
import { cardText, interval } from "../models/card.ts";
import { claimOutput, readManifestFile, readModelFolder, sha256, withStep, writeModel } from "../models/folders.ts";
import { percent, say } from "../shared/terminal.ts";
import { embedPictures } from "./embed.ts";

export interface TeachModelOptions {
  data: string[];
  /** pictures that are taught; default train */
  split?: Split;
  out: string;
  name?: string;
  force?: boolean;
  threads: number;
  /** share of pictures of its own classes that the model may call unknown; default 0.05 */
  falseRejection?: number;
  /** writes the embeddings beside the weights, so that the model can be taught more in a page */
  embeddings?: boolean;
}

export interface TeachReport {
  out: string;
  classes: string[];
  /** pictures taught, cross-validated accuracy and the rule for unknown pictures */
  taught: TaughtInfo;
  /** Accuracy on the data's own validation pictures; undefined where they have none, or are among those that were taught. */
  val?: { dtype: WeightsDtype; top1: number; top5: number; n: number }[];
}

/** @param source a model folder of any kind, embedding models included */
export async function teachModel(source: string, options: TeachModelOptions): Promise<TeachReport> {
  const { data, split = "train", out, force, threads } = options;
  claimOutput(out, force, [source], data);
  const model = readModelFolder(source);
  const dim = featureDim(model.manifest);
  const { taught, seconds } = await embed(model, options, split);
  const begun = performance.now();
  const { head, info } = await teachHead(taught, dim, { falseRejection: options.falseRejection });
  const fitSeconds = (performance.now() - begun) / 1000;
  head.labels = taught.names.map((id) => ({ id, label: id.replaceAll("_", " ") }));
  const { accuracy, n, folds, unknown } = info;
  say(
    `teach: ${taught.names.length} classes, ${n} pictures, embedded in ${seconds.toFixed(1)} s, fitted in ${fitSeconds.toFixed(1)} s\n` +
      `teach: top-1 ${percent(accuracy)} (${interval(accuracy, n)}) of ${n} pictures, cross-validated in ${folds} folds; ` +
      `${percent(unknown.falseRejection)} of them are called unknown`,
  );
  await write(source, model, { taught, head, info }, options, split);
  const val = split === "train" ? await validate(out, data, threads) : undefined;
  return { out, classes: taught.names, taught: info, ...(val && { val }) };
}

async function embed(model: Model, { data, threads }: TeachModelOptions, split: Split) {
  const { pictures } = await openDataset(data, split);
  const begun = performance.now();
  const embedded = await embedPictures(model, pictures, threads);
  const names = [...new Set(embedded.pictures.map(({ className }) => className))].sort();
  const taught: Taught = {
    names,
    classOf: Int32Array.from(embedded.pictures, ({ className }) => names.indexOf(className)),
    embeddings: embedded.features,
  };
  return { taught, seconds: (performance.now() - begun) / 1000 };
}

/** Writes the model in the dtypes of the source. */
async function write(
  source: string,
  model: Model,
  { taught, head, info }: { taught: Taught; head: Parameters<typeof headTensors>[1]; info: TaughtInfo },
  { data, out, name, force, embeddings }: TeachModelOptions,
  split: Split,
): Promise<void> {
  const { weights } = readManifestFile(source);
  const file = embeddings ? writeTaught(taught) : undefined;
  const record: TaughtRecord = { ...info, ...(file && { embeddings: { file: TAUGHT_FILE, sha256: sha256(file) } }) };
  const digests = await Promise.all(data.map(digestData));
  const recorded = {
    ...{ split, data: data.map((path) => basename(path)), dataSha256: digests.map((digest) => digest.sha256) },
    ...{ pictures: info.n, accuracy: info.accuracy, folds: info.folds, dtype: model.dtype },
  };
  const step = (withStep({}, "teach", recorded).steps as Record<string, unknown>[])[0];
  const {
    format: _,
    weights: __,
    variants: ___,
    variant: ____,
    ...draft
  } = taughtManifest(model.manifest, head, record, step);
  await writeModel(
    out,
    {
      draft: { ...draft, name: name ?? basename(resolve(out)) },
      tensors: (dtype) => backboneOf(readModelFolder(source, dtype)),
      dtypes: weights.map(({ dtype }) => dtype),
      asTheyAre: headTensors(model.manifest, head),
      activations: ofBackbone(weights.find(({ dtype }) => dtype === "int8")?.activations),
      extra: (manifest: Manifest) => ({ ...(file && { [TAUGHT_FILE]: file }), "card.md": cardText(manifest) }),
    },
    force,
  );
}

function backboneOf({ tensors }: Model): Model["tensors"] {
  return new Map([...tensors].filter(([key]) => !key.startsWith("head")));
}

/** Drops the ranges of the head, because the new head is in floats. */
function ofBackbone<R>(ranges: Record<string, R> | undefined): Record<string, R> | undefined {
  return ranges && Object.fromEntries(Object.entries(ranges).filter(([key]) => !key.startsWith("head")));
}

/** Measures on val and records the figures with the model. */
async function validate(out: string, data: string[], threads: number): Promise<TeachReport["val"]> {
  const hasVal = await openDataset(data, "val").then(
    ({ pictures }) => pictures.length > 0,
    () => false, // reported below
  );
  if (!hasVal) {
    say("teach: the data have no validation pictures; the cross-validated accuracy is the one to go by.");
    return undefined;
  }
  const measured: NonNullable<TeachReport["val"]> = [];
  for (const { dtype } of readManifestFile(out).weights) {
    const { top1, top5, n } = await evaluate(out, { data, split: "val", engine: "simd", dtype, threads, record: true });
    say(`teach: val top-1 ${percent(top1)} (${interval(top1, n)}) of ${n} pictures, ${dtype}`);
    measured.push({ dtype, top1, top5, n });
  }
  return measured;
}
