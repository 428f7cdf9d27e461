/**
 * The order in which MLP units are removed: first those whose outputs, apart from their mean, add least to the residual
 * stream. The mean output of a removed unit goes into the next bias, which each variant has for itself.
 */
import type { Architecture, Model, Tensor, Tensors } from "../../src/format/model.ts";
import { float32 } from "../../src/format/read.ts";
import type { TF } from "../../src/tfjs/ops.ts";
import { type Picture, spread } from "../data/data.ts";
import { advance, embedPictures, momentsOf } from "../masks/calibration.ts";
import { CALIBRATION_PICTURES } from "../masks/compensate.ts";
import { startProgress } from "../shared/progress.ts";

/** For each unit of a block: the loss without it, and its mean value. */
export interface UnitStatistics {
  importance: Float64Array;
  mean: Float64Array;
}

/**
 * Width of a panel of the engine's kernels. Widths of whole panels waste no computation, and variants can share them.
 */
const PANEL = 8;

/** Statistics from the weights alone. Averages are unknown and count as 0. */
export function statisticsOfWeights({ manifest, tensors }: Model): UnitStatistics[] {
  return manifest.blocks.map(({ mlpHidden }, i) => {
    const input = rowSquares(float32(tensors, `blocks.${i}.mlp.fc1.weight`), mlpHidden);
    const output = columnSquares(float32(tensors, `blocks.${i}.mlp.fc2.weight`), mlpHidden);
    return { importance: output.map((value, unit) => value * input[unit]), mean: new Float64Array(mlpHidden) };
  });
}

/** @param tensors of the model, f32 */
export async function statisticsOfPictures(
  tf: TF,
  arch: Architecture,
  tensors: Tensors,
  pictures: Picture[],
  preprocess: Model["manifest"]["preprocess"],
): Promise<UnitStatistics[]> {
  let streams = await embedPictures(tf, arch, tensors, spread(pictures, CALIBRATION_PICTURES), preprocess);
  const progress = startProgress("units", arch.blocks.length);
  const found: UnitStatistics[] = [];
  for (const [i, { mlpHidden }] of arch.blocks.entries()) {
    const { "mlp.fc2": moments } = await momentsOf(tf, arch, tensors, i, streams, { "mlp.fc2": undefined });
    const importance = new Float64Array(mlpHidden);
    const mean = new Float64Array(mlpHidden);
    if (moments) {
      const stride = mlpHidden + 1;
      const count = moments.inputs[stride * stride - 1];
      const output = columnSquares(float32(tensors, `blocks.${i}.mlp.fc2.weight`), mlpHidden);
      for (let unit = 0; unit < mlpHidden; unit++) {
        mean[unit] = moments.inputs[mlpHidden * stride + unit] / count;
        const square = moments.inputs[unit * stride + unit] / count;
        importance[unit] = Math.max(0, square - mean[unit] ** 2) * output[unit];
      }
    }
    found.push({ importance, mean });
    const next = advance(tf, arch, tensors, i, streams);
    tf.dispose(streams);
    streams = next;
    progress.update(i + 1, "");
  }
  progress.stop();
  tf.dispose(streams);
  return found;
}

const rowSquares = (weight: Float32Array, rows: number) =>
  squares(weight, rows, (i) => Math.floor(i / (weight.length / rows)));
const columnSquares = (weight: Float32Array, columns: number) => squares(weight, columns, (i) => i % columns);

function squares(weight: Float32Array, count: number, groupOf: (i: number) => number): Float64Array {
  const sums = new Float64Array(count);
  weight.forEach((value, i) => void (sums[groupOf(i)] += value * value));
  return sums;
}

/** The same network with each block's units in the order in which they stay, and their statistics in that order. */
export function ordered(
  model: Model,
  statistics: UnitStatistics[],
): { tensors: Tensors; statistics: UnitStatistics[] } {
  const tensors: Tensors = new Map(model.tensors);
  const sorted = statistics.map(({ importance, mean }, i) => {
    const order = [...importance.keys()].sort((a, b) => importance[b] - importance[a] || a - b);
    const twice = [...order, ...order.map((unit) => unit + order.length)];
    const rows = model.manifest.mlp === "swiglu" ? twice : order;
    const at = `blocks.${i}.mlp`;
    for (const part of ["weight", "bias"]) {
      tensors.set(`${at}.fc1.${part}`, picked(model.tensors, `${at}.fc1.${part}`, rows, 0));
      if (model.manifest.hiddenNorm)
        tensors.set(`${at}.norm.${part}`, picked(model.tensors, `${at}.norm.${part}`, order, 0));
    }
    tensors.set(`${at}.fc2.weight`, picked(model.tensors, `${at}.fc2.weight`, order, 1));
    return { importance: pick(importance, order), mean: pick(mean, order) };
  });
  return { tensors, statistics: sorted };
}

const pick = (values: Float64Array, order: number[]) => Float64Array.from(order, (unit) => values[unit]);

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

/**
 * Units that each block keeps when a share of all is kept: the most important of the whole network, in whole panels. A larger
 * share keeps as many or more in every block.
 *
 * @param statistics in the order in which units stay
 */
export function keptUnits(statistics: UnitStatistics[], share: number): number[] {
  if (share >= 1) return statistics.map(({ importance }) => importance.length);
  const all = statistics.flatMap(({ importance }) => [...importance]).sort((a, b) => b - a);
  const least = all[Math.max(0, Math.ceil(share * all.length) - 1)] ?? 0;
  return statistics.map(({ importance }) => {
    const kept = importance.filter((value) => value >= least).length;
    return Math.min(importance.length, Math.max(PANEL, PANEL * Math.round(kept / PANEL)));
  });
}

/** fc2's bias plus the mean contribution of the removed units. */
export function compensatedBias(
  tensors: Tensors,
  i: number,
  { mean }: UnitStatistics,
  kept: number,
): Tensor | undefined {
  if (kept === mean.length || mean.every((value) => value === 0)) return undefined;
  const weight = float32(tensors, `blocks.${i}.mlp.fc2.weight`);
  const data = Float32Array.from(float32(tensors, `blocks.${i}.mlp.fc2.bias`));
  for (let row = 0; row < data.length; row++)
    for (let unit = kept; unit < mean.length; unit++) data[row] += weight[row * mean.length + unit] * mean[unit];
  return { dtype: "F32", shape: [data.length], data };
}
