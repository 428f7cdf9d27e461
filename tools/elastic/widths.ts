/**
 * The order in which channels of heads and MLP units are removed: first those whose outputs, apart from their mean, add
 * least to the residual stream. The mean output of what is removed goes into the next bias, which each variant has for
 * itself.
 */
import { type Architecture, innerDim, type Model, type Tensor, type Tensors } from "../../src/format/model.ts";
import { float32 } from "../../src/format/read.ts";
import type { TF } from "../../src/tfjs/ops.ts";
import { type Picture, spread } from "../data/data.ts";
import { advance, embedPictures, momentsOf } from "../masks/calibration.ts";
import { CALIBRATION_PICTURES } from "../masks/compensate.ts";
import { channelStep, hasWholeHeads } from "../masks/masks.ts";
import { type Moments, rowVariance, statisticsOf } from "../masks/ridge.ts";
import { startProgress } from "../shared/progress.ts";

/** For each input of fc2 or proj: the loss without it, and its mean value. */
export interface InputStatistics {
  importance: Float64Array;
  mean: Float64Array;
}

export interface BlockStatistics {
  units: InputStatistics;
  /** the values' channels, head by head; none where heads are cut already */
  values?: InputStatistics;
  /** for each channel of q and k, which leave together: its part in the variance of the head's scores */
  keys?: Float64Array;
}

/** Shares of head channels and MLP units that a network keeps. */
export interface WidthShares {
  channels: number;
  units: number;
}

/** Statistics from the weights alone. Averages are unknown and count as 0. */
export function statisticsOfWeights({ manifest, tensors }: Model): BlockStatistics[] {
  const isWhole = hasWholeHeads(manifest);
  return manifest.blocks.map((block, i) => {
    const { mlpHidden, headDims } = block;
    const input = squares(float32(tensors, `blocks.${i}.mlp.fc1.weight`), mlpHidden, "row");
    const units = withoutMeans(outputsOf(tensors, `blocks.${i}.mlp.fc2`, mlpHidden).map((v, k) => v * input[k]));
    if (!isWhole || !headDims.length) return { units };
    const inner = innerDim(block);
    const rows = squares(float32(tensors, `blocks.${i}.attn.qkv.weight`), 3 * inner, "row");
    const values = outputsOf(tensors, `blocks.${i}.attn.proj`, inner).map((v, c) => v * rows[2 * inner + c]);
    const products = Float64Array.from({ length: inner }, (_, c) => rows[c] * rows[inner + c]);
    return { units, values: withoutMeans(values), keys: scoreShares(manifest, headDims, products) };
  });
}

const withoutMeans = (importance: Float64Array): InputStatistics => ({
  importance,
  mean: new Float64Array(importance.length),
});

/** @param tensors of the model, f32 */
export async function statisticsOfPictures(
  tf: TF,
  arch: Architecture,
  tensors: Tensors,
  pictures: Picture[],
  preprocess: Model["manifest"]["preprocess"],
): Promise<BlockStatistics[]> {
  const isWhole = hasWholeHeads(arch);
  let streams = await embedPictures(tf, arch, tensors, spread(pictures, CALIBRATION_PICTURES), preprocess);
  const progress = startProgress("widths", arch.blocks.length);
  const found: BlockStatistics[] = [];
  for (const [i, { mlpHidden, headDims }] of arch.blocks.entries()) {
    const linears = { "mlp.fc2": undefined, "attn.qkv": undefined, "attn.proj": undefined };
    const moments = await momentsOf(tf, arch, tensors, i, streams, linears);
    const { "mlp.fc2": hidden, "attn.qkv": entering, "attn.proj": mixed } = moments;
    const units = hidden
      ? inputStatistics(tensors, `blocks.${i}.mlp.fc2`, hidden)
      : withoutMeans(new Float64Array(mlpHidden));
    if (!isWhole || !entering || !mixed) found.push({ units });
    else {
      const values = inputStatistics(tensors, `blocks.${i}.attn.proj`, mixed);
      found.push({ units, values, keys: scoreShares(arch, headDims, scoreSquares(tensors, i, entering)) });
    }
    const next = advance(tf, arch, tensors, i, streams);
    tf.dispose(streams);
    streams = next;
    progress.update(i + 1, "");
  }
  progress.stop();
  tf.dispose(streams);
  return found;
}

function inputStatistics(tensors: Tensors, linear: string, { inputs, size }: Moments): InputStatistics {
  const stride = size + 1;
  const count = inputs[stride * stride - 1];
  const output = outputsOf(tensors, linear, size);
  const mean = Float64Array.from(output, (_, c) => inputs[c * stride + size] / count);
  const importance = output.map((value, c) => Math.max(0, inputs[c * stride + c] / count - mean[c] ** 2) * value);
  return { importance, mean };
}

