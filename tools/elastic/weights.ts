/** What the variants of a folder share while they are trained: one variable for each tensor of the largest, and views of it. */
import type { Model, Tensors } from "../../src/format/model.ts";
import { growthOf, type Nesting, nest } from "../../src/format/nesting.ts";
import { float32 } from "../../src/format/read.ts";
import type { Weights } from "../../src/tfjs/forward.ts";
import type { Tensor, TF } from "../../src/tfjs/ops.ts";
import { storedTensor } from "../training/checkpoint.ts";
import { type Variables, variablesFrom } from "../training/train.ts";
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

/** @param models in f32, the largest first */
export function shareWeights(tf: TF, models: { name: string; model: Model }[]): SharedWeights {
  const [{ model: largest }] = models;
  const own = models.map(({ model }, i) =>
    i === 0 ? [] : [...model.tensors.keys()].filter((key) => isOwn(key, model, largest)),
  );
  const nameOf = (i: number, key: string) => (own[i].includes(key) ? `${key}#${models[i].name}` : key);
  const entry = (name: string, { tensors }: Model, key: string) =>
    [name, { shape: tensors.get(key)!.shape, data: Float32Array.from(float32(tensors, key)) }] as const;
  const variables = variablesFrom(tf, [
    ...[...largest.tensors.keys()].map((key) => [...entry(key, largest, key)] as [string, ReturnType<typeof entry>[1]]),
    ...own.flatMap((keys, i) =>
      keys.map((key) => [...entry(nameOf(i, key), models[i].model, key)] as [string, ReturnType<typeof entry>[1]]),
    ),
  ]);
  return {
    variables,
    weightsOf(i) {
      const { manifest, tensors } = models[i].model;
      return new Map(
        [...tensors.keys()].map((key) => {
          const variable = variables.get(nameOf(i, key))! as Tensor;
          const [small, large] = [growthOf(manifest, key), growthOf(largest.manifest, key)];
          const nesting = small && large && nest(small, large);
          return [key, nesting ? part(tf, variable, nesting) : variable];
        }),
      );
    },
    async tensorsOf(i) {
      const stored: Tensors = new Map();
      for (const key of largest.tensors.keys()) stored.set(key, await storedTensor(variables.get(key)! as Tensor));
      const tensors = cutToWidths(stored, largest.manifest, models[i].model.manifest);
      for (const key of own[i]) tensors.set(key, await storedTensor(variables.get(nameOf(i, key))! as Tensor));
      return tensors;
    },
  };
}

/** Whether a variant has the tensor for itself, as no part of the largest one's. */
export function isOwn(key: string, { manifest, tensors }: Model, largest: Model): boolean {
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
