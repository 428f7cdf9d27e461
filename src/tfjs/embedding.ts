/** From pixels to the tokens that enter the first block. */
import type * as tfjs from "@tensorflow/tfjs-core";
import { type Architecture, denseTokens, patchGrid } from "../format/model.ts";
import { gatherTokens, layerNorm, linear, type Tensor, type TF } from "./ops.ts";
import type { Stream, Weights } from "./options.ts";

/** The first block's patches only, as reshape and matMul: [batch, keepIdx.length, embedDim]. */
export function embed(tf: TF, arch: Architecture, weights: Weights, pixels: Tensor): Stream {
  const { embedDim, patchSize: p, prefixTokens, preNorm } = arch;
  const { keepIdx } = arch.blocks[0];
  const batch = pixels.shape[0]!;
  const position = gatherTokens(tf, tf.reshape(weights.get("pos_embed")!, [1, denseTokens(arch), embedDim]), keepIdx);
  const prefix = ["cls_token", "dist_token", "reg_token"].flatMap((name) => {
    const token = weights.get(name);
    return token ? [tf.tile(token, [batch, 1, 1])] : [];
  });
  const left = keepIdx.length - prefixTokens;
  if (left === 0) return { x: tf.add(tf.concat(prefix, 1), position) };

  const [rows, columns] = patchGrid(arch);
  const split = tf.transpose(tf.reshape(pixels, [batch, 3, rows, p, columns, p]), [0, 2, 4, 1, 3, 5]);
  const patches = gatherTokens(
    tf,
    tf.reshape(split, [batch, rows * columns, 3 * p * p]),
    keepIdx.slice(prefixTokens).map((token) => token - prefixTokens),
  );
  const kernel = tf.reshape(weights.get("patch_embed.proj.weight")!, [embedDim, 3 * p * p]);
  const content = linear(tf, tf.reshape(patches, [-1, 3 * p * p]), kernel, weights.get("patch_embed.proj.bias")!);
  const tokens = tf.reshape(content, [batch, left, embedDim]);
  if (!preNorm) return { x: tf.add(prefix.length ? tf.concat([...prefix, tokens], 1) : tokens, position) };

  const ofPatches = tf.slice(position, [0, prefixTokens, 0], [1, left, embedDim]);
  const normed = tf.reshape(preNormed(tf, arch, weights, tf.add(tokens, ofPatches)), [batch, left, embedDim]);
  if (!prefix.length) return { x: normed };
  const ofPrefix = tf.slice(position, [0, 0, 0], [1, prefixTokens, embedDim]);
  return { x: tf.concat([tf.add(tf.concat(prefix, 1), ofPrefix) as tfjs.Tensor, normed], 1) };
}

function preNormed(tf: TF, arch: Architecture, weights: Weights, x: Tensor): Tensor {
  const { embedDim, layerNormEps, normEps } = arch;
  const [gain, shift] = [weights.get("norm_pre.weight")!, weights.get("norm_pre.bias")!];
  return layerNorm(tf, tf.reshape(x, [-1, embedDim]), gain, shift, normEps?.pre ?? layerNormEps);
}