/**
 * For each channel, how much the scores q·k of a query vary over the keys because of it: the mean square of q times the
 * variance of k. The mean of k adds the same to all scores of a query, which the softmax does not see.
 */
function scoreSquares(tensors: Tensors, i: number, entering: Moments): Float64Array {
  const weight = float32(tensors, `blocks.${i}.attn.qkv.weight`);
  const bias = float32(tensors, `blocks.${i}.attn.qkv.bias`);
  const { mean, covariance } = statisticsOf(entering);
  const meanOf = (row: number) =>
    mean.reduce((sum, value, d) => sum + weight[row * mean.length + d] * value, bias[row]);
  const inner = bias.length / 3;
  return Float64Array.from(
    { length: inner },
    (_, c) => (rowVariance(weight, c, covariance) + meanOf(c) ** 2) * rowVariance(weight, inner + c, covariance),
  );
}

/** The parts of a head's channels in the variance of its scores. With RoPE, both channels of a pair have half of the pair's. */
function scoreShares(arch: Architecture, headDims: number[], squares: Float64Array): Float64Array {
  const step = channelStep(arch);
  const shares = new Float64Array(squares.length);
  forEachHead(headDims, (first, width) => {
    const total = squares.subarray(first, first + width).reduce((sum, value) => sum + value, 0) || 1;
    for (let pair = first; pair < first + width; pair += step) {
      const share = squares.subarray(pair, pair + step).reduce((sum, value) => sum + value, 0) / total / step;
      shares.fill(share, pair, pair + step);
    }
  });
  return shares;
}

function forEachHead(headDims: number[], visit: (first: number, width: number, head: number) => void): void {
  let first = 0;
  headDims.forEach((width, head) => {
    visit(first, width, head);
    first += width;
  });
}

/** Σ of the squared weights of each input of a linear */
const outputsOf = (tensors: Tensors, linear: string, inputs: number): Float64Array =>
  squares(float32(tensors, `${linear}.weight`), inputs, "column");

function squares(weight: Float32Array, count: number, of: "row" | "column"): Float64Array {
  const sums = new Float64Array(count);
  const width = weight.length / count;
  weight.forEach((value, i) => void (sums[of === "row" ? Math.floor(i / width) : i % count] += value * value));
  return sums;
}

/** The same network with each block's channels and units in the order in which they stay, and their statistics in that order. */
export function ordered(
  model: Model,
  statistics: BlockStatistics[],
): { tensors: Tensors; statistics: BlockStatistics[] } {
  const { manifest } = model;
  const tensors: Tensors = new Map(model.tensors);
  const reorder = (key: string, order: number[], axis: 0 | 1) => {
    if (model.tensors.has(key)) tensors.set(key, picked(model.tensors, key, order, axis));
  };
  const sorted = statistics.map(({ units, values, keys }, i): BlockStatistics => {
    const order = descending(units.importance);
    const unitsInOrder = inOrder(units, order);
    const fc1 = manifest.mlp === "swiglu" ? [...order, ...order.map((unit) => unit + order.length)] : order;
    for (const part of ["weight", "bias"]) {
      reorder(`blocks.${i}.mlp.fc1.${part}`, fc1, 0);
      reorder(`blocks.${i}.mlp.norm.${part}`, order, 0);
    }
    reorder(`blocks.${i}.mlp.fc2.weight`, order, 1);
    if (!values || !keys) return { units: unitsInOrder };
    const { headDims } = manifest.blocks[i];
    const [ofKeys, ofValues]: number[][] = [[], []];
    forEachHead(headDims, (first, width) => {
      ofKeys.push(...descending(keys.subarray(first, first + width)).map((c) => first + c));
      ofValues.push(...descending(values.importance.subarray(first, first + width)).map((c) => first + c));
    });
    const inner = innerDim(manifest.blocks[i]);
    const qkv = [...ofKeys, ...ofKeys.map((c) => c + inner), ...ofValues.map((c) => c + 2 * inner)];
    for (const part of ["weight", "bias"]) {
      reorder(`blocks.${i}.attn.qkv.${part}`, qkv, 0);
      for (const norm of ["q_norm", "k_norm"]) reorder(`blocks.${i}.attn.${norm}.${part}`, ofKeys, 0);
    }
    const pairs = ofKeys.filter((c) => c % 2 === 0).map((c) => c / 2);
    reorder(`blocks.${i}.attn.rope_freqs`, pairs, 1);
    reorder(`blocks.${i}.attn.proj.weight`, ofValues, 1);
    return { units: unitsInOrder, values: inOrder(values, ofValues), keys: pick(keys, ofKeys) };
  });
  return { tensors, statistics: sorted };
}

