/**
 * The inputs of a network's linears on pictures, block by block: residual streams of batches, and moments of a linear's
 * inputs.
 */
import type * as tfjs from "@tensorflow/tfjs-core";
import type { Architecture, Preprocess, Tensors } from "../../src/format/model.ts";
import { float32 } from "../../src/format/read.ts";
import {
  type BlockLinear,
  blockWeights,
  embed,
  type ForwardOptions,
  runBlock,
  type Stream,
  tidyStream,
} from "../../src/tfjs/forward.ts";
import type { Tensor, TF } from "../../src/tfjs/ops.ts";
import { evalPixels, type Picture } from "../data/data.ts";
import { variablesFrom } from "../models/variables.ts";
import type { Moments } from "./ridge.ts";

const BATCH = 16;

/** Weight of the class token's errors: it is one row among hundreds, but the only one that the head reads. */
const PREFIX_WEIGHT = 20;

/**
 * For each batch in a block that merges: the row that each row becomes. Two networks are compared with the same tokens
 * merged.
 */
export type MergeRows = Tensor[];

/**
 * Sums over the inputs of linears of block `i` and the outputs that they should give.
 *
 * @param wanted a linear's outputs that are wanted, batch by batch, or undefined where its own outputs are
 * @param merges of the block, to be followed
 * @returns nothing for a linear that the block does not have, or that is empty
 */
export async function momentsOf<Name extends BlockLinear>(
  tf: TF,
  arch: Architecture,
  tensors: Tensors,
  i: number,
  streams: Stream[],
  wanted: Record<Name, Tensor[] | undefined>,
  merges?: MergeRows,
): Promise<Partial<Record<Name, Moments>>> {
  const sums = new Map<string, Tensor>();
  const variables = variablesOf(tf, tensors, `blocks.${i}.`);
  const add = (key: string, product: Tensor) => {
    const before = sums.get(key);
    sums.set(key, tf.keep(before ? tf.add(before, product) : product));
    before?.dispose();
  };
  streams.forEach((stream, batch) => {
    tf.tidy(() => {
      const onInput = (input: Tensor, linear: BlockLinear) => {
        if (!(linear in wanted)) return;
        const rowWeights = prefixWeights(tf, arch, stream.x.shape[0]!, input.shape[0]!);
        const rows = tf.mul(tf.concat([input, tf.ones([input.shape[0], 1])], 1), rowWeights) as tfjs.Tensor2D;
        add(linear, tf.matMul(rows, rows, true));
        const outputs = wanted[linear as Name]?.[batch];
        if (!outputs) return;
        const targets = tf.mul(tf.reshape(outputs, [input.shape[0], -1]), rowWeights) as tfjs.Tensor2D;
        add(`targets of ${linear}`, tf.matMul(rows, targets, true));
      };
      const options: ForwardOptions = { onInput, mergeRows: rowsOfBlock(i, merges?.[batch]) };
      runBlock(tf, arch, i, blockWeights(tf, arch, i, variables, options), stream, options);
    });
  });
  tf.dispose([...variables.values()]);
  const found: Partial<Record<Name, Moments>> = {};
  for (const name of Object.keys(wanted) as Name[]) {
    const [inputs, targets] = [sums.get(name), sums.get(`targets of ${name}`)];
    if (!inputs) continue;
    found[name] = {
      inputs: await inputs.data(),
      ...(targets && { targets: await targets.data() }),
      size: inputs.shape[0] - 1,
    };
  }
  tf.dispose([...sums.values()]);
  return found;
}

/** Roots of the rows' weights, [rows, 1]: the prefix tokens' count `PREFIX_WEIGHT` times where the head reads them alone. */
function prefixWeights(tf: TF, { pooling, prefixTokens }: Architecture, batch: number, rows: number): Tensor {
  const heavy = pooling === "class" ? Math.sqrt(PREFIX_WEIGHT) : 1;
  const picture = Array.from({ length: rows / batch }, (_, token) => (token < prefixTokens ? heavy : 1));
  return tf.reshape(tf.tile(tf.tensor1d(picture), [batch]), [rows, 1]);
}

