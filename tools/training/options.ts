/** The options of a training command, the data it names, and what is recorded of both. */
import { SlimViTError } from "../../src/errors.ts";
import type { Manifest } from "../../src/format/model.ts";
import { type Dataset, labelIndices, openDataset, type Split } from "../data/data.ts";
import { digestData } from "../data/digest.ts";
import { modelDigest, readManifestFile } from "../models/folders.ts";
import { type Backend, type BackendName, environmentOf, type Precision } from "./backend.ts";
import type { TrainData } from "./batches.ts";
import { type CheckpointPlan, checkpointPath } from "./checkpoint.ts";
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
  /** from the beginning, whatever checkpoint there is */
  restart?: boolean;
  backend?: BackendName;
  precision: Precision;
}

export async function openTrainData(
  options: TrainOptions,
  manifest: Manifest,
): Promise<{ dataset: Dataset; data: TrainData; validation: Validation | undefined }> {
  const embeds = !manifest.head;
  requireTeacher(options, manifest);
  const unlabelled = embeds || options.unlabelled;
  const dataset = await openDataset(options.data, options.split, { unlabelled });
  if (!unlabelled) requireClasses(dataset.classNames);
  const indices = unlabelled ? undefined : labelIndices(dataset.classNames, manifest.labels);
  const { preprocess } = manifest;
  const { minScale, randaugment, erase } = options;
  const augmentation = { minScale, flip: true, randaugment, erase };
  const data: TrainData = { pictures: dataset.pictures, indices, preprocess, augmentation };
  return { dataset, data, validation: await openValidation(options, data, embeds) };
}

/** @throws SlimViTError `bad-option` where there is neither a label nor a teacher to learn from */
function requireTeacher({ unlabelled, teacher }: TrainOptions, { name, head }: Manifest): void {
  if (teacher) return;
  if (!head)
    throw new SlimViTError(
      "bad-option",
      `${name}: has no classifier. Give a --teacher, whose embeddings it learns, or make it a classifier first with ` +
        '"slimvit finetune" or "slimvit classes".',
    );
  if (unlabelled) throw new SlimViTError("bad-option", "--unlabelled data needs a --teacher to learn from.");
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
  const bystanders = [...OBSERVERS, "out", "force", "resume", "restart", "json", "backend", "data", "teacher"];
  return Object.fromEntries(Object.entries(options).filter(([key]) => !bystanders.includes(key)));
}

/** Options that say how often a run is measured or saved. They do not change its result. */
export const OBSERVERS = ["checkpointSeconds", "valPictures", "valEvery"];

/** Rates may change at a resume: lowering them is how a run whose loss became NaN is saved. */
const RATES = ["lr", "lrHead", "lrOwn", "lrMask", "lrMaskPatch"];

/**
 * Where the checkpoint goes, and the values that must be equal to continue it: the model, the data and the teacher by their
 * content, wherever they lie and however they are spelled, and every option of the recipe but the rates.
 */
export async function checkpointOf(command: string, model: Manifest, options: TrainOptions): Promise<CheckpointPlan> {
  const entries = Object.entries(trainingOptions(options));
  const digests = await Promise.all(options.data.map(digestData));
  return {
    path: checkpointPath(options.out),
    identity: {
      command,
      model: modelDigest(model),
      data: digests.map((digest) => digest.sha256).join(),
      ...(options.teacher && { teacher: modelDigest(readManifestFile(options.teacher)) }),
      ...Object.fromEntries(entries.filter(([key]) => !RATES.includes(key))),
    },
    rates: JSON.stringify(Object.fromEntries(entries.filter(([key]) => RATES.includes(key)))),
    start: options.restart ? "anew" : options.resume ? "resume" : "either",
  };
}

/**
 * The record of a training for a model's provenance: the options, data and teacher by name and hash instead of their
 * paths, and the versions it ran on.
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