const descending = (values: Float64Array): number[] =>
  [...values.keys()].sort((a, b) => values[b] - values[a] || a - b);
const pick = (values: Float64Array, order: number[]) => Float64Array.from(order, (from) => values[from]);
const inOrder = ({ importance, mean }: InputStatistics, order: number[]): InputStatistics => ({
  importance: pick(importance, order),
  mean: pick(mean, order),
});

function picked(tensors: Tensors, key: string, order: number[], axis: 0 | 1): Tensor {
  const { shape } = tensors.get(key)!;
  const values = float32(tensors, key);
  const data = new Float32Array(values.length);
  const width = axis === 0 ? values.length / shape[0] : shape[1];
  if (axis === 0)
    order.forEach((from, to) => void data.set(values.subarray(from * width, (from + 1) * width), to * width));
  else
    for (let row = 0; row < values.length; row += width)
      order.forEach((from, to) => void (data[row + to] = values[row + from]));
  return { dtype: "F32", shape, data };
}

/** Widths of a block. */
export interface KeptWidths {
  headDims: number[];
  mlpHidden: number;
}

/**
 * The widths that each block keeps when shares of all are kept: the most important of the whole network, in whole
 * panels. A larger share keeps as many or more everywhere.
 *
 * @param statistics in the order in which channels and units stay
 */
export function keptWidths(
  { blocks }: Architecture,
  statistics: BlockStatistics[],
  { channels, units }: WidthShares,
): KeptWidths[] {
  const heads = statistics.map((block, i) => headLosses(blocks[i].headDims, block));
  const ofHeads = keptOf(heads.flat(), channels);
  const ofBlocks = keptOf(
    statistics.map((block) => block.units.importance),
    units,
  );
  return blocks.map(({ headDims }, i) => ({
    headDims: heads[i].length ? ofHeads.splice(0, headDims.length) : headDims,
    mlpHidden: ofBlocks[i],
  }));
}

/**
 * For each head, the losses without its channels. A channel of q and k that makes a part of the variance of the scores is
 * taken to cost that part of the head's output.
 */
function headLosses(headDims: number[], { values, keys }: BlockStatistics): Float64Array[] {
  const heads: Float64Array[] = [];
  if (!values || !keys) return heads;
  forEachHead(headDims, (first, width) => {
    const own = values.importance.subarray(first, first + width);
    const total = own.reduce((sum, value) => sum + value, 0);
    heads.push(own.map((value, c) => value + total * keys[first + c]));
  });
  return heads;
}

/** Width of a panel of the engine's kernels. Widths of whole panels waste no computation, and variants can share them. */
const PANEL = 8;

/**
 * The number of members of each group that stay when a share of all is kept.
 * @param groups losses without the members, each group's largest first
 */
function keptOf(groups: Float64Array[], share: number): number[] {
  if (share >= 1) return groups.map(({ length }) => length);
  const all = groups.flatMap((losses) => [...losses]).sort((a, b) => b - a);
  const least = all[Math.max(0, Math.ceil(share * all.length) - 1)] ?? 0;
  return groups.map((losses) => {
    const kept = losses.filter((value) => value >= least).length;
    return Math.min(losses.length, Math.max(PANEL, PANEL * Math.round(kept / PANEL)));
  });
}

/** Biases of block `i` plus the mean contributions of what is removed; only those that change. */
export function compensatedBiases(
  tensors: Tensors,
  { blocks }: Architecture,
  i: number,
  { units, values }: BlockStatistics,
  { headDims, mlpHidden }: KeptWidths,
): Tensors {
  const biases: Tensors = new Map();
  const put = (linear: string, { mean }: InputStatistics, isRemoved: (input: number) => boolean) => {
    const removed = [...mean.keys()].filter((input) => isRemoved(input) && mean[input] !== 0);
    if (removed.length) biases.set(`${linear}.bias`, withMeans(tensors, linear, mean, removed));
  };
  put(`blocks.${i}.mlp.fc2`, units, (unit) => unit >= mlpHidden);
  if (values) {
    const places = blocks[i].headDims.flatMap((width, h) => Array.from({ length: width }, (_, c) => c >= headDims[h]));
    put(`blocks.${i}.attn.proj`, values, (channel) => places[channel]);
  }
  return biases;
}

function withMeans(tensors: Tensors, linear: string, mean: Float64Array, removed: number[]): Tensor {
  const weight = float32(tensors, `${linear}.weight`);
  const data = Float32Array.from(float32(tensors, `${linear}.bias`));
  for (let row = 0; row < data.length; row++)
    for (const input of removed) data[row] += weight[row * mean.length + input] * mean[input];
  return { dtype: "F32", shape: [data.length], data };
}
