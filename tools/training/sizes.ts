/**
 * One network at several picture sizes, one of which each step trains. Such a network loses less when it gets smaller
 * pictures later, and its training is faster.
 */
import { SlimViTError } from "../../src/errors.ts";
import { type Manifest, patchGrid } from "../../src/format/model.ts";
import { forward } from "../../src/tfjs/forward.ts";
import type { Tensor, TF } from "../../src/tfjs/ops.ts";
import { resamplePositions, resizedManifest } from "../checkpoints/resize.ts";
import { architectureOf } from "../models/folders.ts";
import { random } from "../shared/random.ts";
import type { Student, Together } from "./task.ts";
import { adapted } from "./teacher.ts";

/**
 * @param own the network at its own size, which alone is measured on val
 * @param sizes further sizes [height, width]; a step draws one of these or the network's own
 * @throws SlimViTError `unsupported` for relative positions, `bad-option` for a size that is no multiple of the patch size
 */
export function atSizes(
  tf: TF,
  manifest: Manifest,
  variables: ReadonlyMap<string, Tensor>,
  own: Student,
  { sizes, seed }: { sizes: [number, number][]; seed: number },
): Together {
  const all = [own, ...sizes.map((size) => atSize(tf, manifest, variables, size))];
  return { all: [own], ofStep: (step) => [all[Math.floor(random(seed, 0x73697a65, step)() * all.length)]] };
}

/** The network with its positions resampled in each pass, so that each size trains all of them. */
function atSize(
  tf: TF,
  manifest: Manifest,
  variables: ReadonlyMap<string, Tensor>,
  imageSize: [number, number],
): Student {
  if (manifest.position === "relative")
    throw new SlimViTError(
      "unsupported",
      "Relative positions are trained at one picture size only: leave out --sizes.",
    );
  const resized = resizedManifest(manifest, imageSize);
  const arch = architectureOf(resized);
  const matrix = positionMatrix(patchGrid(manifest), patchGrid(resized));
  const { embedDim, prefixTokens } = manifest;
  return {
    name: `${imageSize[1]}×${imageSize[0]}`,
    weight: 1,
    forward: (pixels, branchGates) => {
      const position = variables.get("pos_embed")!;
      const patches = tf.reshape(tf.slice(position, [0, prefixTokens, 0]), [-1, embedDim]);
      const resampled = tf.expandDims(tf.matMul(tf.tensor2d(matrix.data, matrix.shape), patches), 0);
      const ofPrefix = tf.slice(position, [0, 0, 0], [1, prefixTokens, embedDim]);
      const weights = new Map(variables).set("pos_embed", tf.concat([ofPrefix, resampled], 1) as Tensor);
      return forward(tf, arch, weights, adapted(tf, pixels, manifest.preprocess, resized.preprocess), { branchGates });
    },
  };
}

type Grid = [rows: number, columns: number];

/** The resampling of embeddings as a product: [patches of `to`, patches of `from`]. */
function positionMatrix(from: Grid, to: Grid): { data: Float32Array; shape: [number, number] } {
  const [before, after] = [from, to].map(([rows, columns]) => rows * columns);
  const identity = new Float32Array(before * before);
  for (let k = 0; k < before; k++) identity[k * before + k] = 1;
  return { data: resamplePositions(identity, from, to, 0, before), shape: [after, before] };
}