/**
 * The residual streams after block `i`, in new tensors.
 * @param merges followed where they are given; where the list is empty, filled
 */
export function advance(
  tf: TF,
  arch: Architecture,
  tensors: Tensors,
  i: number,
  streams: Stream[],
  merges: MergeRows = [],
): Stream[] {
  const variables = variablesOf(tf, tensors, `blocks.${i}.`);
  const isGiven = merges.length > 0;
  const next = streams.map((stream, batch) =>
    tidyStream(tf, () => {
      const onMerge = (rows: Tensor) => void (isGiven || merges.push(tf.keep(rows)));
      const options = { onMerge, mergeRows: rowsOfBlock(i, merges[batch]) };
      return runBlock(tf, arch, i, blockWeights(tf, arch, i, variables), stream, options);
    }),
  );
  tf.dispose([...variables.values()]);
  return next;
}

const rowsOfBlock = (i: number, rows: Tensor | undefined): ForwardOptions["mergeRows"] =>
  rows && [...Array<undefined>(i), rows];

/** The network with block `i` lacking some of its parts: a branch that adds nothing, no merge. */
export function without(
  arch: Architecture,
  i: number,
  tensors: Tensors,
  parts: { attn?: boolean; mlp?: boolean; merge?: boolean },
): [Architecture, Tensors] {
  const { embedDim } = arch;
  const changed = {
    ...arch.blocks[i],
    ...(parts.attn && { headDims: [] }),
    ...(parts.mlp && { mlpHidden: 0 }),
    ...(parts.merge && { merge: 0 }),
  };
  const out = new Map(tensors);
  const putZeros = (name: string, shape: number[]) => {
    const data = new Float32Array(shape.reduce((a, b) => a * b, 1));
    out.set(`blocks.${i}.${name}`, { dtype: "F32", shape, data });
  };
  for (const last of [...(parts.attn ? ["attn.proj"] : []), ...(parts.mlp ? ["mlp.fc2"] : [])]) {
    putZeros(`${last}.weight`, [embedDim, 0]);
    putZeros(`${last}.bias`, [embedDim]);
  }
  return [{ ...arch, blocks: arch.blocks.map((block, k) => (k === i ? changed : block)) }, out];
}

export function disposeStreams(tf: TF, streams: Stream[]): void {
  tf.dispose(streams as never[]);
}

export function difference(tf: TF, wanted: Stream[], streams: Stream[]): Tensor[] {
  return wanted.map(({ x }, k) => tf.tidy(() => tf.sub(x, streams[k].x)));
}

function variablesOf(tf: TF, tensors: Tensors, prefix = ""): Map<string, tfjs.Variable> {
  const names = [...tensors.keys()].filter((key) => key.startsWith(prefix));
  return variablesFrom(
    tf,
    names.map((key) => [key, { shape: tensors.get(key)!.shape, data: float32(tensors, key) }]),
  );
}

/** The residual streams before the first block, one for each batch. */
export async function embedPictures(
  tf: TF,
  arch: Architecture,
  tensors: Tensors,
  pictures: Picture[],
  preprocess: Preprocess,
): Promise<Stream[]> {
  const [height, width] = arch.imageSize;
  const variables = variablesOf(tf, tensors);
  const streams: Stream[] = [];
  for (let first = 0; first < pictures.length; first += BATCH) {
    const some = pictures.slice(first, first + BATCH);
    const pixels = await Promise.all(some.map((picture) => evalPixels(picture, preprocess)));
    const stack = () => tf.stack(pixels.map((values) => tf.tensor(values, [3, height, width])));
    streams.push(tidyStream(tf, () => embed(tf, arch, variables, stack())));
  }
  tf.dispose([...variables.values()]);
  return streams;
}
