/** A training of the tiny ViT without a command line: pictures in memory, a task, a recipe. */
import sharp from "sharp";
import { forward } from "../../src/tfjs/forward.ts";
import type { TF } from "../../src/tfjs/ops.ts";
import type { Picture } from "../../tools/data/data.ts";
import { type Variables, variablesFrom } from "../../tools/models/variables.ts";
import { random } from "../../tools/shared/random.ts";
import type { TrainData } from "../../tools/training/batches.ts";
import { RECIPE_DEFAULTS, type Recipe } from "../../tools/training/recipe.ts";
import type { TrainTask } from "../../tools/training/train.ts";
import { CLASSES, randomTensors, tinyArchitecture } from "./fixtures.ts";

export const arch = tinyArchitecture();

/** Noise of 40×36 px, every class in turn. */
export function noisePictures(count: number, from = 0): Promise<Picture[]> {
  return Promise.all(
    Array.from({ length: count }, async (_, n) => {
      const k = from + n;
      const rng = random(k);
      const raw = Buffer.from(Uint8Array.from({ length: 40 * 36 * 3 }, () => 255 * rng()));
      const png = await sharp(raw, { raw: { width: 40, height: 36, channels: 3 } })
        .png()
        .toBuffer();
      return { name: `picture ${k}`, className: CLASSES[k % 3], read: async () => png };
    }),
  );
}

export async function noiseData(count: number): Promise<TrainData> {
  return {
    pictures: await noisePictures(count),
    indices: new Map(CLASSES.map((name, k) => [name, k])),
    preprocess: { resize: 32, crop: [32, 32], interpolation: "bicubic", mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5] },
    augmentation: { minScale: 0.5, flip: true },
  };
}

export const tinyVariables = (tf: TF, seed = 1): Variables =>
  variablesFrom(
    tf,
    [...randomTensors(arch, CLASSES.length, seed)].map(([name, t]) => [
      name,
      { shape: t.shape, data: t.data as Float32Array },
    ]),
  );

/** @param checkpoint path of its file */
export function taskOf(tf: TF, name: string, variables: Variables, data: TrainData, checkpoint: string): TrainTask {
  return {
    name,
    variables,
    forward: (pixels, branchGates) => forward(tf, arch, variables, pixels, { branchGates }),
    classes: CLASSES.length,
    depth: arch.blocks.length,
    data,
    checkpoint: { path: checkpoint, identity: { of: "this test" }, rates: "{}", start: "anew" },
  };
}

export const recipe = (options: Partial<Recipe>): Recipe => ({ ...RECIPE_DEFAULTS, warmup: 0, ...options });
