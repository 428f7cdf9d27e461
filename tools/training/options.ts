/** What a training command is called with, the data it names, and what it records of both. */
import { SlimViTError } from "../../src/errors.ts";
import type { Manifest } from "../../src/format/model.ts";
import { type Dataset, labelIndices, openDataset, type Split } from "../data/data.ts";
import { readManifestFile, sha256 } from "../models/folders.ts";
import { digestData, environmentOf } from "../models/provenance.ts";
import type { Backend, BackendName, Precision } from "./backend.ts";
import type { TrainData } from "./batches.ts";
import { checkpointPath } from "./checkpoint.ts";
import type { Recipe } from "./recipe.ts";
import { openValidation, type Validation } from "./validation.ts";

export interface TrainOptions extends Recipe {
  data: string[];
  split: Split;
  unlabelled?: boolean;
  teacher?: string;
  out: string;
  force?: boolean;
  resume?: boolean;
  backend?: BackendName;
  precision: Precision;
}

export async function openTrainData(
  options: TrainOptions,
  manifest: Manifest,
): Promise<{ dataset: Dataset; data: TrainData; validation: Validation | undefined }> {
  const dataset = await openDataset(options.data, options.split);
  if (!options.unlabelled) requireClasses(dataset.classNames);
  const indices = options.unlabelled ? undefined : labelIndices(dataset.classNames, manifest.labels);
  const { preprocess } = manifest;
  const { minScale, randaugment, erase } = options;
  const augmentation = { minScale, flip: true, randaugment, erase };
  const data: TrainData = { pictures: dataset.pictures, indices, preprocess, augmentation };
  return { dataset, data, validation: await openValidation(options, data) };
}

/** @throws SlimViTError `bad-input` for data of a single class, from which nothing can be learnt */
export function requireClasses(classNames: string[]): void {
  if (classNames.length > 1) return;
  throw new SlimViTError(
    "bad-input",
    `The data has a single class, "${classNames[0]}"; a classifier learns from two or more.`,
  );
}

/** The options that change what is trained: not where it goes, how it is reported or where it runs. */
function trainingOptions(options: TrainOptions): Record<string, unknown> {
  const bystanders = [...OBSERVERS, "out", "force", "resume", "json", "backend", "data", "teacher"];
  return Object.fromEntries(Object.entries(options).filter(([key]) => !bystanders.includes(key)));
}

/** They say how often a run is looked at or saved; what it ends with is the same. */
export const OBSERVERS = ["checkpointSeconds", "valPictures", "valEvery"];

/** Rates may change at a resume: lowering them is how a run whose loss became NaN is saved. */
const RATES = ["lr", "lrHead", "lrMask", "lrMaskPatch"];

/**
 * Where the checkpoint goes, and what must be equal for it to be continued: the model, the pictures' names and every
 * option of the recipe but the rates.
 */
export function checkpointOf(command: string, model: Manifest, dataset: Dataset, options: TrainOptions) {
  const entries = Object.entries(trainingOptions(options));
  const recipe = Object.fromEntries(entries.filter(([key]) => !RATES.includes(key)));
  const rates = Object.fromEntries(entries.filter(([key]) => RATES.includes(key)));
  const pictures = dataset.pictures.map((p) => p.name);
  return {
    path: checkpointPath(options.out),
    fingerprint: sha256(Buffer.from(JSON.stringify([command, model.weights, pictures, options.teacher, recipe]))),
    rates: JSON.stringify(rates),
    resume: options.resume === true,
  };
}

/**
 * What made a model, for its provenance: the options, data and teacher by name and hash instead of where they lay, and
 * the versions it ran on.
 */
export async function recordedOptions(
  options: TrainOptions,
  dataset: Dataset,
  backend: Backend,
): Promise<Record<string, unknown>> {
  const base = (path: string) => path.replace(/\/+$/, "").split("/").at(-1);
  const digests = await Promise.all(options.data.map(digestData));
  return {
    ...trainingOptions(options),
    data: options.data.map(base),
    dataSha256: digests.map((digest) => digest.sha256),
    pictures: dataset.pictures.length,
    ...(options.teacher && {
      teacher: base(options.teacher),
      teacherSha256: readManifestFile(options.teacher).weights.map((file) => file.sha256),
    }),
    environment: environmentOf(backend),
  };
}
