/**
 * Rounding by the linears' inputs: GPTQ (Frantar et al. 2022, arXiv 2210.17323). Weights are rounded column by column.
 * The columns that are still exact make up for the effect of each rounding on the outputs, on real inputs.
 */
import type * as tfjs from "@tensorflow/tfjs-core";
import type { BlockShape, Model, Tensor as StoredTensor, Tensors } from "../../src/format/model.ts";
import { MAX_ON_GRID, quantiseRows, scaleOf, stepOf } from "../../src/format/quantise.ts";
import { float32 } from "../../src/format/read.ts";
import { encodeTensors } from "../../src/format/write.ts";
import {
  type BlockLinear,
  blockWeights,
  classify,
  embed,
  runBlock,
  type Stream,
  tidyStream,
} from "../../src/tfjs/forward.ts";
import type { Tensor, TF } from "../../src/tfjs/ops.ts";
import { evalPixels, type Picture, spread } from "../data/data.ts";
import { architectureOf } from "../models/folders.ts";
import { variablesFrom } from "../models/variables.ts";
import { startProgress } from "../shared/progress.ts";

/** This number gives the last block's MLP more class tokens than it has units in DeiT-Ti. */
export const GPTQ_PICTURES = 1024;
const BATCH = 32;
/**
 * Added to the diagonal of the inputs' second moments, as a share of its mean: inputs that were never seen keep some
 * weight.
 */
const DAMPING = 0.01;

export interface Rounded {
  /** linears as I8 on the grid */
  tensors: Tensors;
  /** all in f32, linears as they were when they were rounded: each nearest to its level, where training may start */
  exact: Tensors;
}

/**
 * @param pictures of which `GPTQ_PICTURES`, spread over all, are seen
 * @param step of the grid, in root mean squares of a row
 * @returns the model's tensors, weights of the patch embedding, the blocks and the head rounded; each block by what reaches it through the rounded
 *   ones before
 */
export async function roundByInputs(tf: TF, model: Model, pictures: Picture[], step: number): Promise<Rounded> {
  const arch = architectureOf(model.manifest);
  const tensors: Tensors = new Map(model.tensors);
  const exact = encodeTensors(model.tensors, "f32");
  const variables = variablesFrom(
    tf,
    [...exact].map(([key, { shape, data }]) => [key, { shape, data: data as Float32Array }]),
  );
  const put = (name: string, weight: StoredTensor, scale: StoredTensor) => {
    const key = `${name}.weight`;
    tensors.set(key, weight);
    tensors.set(`${name}.scale`, scale);
    tf.tidy(() => variables.get(key)!.assign(tf.tensor(float32(tensors, key), weight.shape)));
  };
  const round = async (name: string, moments: Tensor, columns?: number[]): Promise<void> => {
    const key = `${name}.weight`;
    const { shape } = model.tensors.get(key)!;
    const seen = await moments.data();
    const data = float32(model.tensors, key);
    const used = momentsOf(seen as Float32Array, moments.shape[0], columns);
    const rounded = roundRows(data, shape[1], used, stepOf(key, step));
    exact.set(key, { dtype: "F32", shape, data: rounded.exact });
    put(name, { dtype: "I8", shape, data: rounded.levels }, { dtype: "F32", shape: [shape[0]], data: rounded.scale });
  };
  const embedding = "patch_embed.proj"; // no block is rounded before it: to the nearest levels
  const { shape, data } = exact.get(`${embedding}.weight`)!;
  const nearest = quantiseRows(data as Float32Array, shape, { step: stepOf(embedding, step) });
  put(embedding, nearest.weight, nearest.scale);

  const used = spread(pictures, GPTQ_PICTURES);
  let streams = await embedded(tf, used, (pixels) => embed(tf, arch, variables, pixels), model);
  const progress = startProgress("rounding", arch.blocks.length);
  for (const [i, block] of arch.blocks.entries()) {
    const sums = new Map<BlockLinear, Tensor>();
    for (const stream of streams) {
      tf.tidy(() => {
        const onInput = (input: Tensor, name: BlockLinear) => addMoments(tf, sums, name, input);
        const options = { onInput, lastRowsOnly: true };
        runBlock(tf, arch, i, blockWeights(tf, arch, i, variables, options), stream, options);
      });
    }
    for (const [name, moments] of sums) {
      await round(`blocks.${i}.${name}`, moments, name === "attn.proj" ? channels(block) : undefined);
      moments.dispose();
    }
    streams = streams.map((stream) => {
      const options = { lastRowsOnly: true };
      const next = tidyStream(tf, () => runBlock(tf, arch, i, blockWeights(tf, arch, i, variables), stream, options));
      tf.dispose(stream as never);
      return next;
    });
    progress.update(i + 1, "");
  }
  progress.stop();
  const sums = new Map<string, Tensor>();
  for (const stream of streams) {
    tf.tidy(() => {
      classify(tf, arch, variables, stream, { onHead: (x, name) => addMoments(tf, sums, name, x) });
    });
  }
  for (const [name, moments] of sums) await round(name, moments);
  tf.dispose([...sums.values(), ...variables.values()]);
  tf.dispose(streams as never[]);
  return { tensors, exact };
}

