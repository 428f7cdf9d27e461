/** The options of every training command. */
import { BACKENDS } from "../training/backend.ts";
import type { Recipe } from "../training/recipe.ts";
import { data, FORCE, OUT } from "./shared.ts";
import { choice, flag, optional, withDefault } from "./spec.ts";
import { count, fraction, magnitude, natural, nonNegative, path, positive } from "./values.ts";

const VAL_PICTURES =
  "val pictures on which accuracy is measured during training, each at a third of the cost of a training picture; 0 is off";

/** @param d the command's own defaults */
export const trainOptions = (d: Recipe) => ({
  ...data("train"),
  unlabelled: flag(
    "--unlabelled",
    "ignore class folders and learn from the teacher alone; the data may be a flat folder",
  ),
  teacher: optional(
    "--teacher <model>",
    "model folder whose logits are learned, or whose embeddings if it has no head",
    path,
  ),
  out: OUT,
  force: FORCE,
  resume: flag(
    "--resume",
    "continue from the checkpoint beside the output, as by default; print a message if there is none",
  ),
  restart: flag("--restart", "start from the beginning, and ignore a checkpoint beside the output"),
  epochs: withDefault("--epochs <n>", "passes over the data; may be fractional", positive, d.epochs),
  batch: withDefault("--batch <n>", "pictures in a batch", count, d.batch),
  accumulate: withDefault("--accumulate <n>", "batches in a step, whose gradients are averaged", count, d.accumulate),
  lr: withDefault("--lr <rate>", "AdamW's learning rate", positive, d.lr),
  warmup: withDefault("--warmup <epochs>", "length of the linear warm-up", nonNegative, d.warmup),
  schedule: choice("--schedule <kind>", "learning rate after the warm-up", ["cosine", "constant"], d.schedule),
  weightDecay: withDefault("--weight-decay <rate>", "decoupled weight decay of matrices", nonNegative, d.weightDecay),
  smoothing: withDefault("--smoothing <share>", "label smoothing", fraction, d.smoothing),
  mixup: withDefault("--mixup <alpha>", "Beta parameter of mixup; 0 is off", nonNegative, d.mixup),
  cutmix: withDefault("--cutmix <alpha>", "Beta parameter of cutmix; 0 is off", nonNegative, d.cutmix),
  dropPath: withDefault("--drop-path <rate>", "stochastic depth: drop rate of the last block", fraction, d.dropPath),
  minScale: withDefault("--min-scale <share>", "smallest random crop, as a share of the picture", fraction, d.minScale),
  randaugment: withDefault(
    "--randaugment [magnitude]",
    "RandAugment, magnitude 0 to 10; 0 is off",
    magnitude,
    d.randaugment,
    { alone: 9 },
  ),
  erase: withDefault("--erase [share]", "random erasing, of this share of the pictures; 0 is off", fraction, d.erase, {
    alone: 0.25,
  }),
  repeats: withDefault(
    "--repeats <n>",
    "how often each picture is repeated in a row, augmented differently; an epoch keeps its length",
    count,
    d.repeats,
  ),
  alpha: withDefault(
    "--alpha <share>",
    "share of the distillation term in the loss on labelled data",
    fraction,
    d.alpha,
  ),
  tau: withDefault("--tau <t>", "distillation temperature", positive, d.tau),
  distillation: choice(
    "--distillation <kind>",
    "learn the teacher's distribution (soft) or its best class (hard)",
    ["soft", "hard"],
    d.distillation,
  ),
  ema: withDefault("--ema <decay>", "exponential moving average of the weights; 0 is off", fraction, d.ema),
  valPictures: withDefault("--val-pictures <n>", VAL_PICTURES, natural, d.valPictures),
  valEvery: withDefault(
    "--val-every <epochs>",
    "time between two measurements, besides those at the start and the end",
    positive,
    d.valEvery,
  ),
  checkpointSeconds: withDefault(
    "--checkpoint-seconds <n>",
    "seconds between checkpoints",
    nonNegative,
    d.checkpointSeconds,
  ),
  seed: withDefault("--seed <n>", "seed of the order, crops and mixing", natural, d.seed),
  backend: choice("--backend <name>", "TensorFlow.js backend; default the first that works", BACKENDS),
  precision: choice("--precision <p>", "rounding of matrix products on CPUs with bf16 units", ["f32", "bf16"], "f32"),
});
