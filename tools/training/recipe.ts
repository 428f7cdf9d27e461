/** The hyperparameters of every training command, with their defaults. */

/** The paper's values are in the README of the tools. */
export interface Recipe {
  epochs: number;
  /** pictures computed at once */
  batch: number;
  /** batches a step */
  accumulate: number;
  lr: number;
  /** epochs of linear warm-up */
  warmup: number;
  schedule: "cosine" | "constant";
  weightDecay: number;
  smoothing: number;
  /** Beta parameters; 0 turns each off. With both on, each batch takes one at random. */
  mixup: number;
  cutmix: number;
  dropPath: number;
  minScale: number;
  /** magnitude, 0 to 10; 0 is off */
  randaugment: number;
  /** probability of random erasing */
  erase: number;
  /** times a picture comes in a row, augmented anew */
  repeats: number;
  /** share of distillation in the base loss when there is a teacher */
  alpha: number;
  tau: number;
  distillation: "soft" | "hard";
  /** decay of the exponential moving average of the weights; 0 keeps none */
  ema: number;
  /** pictures of the val split that accuracy is measured on; 0 is off */
  valPictures: number;
  /** epochs between two measurements */
  valEvery: number;
  seed: number;
  checkpointSeconds: number;
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
