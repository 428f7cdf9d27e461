/** The options of every training command. */
import { BACKENDS } from "../training/backend.ts";
import type { Recipe } from "../training/recipe.ts";
import { data, FORCE, OUT } from "./shared.ts";
import { choice, flag, optional, withDefault } from "./spec.ts";
import { count, fraction, magnitude, natural, nonNegative, path, positive } from "./values.ts";

const VAL_PICTURES =
  "of split val, on which accuracy is measured while training, each at a third of a training picture's cost; 0 is off";

/** @param d the command's own defaults */
export const trainOptions = (d: Recipe) => ({
  ...data("train"),
  unlabelled: flag("--unlabelled", "ignore class folders: distillation alone; a flat folder of pictures will do"),
  teacher: optional(
    "--teacher <model>",
    "model folder whose logits are distilled, or the embeddings of one without a head",
    path,
  ),
  out: OUT,
  force: FORCE,
  resume: flag("--resume", "go on from the checkpoint beside the output; one that fits is found without it"),
  restart: flag("--restart", "start from the beginning, whatever checkpoint lies beside the output"),
  epochs: withDefault("--epochs <n>", "passes over the data; may be fractional", positive, d.epochs),
  batch: withDefault("--batch <n>", "pictures computed at once", count, d.batch),
  accumulate: withDefault("--accumulate <n>", "batches a step: their gradients are averaged", count, d.accumulate),
  lr: withDefault("--lr <rate>", "AdamW's rate", positive, d.lr),
  warmup: withDefault("--warmup <epochs>", "linear warm-up", nonNegative, d.warmup),
  schedule: choice("--schedule <kind>", "rate after the warm-up", ["cosine", "constant"], d.schedule),
  weightDecay: withDefault("--weight-decay <rate>", "decoupled, on matrices", nonNegative, d.weightDecay),
  smoothing: withDefault("--smoothing <share>", "label smoothing", fraction, d.smoothing),
  mixup: withDefault("--mixup <alpha>", "Beta parameter; 0 is off", nonNegative, d.mixup),
  cutmix: withDefault("--cutmix <alpha>", "Beta parameter; 0 is off", nonNegative, d.cutmix),
  dropPath: withDefault("--drop-path <rate>", "stochastic depth of the last block", fraction, d.dropPath),
  minScale: withDefault("--min-scale <share>", "smallest random crop, as a share of the picture", fraction, d.minScale),
  randaugment: withDefault(
    "--randaugment [magnitude]",
    "RandAugment, magnitude 0 to 10; 0 is off",
    magnitude,
    d.randaugment,
    { alone: 9 },
  ),
  erase: withDefault("--erase [share]", "random erasing of so many pictures; 0 is off", fraction, d.erase, {
    alone: 0.25,
  }),
  repeats: withDefault("--repeats <n>", "times a picture comes in a row, augmented anew", count, d.repeats),
  alpha: withDefault("--alpha <share>", "share of distillation in the loss of labelled data", fraction, d.alpha),
  tau: withDefault("--tau <t>", "distillation temperature", positive, d.tau),
  distillation: choice(
    "--distillation <kind>",
    "teacher's distribution or best class",
    ["soft", "hard"],
    d.distillation,
  ),
  ema: withDefault("--ema <decay>", "average the weights over time; 0 is off", fraction, d.ema),
  valPictures: withDefault("--val-pictures <n>", VAL_PICTURES, natural, d.valPictures),
  valEvery: withDefault(
    "--val-every <epochs>",
    "between two measurements; the start and the end have one, too",
    positive,
    d.valEvery,
  ),
  checkpointSeconds: withDefault(
    "--checkpoint-seconds <n>",
    "time between checkpoints",
    nonNegative,
    d.checkpointSeconds,
  ),
  seed: withDefault("--seed <n>", "of order, crops and mixing", natural, d.seed),
  backend: choice("--backend <name>", "TensorFlow.js backend; default the first that works", BACKENDS),
  precision: choice("--precision <p>", "rounding of matrix products on CPUs with bf16 units", ["f32", "bf16"], "f32"),
});
