/**
 * The cost of training here, known before it starts: time by some steps of it, memory by what steps were measured to
 * take.
 */
import { freemem } from "node:os";
import { type Model, tokenCounts } from "../../src/format/model.ts";
import { float32 } from "../../src/format/read.ts";
import { selfTestPixels } from "../../src/format/write.ts";
import { forward } from "../../src/tfjs/forward.ts";
import type { Tensor, TF } from "../../src/tfjs/ops.ts";
import { architectureOf } from "../models/folders.ts";
import { variablesFrom } from "../models/variables.ts";

const STEPS = 4;
/** On a slow machine fewer steps are enough. */
const ENOUGH_SECONDS = 15;

/**
 * @param batch the number of pictures in a step; in small batches a picture takes longer
 * @returns seconds a picture and step, forward and backward, in the fastest of some steps: what else the machine does can
 *   only make one slower
 */
export async function secondsAPicture(tf: TF, model: Model, batch: number): Promise<number> {
  const arch = architectureOf(model.manifest);
  const names = [...model.tensors.keys()].filter((name) => !name.endsWith(".scale"));
  const variables = variablesFrom(
    tf,
    names.map((name) => [name, { shape: model.tensors.get(name)!.shape, data: float32(model.tensors, name) }]),
  );
  const one = selfTestPixels(model.manifest, 1);
  const began = performance.now();
  let least = Number.POSITIVE_INFINITY;
  for (let step = 0; step < STEPS && performance.now() - began < 1000 * ENOUGH_SECONDS; step++) {
    const started = performance.now();
    const loss = tf.tidy(() => {
      const pixels = tf.tile(tf.tensor(one, [1, 3, ...arch.imageSize]), [batch, 1, 1, 1]) as Tensor;
      const { value, grads } = tf.variableGrads(() => tf.sum(forward(tf, arch, variables, pixels).logits).asScalar());
      return [value, ...Object.values(grads)];
    });
    await loss[0].data();
    tf.dispose(loss);
    least = Math.min(least, (performance.now() - started) / 1000 / batch);
  }
  tf.dispose([...variables.values()]);
  return least;
}

/**
 * Bytes that a step takes for each float of a block's activations: forward values, gradients and TensorFlow's temporaries.
 * DeiT-Ti at 224 px was measured to take 3.7 GB in batches of 16 and 6.8 GB in batches of 32.
 */
const BYTES_A_FLOAT = 8.6;
/** TensorFlow itself, the optimiser, pictures on their way. */
const BASE_BYTES = 0.9e9;

/** The memory of a step with this many pictures. */
export function trainingBytes(model: Model, batch: number): number {
  const { manifest } = model;
  const counts = tokenCounts(manifest);
  const floats = manifest.blocks.reduce((sum, { headDims, mlpHidden }, i) => {
    const { entering: n, mlp } = counts[i];
    const inner = headDims.reduce((a, b) => a + b, 0);
    return sum + n * (6 * manifest.embedDim + 8 * inner + 3 * n * headDims.length) + mlp * 6 * mlpHidden;
  }, 0);
  return BASE_BYTES + batch * floats * BYTES_A_FLOAT;
}

const BATCHES = [32, 16, 8, 4];
/** Other programs want memory, too. */
const SHARE_OF_FREE = 0.7;

/** The largest batch whose step fits into the memory that is free. */
export function batchFor(model: Model, free = freemem()): number {
  return BATCHES.find((batch) => trainingBytes(model, batch) <= SHARE_OF_FREE * free) ?? BATCHES.at(-1)!;
}