/** Adds Σ x xᵀ of a batch to what is there of `name`. */
function addMoments<Name>(tf: TF, sums: Map<Name, Tensor>, name: Name, x: Tensor): void {
  const product = tf.matMul(x as tfjs.Tensor2D, x as tfjs.Tensor2D, true) as Tensor;
  const before = sums.get(name);
  sums.set(name, tf.keep(before ? tf.add(before, product) : product));
  before?.dispose();
}

/** Batches of pictures, as they enter the first block. */
async function embedded(tf: TF, pictures: Picture[], of: (pixels: Tensor) => Stream, { manifest }: Model) {
  const [height, width] = manifest.imageSize;
  const streams: Stream[] = [];
  for (let first = 0; first < pictures.length; first += BATCH) {
    const some = pictures.slice(first, first + BATCH);
    const pixels = await Promise.all(some.map((picture) => evalPixels(picture, manifest.preprocess)));
    streams.push(tidyStream(tf, () => of(tf.stack(pixels.map((values) => tf.tensor(values, [3, height, width]))))));
  }
  return streams;
}

/** The positions of a block's channels in the output of attention, whose heads are padded to the widest. */
function channels({ headDims }: BlockShape): number[] {
  const widest = Math.max(...headDims);
  return headDims.flatMap((width, h) => Array.from({ length: width }, (_, c) => h * widest + c));
}

/** Σ x xᵀ of the given columns alone. */
function momentsOf(all: Float32Array, size: number, columns = [...Array(size).keys()]): Float64Array {
  const n = columns.length;
  const out = new Float64Array(n * n);
  columns.forEach((from, a) => {
    columns.forEach((to, b) => void (out[a * n + b] = all[from * size + to]));
  });
  return out;
}

/**
 * @param values [rows, columns]
 * @param moments [columns, columns]: Σ x xᵀ of the inputs
 * @returns levels and a scale a row that keep Σ |W x − Ŵ x|² small, and what was rounded to them
 */
export function roundRows(
  values: Float32Array,
  columns: number,
  moments: Float64Array,
  step: number,
): { levels: Int8Array; scale: Float32Array; exact: Float32Array } {
  const rows = values.length / columns;
  const order = [...Array(columns).keys()].sort((a, b) => moments[b * columns + b] - moments[a * columns + a]);
  const spread = errorSpread(moments, order);
  const levels = new Int8Array(values.length);
  const exact = new Float32Array(values.length);
  const scale = new Float32Array(rows);
  const left = new Float64Array(columns);
  for (let r = 0; r < rows; r++) {
    const row = values.subarray(r * columns, (r + 1) * columns);
    scale[r] = scaleOf(row, MAX_ON_GRID, step);
    if (scale[r] === 0) continue;
    order.forEach((column, j) => void (left[j] = row[column]));
    for (let j = 0; j < columns; j++) {
      const level = clamped(Math.round(left[j] / scale[r]), MAX_ON_GRID);
      levels[r * columns + order[j]] = level;
      exact[r * columns + order[j]] = clamped(left[j], MAX_ON_GRID * scale[r]);
      const error = (left[j] - level * scale[r]) / spread[j * columns + j];
      for (let k = j + 1; k < columns; k++) left[k] -= error * spread[j * columns + k];
    }
  }
  return { levels, scale, exact };
}

const clamped = (value: number, bound: number): number => Math.max(-bound, Math.min(value, bound));

/**
 * The upper triangular U of UᵀU = (moments + damping)⁻¹, rows and columns in the given order: how the error of a column
 * is made up for by those after it. Of the matrix turned about, which is L Lᵀ, U is L⁻¹ turned back.
 */
function errorSpread(moments: Float64Array, order: number[]): Float64Array {
  const n = order.length;
  let trace = 0;
  for (let i = 0; i < n; i++) trace += moments[i * n + i];
  const damping = (DAMPING * trace) / n || 1;
  const lower = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = moments[order[n - 1 - i] * n + order[n - 1 - j]] + (i === j ? damping : 0);
      for (let k = 0; k < j; k++) sum -= lower[i * n + k] * lower[j * n + k];
      lower[i * n + j] = i === j ? Math.sqrt(sum) : sum / lower[j * n + j];
    }
  }
  const out = new Float64Array(n * n);
  const column = new Float64Array(n);
  for (let j = 0; j < n; j++) {
    for (let i = j; i < n; i++) {
      let sum = i === j ? 1 : 0;
      for (let k = j; k < i; k++) sum -= lower[i * n + k] * column[k];
      column[i] = sum / lower[i * n + i];
      out[(n - 1 - i) * n + (n - 1 - j)] = column[i];
    }
  }
  return out;
}
