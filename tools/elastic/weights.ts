/**
 * The shared weights of a folder's variants during training: one variable for each tensor of the largest variant, and
 * views of it.
 */
import type * as tfjs from "@tensorflow/tfjs-core";
import { type Architecture, denseTokens, type Model, patchGrid, type Tensors } from "../../src/format/model.ts";
import { growthOf, type Nesting, nest } from "../../src/format/nesting.ts";
import { float32 } from "../../src/format/read.ts";
import type { Weights } from "../../src/tfjs/forward.ts";
import type { Tensor, TF } from "../../src/tfjs/ops.ts";
import { resampleMatrix, resamplePositions } from "../checkpoints/resize.ts";
import { type Variables, variablesFrom } from "../models/variables.ts";
import { storedTensor } from "../training/checkpoint.ts";
import { cutToWidths } from "./cut.ts";

/** Norms act on the residual stream, which is another one where tokens have merged or units are gone. */
const OWN_NORM = /(^|\.)(norm|norm1|norm2|norm_pre|fc_norm)\.(weight|bias)$/;

/** A folder's networks and the variables that they are made of. */
export interface SharedWeights {
  variables: Variables;
  /** The weights of one network; to be called where its gradients are taken. */
  weightsOf(index: number): Weights;
  /** The weights of one network as the variables are now. */
  tensorsOf(index: number): Promise<Tensors>;
}

/** The tensor of a variable's name, of whichever variant it is. */
export const tensorName = (variable: string): string => variable.split("#")[0];

/** Whether a variable is that of a variant other than the largest. */
export const isOwnName = (variable: string): boolean => variable.includes("#");

/** @param models in f32, the largest first */
export function shareWeights(tf: TF, models: { name: string; model: Model }[]): SharedWeights {
  const [{ model: largest }] = models;
  const own = models.map(
    ({ model }, i) =>
      new Set(
        [...model.tensors.keys()].filter((key) => i > 0 && isOwn(key, model, largest) && !isMoved(key, model, largest)),
      ),
  );
  const nameOf = (i: number, key: string) => (own[i].has(key) ? `${key}#${models[i].name}` : key);
  const values = new Map<string, { shape: number[]; data: Float32Array }>();
  models.forEach(({ model: { tensors } }, i) => {
    for (const [key, { shape }] of tensors)
      if (i === 0 || own[i].has(key))
        values.set(nameOf(i, key), { shape, data: Float32Array.from(float32(tensors, key)) });
  });
  const variables = variablesFrom(tf, values);
  return {
    variables,
    weightsOf(i) {
      const { model } = models[i];
      return new Map(
        [...model.tensors.keys()].map((key) => {
          const variable = variables.get(nameOf(i, key))! as Tensor;
          if (i === 0 || own[i].has(key)) return [key, variable];
          if (key === POSITIONS && variable.size !== model.tensors.get(key)!.data.length)
            return [key, movedPositions(tf, variable, largest.manifest, model.manifest)];
          const [small, large] = [growthOf(model.manifest, key), growthOf(largest.manifest, key)];
          const nesting = small && large && nest(small, large);
          return [key, nesting ? part(tf, variable, nesting) : variable];
        }),
      );
    },
    async tensorsOf(i) {
      const { manifest } = models[i].model;
      const stored: Tensors = new Map();
      for (const key of largest.tensors.keys()) stored.set(key, await storedTensor(variables.get(key)! as Tensor));
      const tensors = cutToWidths(stored, largest.manifest, manifest);
      if (manifest.imageSize.join() !== largest.manifest.imageSize.join()) {
        const data = positionsAt(float32(stored, POSITIONS), largest.manifest, manifest);
        tensors.set(POSITIONS, { dtype: "F32", shape: [1, denseTokens(manifest), manifest.embedDim], data });
      }
      for (const key of own[i]) tensors.set(key, await storedTensor(variables.get(nameOf(i, key))! as Tensor));
      return tensors;
    },
  };
}

const POSITIONS = "pos_embed";

/** Tolerance for rounding in int8, as a share of the greatest position. */
const POSITION_TOLERANCE = 0.01;

/** Whether these are the largest variant's position embeddings, moved to another grid: training keeps them so. */
function isMoved(key: string, { manifest, tensors }: Model, largest: Model): boolean {
  if (key !== POSITIONS) return false;
  const wanted = positionsAt(float32(largest.tensors, key), largest.manifest, manifest);
  const most = wanted.reduce((max, value) => Math.max(max, Math.abs(value)), 0);
  return float32(tensors, key).every((value, i) => Math.abs(value - wanted[i]) <= POSITION_TOLERANCE * most);
}

const positionsAt = (positions: Float32Array, from: Architecture, to: Architecture): Float32Array =>
  resamplePositions(positions, patchGrid(from), patchGrid(to), from.prefixTokens, from.embedDim);

/** Position embeddings moved to another grid, with gradients. */
function movedPositions(tf: TF, positions: Tensor, from: Architecture, to: Architecture): Tensor {
  const { prefixTokens, embedDim } = from;
  const [[rows, columns], [height, width]] = [patchGrid(from), patchGrid(to)];
  const along = (x: Tensor, a: number, b: number) =>
    tf.matMul(tf.tensor2d(resampleMatrix(a, b), [a, b]), tf.reshape(x, [a, -1]) as tfjs.Tensor2D, true) as Tensor;
  const turned = (x: Tensor, shape: number[]) => tf.transpose(tf.reshape(x, shape), [1, 0, 2]) as Tensor;
  const patches = tf.slice(positions, [0, prefixTokens, 0], [1, rows * columns, embedDim]) as Tensor;
  const down = turned(along(patches, rows, height), [height, columns, embedDim]);
  const both = turned(along(down, columns, width), [width, height, embedDim]);
  const moved = tf.reshape(both, [1, height * width, embedDim]);
  if (!prefixTokens) return moved;
  return tf.concat([tf.slice(positions, [0, 0, 0], [1, prefixTokens, embedDim]) as Tensor, moved], 1);
}

/** Whether a variant has a tensor of its own, which is not part of the largest variant's. */
export function isOwn(key: string, model: Model, largest: Model): boolean {
  const { manifest, tensors } = model;
  const [from, to] = [growthOf(manifest, key), growthOf(largest.manifest, key)];
  if (from && to && nest(from, to)) return false;
  if (OWN_NORM.test(key)) return true;
  const [own, whole] = [tensors, largest.tensors].map((all) => float32(all, key));
  return own !== whole && (own.length !== whole.length || own.some((value, i) => value !== whole[i]));
}

/** The channels and units of a larger tensor that a smaller network keeps. */
function part(tf: TF, tensor: Tensor, { axis, kept, added }: Nesting): Tensor {
  if (!added.length) return tensor;
  const pieces = kept.map(([first, count]) => {
    const begin = tensor.shape.map((_, i) => (i === axis ? first : 0));
    const size = tensor.shape.map((all, i) => (i === axis ? count : all!));
    return tf.slice(tensor, begin, size) as Tensor;
  });
  return pieces.length === 1 ? pieces[0] : tf.concat(pieces, axis);
}
