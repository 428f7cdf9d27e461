/**
 * slimvit elastic MODEL --budgets 1,0.8,0.6,0.4 -o OUT [--data D] [--epochs N]: one folder with a variant for each share
 * of MODEL's MACs, on one set of weights. A variant has a picture size, merges, and the most important head channels and MLP
 * units. With pictures, their order and the choice of variants are measured, and so is the accuracy of each variant. With
 * --epochs all variants are then trained together. A folder that has variants is trained further without --budgets.
 * Prints one line for each variant.
 */
import { basename, join, resolve } from "node:path";
import { SlimViTError } from "../../src/errors.ts";
import { countMacs, innerDim, type Manifest, type Model, type WeightsDtype } from "../../src/format/model.ts";
import { withVariant } from "../../src/format/variants.ts";
import { encodeTensors } from "../../src/format/write.ts";
import { openDataset, type Split } from "../data/data.ts";
import { evaluate } from "../evaluation/evaluate.ts";
import { cardText } from "../models/card.ts";
import {
  claimOutput,
  readManifestFile,
  readModelFolder,
  splitSource,
  withStep,
  writeFileAtomic,
} from "../models/folders.ts";
import type { Metrics } from "../models/records.ts";
import { reportHtml } from "../report/report.ts";
import { percent, say, si } from "../shared/terminal.ts";
import { freeThreads } from "../shared/threads.ts";
import { removeCheckpoint } from "../training/checkpoint.ts";
import { historyFiles } from "../training/scalars.ts";
import { chooseVariants } from "./choose.ts";
import { cutToWidths } from "./cut.ts";
import { writeElasticFolder } from "./folder.ts";
import { timeVariants } from "./latency.ts";
import { type NamedModel, type TogetherOptions, type TrainedTogether, trainTogether } from "./train.ts";
import { isOwn } from "./weights.ts";

export interface ElasticOptions {
  out: string;
  /** shares of MODEL's MACs; without them the variants are those that MODEL has */
  budgets?: number[];
  /** sides of square pictures */
  sizes?: number[];
  dtype: WeightsDtype[];
  weightStep?: number;
  /** by its `train` split channels and units are ordered and variants chosen; on `split` accuracy is measured */
  data?: string[];
  split?: Split;
  /** the data's classes are not the model's: no accuracy is measured */
  unlabelled?: boolean;
  /** how the variants are trained together; without it they are not */
  training?: TogetherOptions;
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
    /** share of MODEL's head channels */
    channels: number;
    /** share of MODEL's MLP units */
    units: number;
    top1?: number;
    ms?: number;
  }[];
}

export async function elastic(source: string, options: ElasticOptions): Promise<ElasticReport> {
  const { out, data, force, training } = options;
  claimOutput(out, force, [source, training?.teacher], data);
  const read = readModelFolder(source);
  const { family: _, ...model } = { ...read, tensors: encodeTensors(read.tensors, "f32"), dtype: "f32" as const };
  const untrained = options.budgets
    ? named(await chosenVariants(model, { ...options, budgets: options.budgets }), model)
    : variantsOf(read, source);
  const together = training && (await trainTogether(untrained, { ...training, teacher: training.teacher ?? source }));
  const variants = together?.models ?? untrained;
  const { manifest } = await write(variants, options, together);
  if (together) removeCheckpoint(together.task);
  if (data?.length && !options.unlabelled) await measure(manifest, options, data);
  return report(model, options, together?.report.history);
}

async function chosenVariants(model: Model, options: ElasticOptions & { budgets: number[] }): Promise<Model[]> {
  const { data } = options;
  const pictures = data?.length ? (await openDataset(data, "train", { unlabelled: true })).pictures : undefined;
  return (await chooseVariants(model, options, pictures)).map((candidate) => candidate.model);
}

/** @returns the variants of a folder that has several, the largest first */
function variantsOf({ manifest, family }: Model, source: string): NamedModel[] {
  if (!family || manifest.variants.length < 2 || splitSource(source).variant !== undefined)
    throw new SlimViTError(
      "bad-option",
      `${source}: is a single network. Give --budgets, the variants' shares of its MACs, such as 1,0.8,0.6,0.4.`,
    );
  return [...family.names].reverse().map((name) => {
    const { family: _, ...model } = family.model(name);
    return { name, model: { ...model, tensors: encodeTensors(model.tensors, "f32"), dtype: "f32" as const } };
  });
}

/** Accuracy and milliseconds of each variant and dtype, recorded in the folder. */
async function measure({ variants }: Manifest, options: ElasticOptions, data: string[]): Promise<void> {
  const { out, dtype, split = "val" } = options;
  for (const { name } of variants)
    for (const one of dtype)
      await evaluate(`${out}#${name}`, {
        data,
        split,
        engine: "simd",
        dtype: one,
        threads: freeThreads(),
        record: true,
      });
  await timeVariants(out, dtype);
}

