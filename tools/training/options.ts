/** The command-line options that search and retrain share, with their defaults; and the data they name. */
import { type Command, InvalidArgumentError, Option } from "commander";
import { SlimViTError } from "../../src/errors.ts";
import type { Manifest } from "../../src/format/model.ts";
import { type Dataset, labelIndices, openDataset, SPLITS, type Split, type TrainData } from "../data/data.ts";
import { readManifestFile, sha256 } from "../models/folders.ts";
import { digestData, environmentOf } from "../models/provenance.ts";
import { BACKENDS, type Backend, type BackendName, type Precision } from "./backend.ts";
import { checkpointPath } from "./checkpoint.ts";
import type { Recipe } from "./train.ts";
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

export const RECIPE_DEFAULTS: Recipe = {
  epochs: 5,
  batch: 32,
  accumulate: 1,
  lr: 1e-4,
  warmup: 0.2,
  schedule: "cosine",
  weightDecay: 0.05,
  smoothing: 0.1,
  mixup: 0,
  cutmix: 0,
  dropPath: 0,
  minScale: 0.35,
  randaugment: 0,
  erase: 0,
  repeats: 1,
  alpha: 0.9,
  tau: 1,
  distillation: "soft",
  ema: 0,
  valPictures: 256,
  valEvery: 1,
  seed: 0,
  checkpointSeconds: 120,
};

export const number = (text: string): number => {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value)) throw new InvalidArgumentError("expected a number.");
  return value;
};
export const positive = (text: string): number => {
  const value = number(text);
  if (value <= 0) throw new InvalidArgumentError("expected a number above 0.");
  return value;
};
export const fraction = (text: string): number => {
  const value = number(text);
  if (value < 0 || value > 1) throw new InvalidArgumentError("expected a number from 0 to 1.");
  return value;
};
export const natural = (text: string): number => {
  const value = number(text);
  if (!Number.isSafeInteger(value) || value < 0) throw new InvalidArgumentError("expected a whole number ≥ 0.");
  return value;
};
export const count = (text: string): number => {
  const value = natural(text);
  if (value === 0) throw new InvalidArgumentError("expected a whole number ≥ 1.");
  return value;
};

const magnitude = (text: string): number => {
  const value = number(text);
  if (value < 0 || value > 10) throw new InvalidArgumentError("expected a number from 0 to 10.");
  return value;
};

/** @param use what the data is for, where the command does without it too */
export function addDataOptions(command: Command, split: Split, use?: string): Command {
  const what = `${use ? `${use}: ` : ""}folder or zip with one subfolder a class; may be given more than once`;
  const option = new Option("--data <source>", what)
    .argParser((value: string, all: string[] = []) => [...all, value])
    .makeOptionMandatory(!use);
  return command
    .addOption(option)
    .addOption(new Option("--split <split>", "which part of the data").choices(SPLITS).default(split));
}

export function addTrainOptions(command: Command, defaults: Recipe): Command {
  const d = defaults;
  return addDataOptions(command, "train")
    .option("--unlabelled", "ignore class folders: distillation alone")
    .option("--teacher <model>", "model folder whose logits are distilled")
    .requiredOption("-o, --out <folder>", "output folder")
    .option("--force", "replace the output folder")
    .option("--resume", "go on from the checkpoint beside the output")
    .option("--epochs <n>", "passes over the data; may be fractional", positive, d.epochs)
    .option("--batch <n>", "pictures computed at once", count, d.batch)
    .option("--accumulate <n>", "batches a step: their gradients are averaged", count, d.accumulate)
    .option("--lr <rate>", "AdamW's rate", positive, d.lr)
    .option("--warmup <epochs>", "linear warm-up", number, d.warmup)
    .addOption(
      new Option("--schedule <kind>", "rate after the warm-up").choices(["cosine", "constant"]).default(d.schedule),
    )
    .option("--weight-decay <rate>", "decoupled, on matrices", number, d.weightDecay)
    .option("--smoothing <share>", "label smoothing", fraction, d.smoothing)
    .option("--mixup <alpha>", "Beta parameter; 0 is off", number, d.mixup)
    .option("--cutmix <alpha>", "Beta parameter; 0 is off", number, d.cutmix)
    .option("--drop-path <rate>", "stochastic depth of the last block", fraction, d.dropPath)
    .option("--min-scale <share>", "smallest random crop, as a share of the picture", fraction, d.minScale)
    .addOption(
      new Option("--randaugment [magnitude]", "RandAugment, magnitude 0 to 10; 0 is off")
        .argParser(magnitude)
        .preset("9")
        .default(d.randaugment),
    )
    .addOption(
      new Option("--erase [share]", "random erasing of so many pictures; 0 is off")
        .argParser(fraction)
        .preset("0.25")
        .default(d.erase),
    )
    .option("--repeats <n>", "times a picture comes in a row, augmented anew", count, d.repeats)
    .option("--alpha <share>", "share of distillation in the loss of labelled data", fraction, d.alpha)
    .option("--tau <t>", "distillation temperature", positive, d.tau)
    .addOption(
      new Option("--distillation <kind>", "teacher's distribution or best class")
        .choices(["soft", "hard"])
        .default(d.distillation),
    )
    .option("--ema <decay>", "average the weights over time; 0 is off", fraction, d.ema)
    .option(
      "--val-pictures <n>",
      "of split val, on which accuracy is measured while training, each at a third of a training picture's cost; 0 is off",
      natural,
      d.valPictures,
    )
    .option(
      "--val-every <epochs>",
      "between two measurements; the start and the end have one, too",
      positive,
      d.valEvery,
    )
    .option("--checkpoint-seconds <n>", "time between checkpoints", number, d.checkpointSeconds)
    .option("--seed <n>", "of order, crops and mixing", natural, d.seed)
    .addOption(
      new Option("--backend <name>", "TensorFlow.js backend; default the first that works").choices([...BACKENDS]),
    )
    .addOption(
      new Option("--precision <p>", "rounding of matrix products on CPUs with bf16 units")
        .choices(["f32", "bf16"])
        .default("f32"),
    );
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
