/** Networks in TensorFlow.js for the tools: as teachers, and measured against one another. */
import type * as tfjs from "@tensorflow/tfjs-core";
import { forward, type Weights } from "../../src/engines/tfjs/forward.ts";
import type { Tensor, TF } from "../../src/engines/tfjs/ops.ts";
import { messageOf } from "../../src/errors.ts";
import type { Model, Preprocess } from "../../src/format/model.ts";
import { float32 } from "../../src/format/read.ts";
import { evalPixels, type Picture } from "./data.ts";
import { say } from "./terminal.ts";

/** A model's tensors on the backend; dispose them when done. */
export function weightsOnBackend(tf: TF, { tensors }: Model): Map<string, Tensor> {
  const weights = new Map<string, Tensor>();
  for (const [name, { shape }] of tensors) {
    if (!name.endsWith(".scale")) weights.set(name, tf.tensor(float32(tensors, name), shape));
  }
  return weights;
}

/** A fixed network: pixels → logits. */
export function asFunction(
  tf: TF,
  model: Model,
  weights: Weights = weightsOnBackend(tf, model),
): (pixels: Tensor) => Tensor {
  return (pixels) => tf.tidy(() => forward(tf, model.manifest, weights, pixels).logits);
}

export interface Comparison {
  n: number;
  /** share of pictures on which student and teacher choose the same class */
  agreement?: number;
  /** share that are right, where the pictures have labels */
  top1?: number;
}

/** Batched, on pictures prepared as at inference. */
export async function compare(
  tf: TF,
  student: (pixels: Tensor) => Tensor,
  teacher: ((pixels: Tensor) => Tensor) | undefined,
  pictures: Picture[],
  preprocess: Preprocess,
  indices?: Map<string, number>,
): Promise<Comparison> {
  const BATCH = 32;
  let [n, agreed, right] = [0, 0, 0];
  for (let at = 0; at < pictures.length; at += BATCH) {
    const loaded = await Promise.all(
      pictures.slice(at, at + BATCH).map(async (picture) => {
        try {
          return { picture, pixels: await evalPixels(picture, preprocess) };
        } catch (error) {
          say(`skipped: ${messageOf(error)}`);
          return undefined;
        }
      }),
    );
    const batch = loaded.filter((item) => item !== undefined);
    if (batch.length === 0) continue;
    const best = tf.tidy(() => {
      const [height, width] = preprocess.crop;
      const pixels = tf.stack(
        batch.map(({ pixels }) => tf.tensor3d(pixels, [3, height, width]) as tfjs.Tensor),
      ) as Tensor;
      return [student, ...(teacher ? [teacher] : [])].map((net) => tf.argMax(net(pixels), -1));
    });
    const [chosen, wanted] = await Promise.all(best.map((indices) => indices.data()));
    tf.dispose(best);
    batch.forEach(({ picture }, k) => {
      n++;
      if (wanted && chosen[k] === wanted[k]) agreed++;
      if (indices && chosen[k] === indices.get(picture.className)) right++;
    });
  }
  return { n, ...(teacher && { agreement: agreed / n }), ...(indices && { top1: right / n }) };
}
