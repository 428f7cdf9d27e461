/** What a network's linears see on pictures, block by block: residual streams of batches, and moments of a linear's inputs. */
import type * as tfjs from "@tensorflow/tfjs-core";
import type { Architecture, Preprocess, Tensors } from "../../src/format/model.ts";
import { float32 } from "../../src/format/read.ts";
import { type BlockLinear, blockWeights, embed, type ForwardOptions, runBlock } from "../../src/tfjs/forward.ts";
import type { Tensor, TF } from "../../src/tfjs/ops.ts";
import { evalPixels, type Picture } from "../data/data.ts";
import { variablesFrom } from "../training/train.ts";
import type { Moments } from "./ridge.ts";

const BATCH = 16;

/** The class token is one row among hundreds, and the only one that the head reads: its errors count so many times. */
const PREFIX_WEIGHT = 20;

/** `onInput` hands over GELU's output times this (see `erfGate` in src/tfjs/ops.ts). */
const HIDDEN_FACTOR = Math.SQRT2;

/**
 * What a linear of block `i` sees, and what it should make of it.
 *
 * @param wanted the linear's outputs that are wanted, batch by batch
 * @returns undefined where the block has no such linear, or an empty one
 */
export async function momentsOf(
  tf: TF,
  arch: Architecture,
  tensors: Tensors,
  i: number,
  streams: Tensor[],
  linear: BlockLinear,
  wanted?: Tensor[],
): Promise<Moments | undefined> {
  const sums: (Tensor | undefined)[] = [undefined, undefined];
  const variables = variablesOf(tf, tensors, `blocks.${i}.`);
  const add = (k: number, product: Tensor) => {
    const before = sums[k];
    sums[k] = tf.keep(before ? tf.add(before, product) : product);
    before?.dispose();
  };
  streams.forEach((x, batch) => {
    tf.tidy(() => {
      const onInput = (input: Tensor, name: BlockLinear) => {
        if (name !== linear) return;
        const flat = name === "mlp.fc2" ? tf.mul(input, 1 / HIDDEN_FACTOR) : input;
        const rowWeights = prefixWeights(tf, arch, x.shape[0]!, input.shape[0]!);
        const rows = tf.mul(tf.concat([flat, tf.ones([input.shape[0], 1])], 1), rowWeights) as tfjs.Tensor2D;
        add(0, tf.matMul(rows, rows, true));
        if (!wanted) return;
        const outputs = tf.mul(tf.reshape(wanted[batch], [input.shape[0], -1]), rowWeights) as tfjs.Tensor2D;
        add(1, tf.matMul(rows, outputs, true));
      };
      const options: ForwardOptions = { onInput };
      runBlock(tf, arch, i, blockWeights(tf, arch, i, variables, options), x, options);
    });
  });
  tf.dispose([...variables.values()]);
  const [inputs, targets] = sums;
  if (!inputs) return undefined;
  const moments = {
    inputs: await inputs.data(),
    ...(targets && { targets: await targets.data() }),
    size: inputs.shape[0] - 1,
  };
  tf.dispose([inputs, targets].filter((sum) => sum !== undefined));
  return moments;
}

/** Roots of the rows' weights, [rows, 1]: the prefix tokens' count `PREFIX_WEIGHT` times where the head reads them alone. */
function prefixWeights(tf: TF, { pooling, prefixTokens }: Architecture, batch: number, rows: number): Tensor {
  const heavy = pooling === "class" ? Math.sqrt(PREFIX_WEIGHT) : 1;
  const picture = Array.from({ length: rows / batch }, (_, token) => (token < prefixTokens ? heavy : 1));
  return tf.reshape(tf.tile(tf.tensor1d(picture), [batch]), [rows, 1]);
}

/** The residual streams after block `i`, in new tensors. */
export function advance(tf: TF, arch: Architecture, tensors: Tensors, i: number, streams: Tensor[]): Tensor[] {
  const variables = variablesOf(tf, tensors, `blocks.${i}.`);
  const next = streams.map((x) => tf.tidy(() => runBlock(tf, arch, i, blockWeights(tf, arch, i, variables), x)));
  tf.dispose([...variables.values()]);
  return next;
}

export function difference(tf: TF, wanted: Tensor[], streams: Tensor[]): Tensor[] {
  return wanted.map((tokens, k) => tf.tidy(() => tf.sub(tokens, streams[k])));
}

function variablesOf(tf: TF, tensors: Tensors, prefix = ""): Map<string, tfjs.Variable> {
  const names = [...tensors.keys()].filter((key) => key.startsWith(prefix));
  return variablesFrom(
    tf,
    names.map((key) => [key, { shape: tensors.get(key)!.shape, data: float32(tensors, key) }]),
  );
}

/** The residual streams before the first block, a tensor [batch, tokens, embedDim] for each batch. */
export async function embedPictures(
  tf: TF,
  arch: Architecture,
  tensors: Tensors,
  pictures: Picture[],
  preprocess: Preprocess,
): Promise<Tensor[]> {
  const [height, width] = arch.imageSize;
  const variables = variablesOf(tf, tensors);
  const streams: Tensor[] = [];
  for (let first = 0; first < pictures.length; first += BATCH) {
    const some = pictures.slice(first, first + BATCH);
    const pixels = await Promise.all(some.map((picture) => evalPixels(picture, preprocess)));
    const stack = () => tf.stack(pixels.map((values) => tf.tensor(values, [3, height, width])));
    streams.push(tf.tidy(() => embed(tf, arch, variables, stack())));
  }
  tf.dispose([...variables.values()]);
  return streams;
}