/** @param models the largest first */
async function write(
  models: NamedModel[],
  options: ElasticOptions,
  together?: TrainedTogether,
): Promise<{ manifest: Manifest }> {
  const { out, budgets, dtype, weightStep, name, force } = options;
  const [{ model: largest }] = models;
  const { format: _, weights: __, variants: ___, variant: ____, ...draft } = largest.manifest;
  const encoded = new Map(
    dtype.map((one) => [one, encodeTensors(largest.tensors, one, one === "int8" ? weightStep : undefined)]),
  );
  const variants = [...models].reverse().map(({ name, model }) => ({
    name,
    manifest: { ...model.manifest, metrics: {} },
    tensors: (one: WeightsDtype) => {
      const tensors = cutToWidths(encoded.get(one)!, largest.manifest, model.manifest);
      for (const [key, tensor] of model.tensors) {
        if (!isOwn(key, model, largest)) continue;
        tensors.set(key, encodeTensors(new Map([[key, tensor]]), one).get(key)!);
      }
      return tensors;
    },
  }));
  const made = {
    ...(budgets && { budgets }),
    ...(weightStep && { weightStep }),
    ...(options.data && { data: options.data.map((path) => basename(path)) }),
    ...together?.recorded,
  };
  const provenance = withStep(draft.provenance, "elastic", made);
  const history = together?.report.history;
  const content = {
    draft: { ...draft, name: name ?? basename(resolve(out)), provenance, metrics: {} },
    variants,
    dtypes: dtype,
    extra: (manifest: Manifest) => ({
      "card.md": cardText(manifest),
      "report.html": reportOf(manifest, history),
      ...(history && historyFiles(history)),
    }),
  };
  return { manifest: await writeElasticFolder(out, content, force) };
}

/**
 * Variants with names from their shares of the whole model's MACs, in per cent, with as many digits as tell them apart.
 *
 * @param models no two have the same MACs
 */
function named(models: Model[], whole: Model): NamedModel[] {
  const macsOf = ({ manifest }: Model) => countMacs(manifest, manifest.labels.length);
  for (let digits = 0; ; digits++) {
    const names = models.map((one) => `macs-${((100 * macsOf(one)) / macsOf(whole)).toFixed(digits)}`);
    if (new Set(names).size === models.length) return models.map((model, i) => ({ name: names[i], model }));
  }
}

/** A page with all variants. @param history of their training */
function reportOf(manifest: Manifest, history?: Record<string, number>[]): string {
  const models = manifest.variants.map(({ name }, i) => ({
    manifest: { ...withVariant(manifest, name), name: `${manifest.name}#${name}` },
    ...(i === 0 && history && { history }),
  }));
  return reportHtml(models);
}

function report(whole: Model, { out, dtype }: ElasticOptions, history?: Record<string, number>[]): ElasticReport {
  const manifest = readManifestFile(out);
  writeFileAtomic(join(out, "report.html"), reportOf(manifest, history)); // now with the measurements
  const macsOfWhole = countMacs(whole.manifest, whole.manifest.labels.length);
  const shareOf = (blocks: Manifest["blocks"], width: (block: Manifest["blocks"][number]) => number) => {
    const [own, all] = [blocks, whole.manifest.blocks].map((list) => list.reduce((sum, one) => sum + width(one), 0));
    return own / (all || 1);
  };
  const variants = manifest.variants.map(({ name, macs, imageSize, blocks, metrics }) => {
    const { accuracy = [], latency = [] } = metrics as Metrics;
    const last = <R extends { dtype: string }>(records: R[]) => records.findLast((one) => one.dtype === dtype.at(-1));
    const [top1, ms] = [last(accuracy)?.top1, last(latency)?.msMedian];
    const [channels, units] = [shareOf(blocks, innerDim), shareOf(blocks, ({ mlpHidden }) => mlpHidden)];
    const merges = blocks.reduce((sum, { merge }) => sum + merge, 0);
    const measured =
      top1 === undefined ? "" : `, top-1 ${percent(top1)}, ${ms} ms on one thread of simd (${dtype.at(-1)})`;
    say(
      `elastic: ${name}: ${si(macs)} MACs (${percent(macs / macsOfWhole)}), ${imageSize[1]}×${imageSize[0]} px, ${merges} merges, ` +
        `${percent(channels)} of the head channels, ${percent(units)} of the units${measured}`,
    );
    return {
      name,
      macs,
      macsShare: macs / macsOfWhole,
      imageSize,
      channels,
      units,
      ...(top1 !== undefined && { top1, ms }),
    };
  });
  for (const { file, bytes, slabs = [] } of manifest.weights) {
    const first = slabs.length ? `; the smallest variant is its first ${(slabs[0].bytes / 1e6).toFixed(2)} MB` : "";
    say(`elastic: ${file} ${(bytes / 1e6).toFixed(2)} MB${first}`);
  }
  return { out, variants };
}
