/**
 * Accuracy during training, on a few pictures that are not trained on, preprocessed as at inference. Measuring draws no
 * random number and does not change weights and optimiser, so a training ends with the same weights with and without it.
 */

import { messageOf, SlimViTError } from "../../src/errors.ts";
import type { Preprocess } from "../../src/format/model.ts";
import { softmax } from "../../src/reference/scores.ts";
import type { Tensor, TF } from "../../src/tfjs/ops.ts";
import { comparable, evalPixels, openDataset, type Picture, type Split, spread } from "../data/data.ts";
import type { Accuracy } from "../models/history.ts";
import { klDivergence } from "../shared/divergence.ts";
import { bestClass } from "../shared/ranks.ts";
import { say } from "../shared/terminal.ts";
import { type TrainData, toBatch } from "./batches.ts";
import type { Learns } from "./losses.ts";

export interface Validation {
  /** spread over the val split */
  pictures: Picture[];
  /** the model's output index by class folder; none for unlabelled data, of which only agreement is known */
  indices?: Map<string, number>;
  preprocess: Preprocess;
  /** of an embedding model, whose outputs are features */
  embeds?: boolean;
}

/** @returns nothing where it is turned off, or where every picture of val is trained on or there is none */
export async function openValidation(
  { data: sources, split, valPictures }: { data: string[]; split: Split; valPictures: number },
  { indices, preprocess }: TrainData,
  embeds = false,
): Promise<Validation | undefined> {
  if (valPictures === 0) return undefined;
  const none = (why: string) => void say(`accuracy over the steps is not measured: ${why}`);
  if (split === "val" || split === "all") return none(`--split ${split} trains on the val pictures`);
  const found: Picture[] = [];
  for (const source of sources) {
    try {
      found.push(...(await openDataset([source], "val", { unlabelled: indices === undefined })).pictures);
    } catch (error) {
      if (!(error instanceof SlimViTError)) throw error; // no val pictures in this one
    }
  }
  const known = indices ? ofClasses(found, [...indices.keys()]) : found;
  if (!known.length) return none("the data has no val pictures");
  return { pictures: spread(known, valPictures), ...(indices && { indices }), preprocess, ...(embeds && { embeds }) };
}

/** The pictures of the classes that are trained, under the names that these have there. */
function ofClasses(pictures: Picture[], trained: string[]): Picture[] {
  const names = new Map(trained.map((name) => [comparable(name), name]));
  const isKnown = ({ className }: Picture) => names.has(comparable(className));
  const others = new Set(pictures.filter((picture) => !isKnown(picture)).map(({ className }) => className));
  if (others.size)
    say(`accuracy over the steps leaves out val pictures of classes without train pictures: ${[...others].join(", ")}`);
  return pictures
    .filter(isKnown)
    .map((picture) => ({ ...picture, className: names.get(comparable(picture.className))! }));
}

/**
 * @param batch pictures computed at once
 * @param teacher pixels → logits or features; its answers are kept, as the pictures stay the same
 * @returns measures a network, [batch, 3, height, width] → [batch, classes], or features of an embedding model
 */
export function accuracyMeter(
  tf: TF,
  { pictures, indices, preprocess, embeds }: Validation,
  batch: number,
  teacher?: (pixels: Tensor) => Tensor,
  learns: Learns = "softmax",
): (outputsOf: (pixels: Tensor) => Tensor) => Promise<Accuracy> {
  const [height, width] = preprocess.crop;
  const taught = new Map<string, Float32Array>();
  const broken = new Set<Picture>();
  const load = async (first: number) => {
    const loaded = await Promise.all(
      pictures.slice(first, first + batch).map(async (picture) => {
        if (broken.has(picture)) return undefined;
        try {
          return { picture, pixels: await evalPixels(picture, preprocess) };
        } catch (error) {
          broken.add(picture);
          say(`skipped: ${messageOf(error)}`);
          return undefined;
        }
      }),
    );
    return toBatch(
      loaded.filter((item) => item !== undefined),
      { indices, preprocess },
    );
  };
  /** Each picture's outputs. */
  const rowsOf = async (outputs: () => Tensor) => {
    const scores = tf.tidy(() => tf.clone(outputs()));
    const [count, width] = scores.shape as [number, number];
    const values = (await scores.data()) as Float32Array;
    scores.dispose();
    return Array.from({ length: count }, (_, k) => values.subarray(k * width, (k + 1) * width));
  };
  return async (outputsOf) => {
    let [n, right, agreed, cosines, divergence] = [0, 0, 0, 0, 0];
    let next = load(0);
    for (let first = 0; first < pictures.length; first += batch) {
      const { size, pixels, labels, names } = await next;
      next = load(first + batch);
      if (size === 0) continue;
      const input = tf.tensor4d(pixels, [size, 3, height, width]);
      const rows = await rowsOf(() => outputsOf(input));
      if (teacher && names.some((name) => !taught.has(name)))
        (await rowsOf(() => teacher(input))).forEach((row, k) => void taught.set(names[k], row));
      input.dispose();
      n += size;
      if (embeds) {
        names.forEach((name, k) => {
          cosines += cosine(rows[k], taught.get(name)!);
        });
        continue;
      }
      const classes = rows.map(bestClass); // undefined where none scores highest
      right += labels.filter((label, k) => label === classes[k]).length;
      if (!teacher) continue;
      names.forEach((name, k) => {
        const wanted = taught.get(name)!;
        if (classes[k] !== undefined && bestClass(wanted) === classes[k]) agreed++;
        if (learns === "softmax") divergence += klDivergence(softmax(wanted), softmax(rows[k]));
      });
    }
    await next;
    if (n === 0) return {};
    if (embeds) return { "val.cosine": cosines / n };
    return {
      ...(indices && { "val.top1": right / n }),
      ...(teacher && { "val.agreement": agreed / n }),
      ...(teacher && learns === "softmax" && { "val.divergence": divergence / n }),
    };
  };
}

/** For several networks: the mean of each measure, and each network's own value under its name. */
export async function meanAccuracy<S extends { name: string }>(
  students: S[],
  accuracyOf: (student: S) => Promise<Accuracy>,
): Promise<Accuracy> {
  const mean: Record<string, number> = {};
  const own: Record<string, number> = {};
  for (const student of students) {
    for (const [key, value] of Object.entries((await accuracyOf(student)) as Record<string, number>)) {
      mean[key] = (mean[key] ?? 0) + value / students.length;
      own[`${key}.${student.name}`] = value;
    }
  }
  return { ...mean, ...own } as Accuracy;
}

function cosine(a: Float32Array, b: Float32Array): number {
  const dot = a.reduce((sum, v, k) => sum + v * b[k], 0);
  return dot / (Math.hypot(...a) * Math.hypot(...b) || 1);
}
