/** From the last block's tokens to features and logits. */
import type * as tfjs from "@tensorflow/tfjs-core";
import type { Architecture } from "../format/model.ts";
import { activate } from "./mlp.ts";
import { constant, layerNorm, linear, type Tensor, type TF } from "./ops.ts";
import type { ForwardOptions, ForwardOutput, Stream, Weights } from "./options.ts";

type Matrix = tfjs.Tensor2D;

/** @param stream of the last block, at least its `lastRows` */
export function classify(
  tf: TF,
  arch: Architecture,
  weights: Weights,
  stream: Stream,
  { poolGates, onHead }: Pick<ForwardOptions, "poolGates" | "onHead"> = {},
): ForwardOutput {
  const { layerNormEps, normEps, finalNorm, distilled, projection, head } = arch;
  const w = (name: string) => weights.get(name)!;
  let features = pool(tf, arch, weights, stream, poolGates);
  if (finalNorm === "pooled" || finalNorm === "both")
    features = layerNorm(tf, features, w("fc_norm.weight"), w("fc_norm.bias"), normEps?.pooled ?? layerNormEps);
  if (projection) features = linear(tf, features, w("projection.weight"), tf.zeros([projection]));
  if (!head) {
    const none = tf.zeros([features.shape[0]!, 0]);
    return { logits: none, classLogits: none, features };
  }
  const logitsOf = (features: Tensor, name: "head" | "head_dist") => {
    const x = head.cosine ? unit(tf, features) : features;
    onHead?.(x, name);
    return linear(tf, x, w(`${name}.weight`), w(`${name}.bias`));
  };
  const classLogits = logitsOf(features, "head");
  if (!distilled) return { logits: classLogits, classLogits, features };
  const distLogits = logitsOf(row(tf, arch, weights, stream.x, 1), "head_dist");
  return { logits: tf.mul(tf.add(classLogits, distLogits), 0.5), classLogits, distLogits, features };
}

/** @returns [batch, pooledDim] */
function pool(tf: TF, arch: Architecture, weights: Weights, { x, sizes }: Stream, gates?: Tensor): Tensor {
  const { embedDim, prefixTokens, pooling } = arch;
  if (pooling === "class") return row(tf, arch, weights, x, 0);
  const [batch, tokens] = x.shape as number[];
  const n = tokens - prefixTokens;
  const ofPatches = (values: Tensor, rows: number) => tf.slice(values, [0, prefixTokens], [rows, n]);
  const shares = [
    ...(sizes ? [ofPatches(sizes, batch)] : []),
    ...(gates ? [ofPatches(tf.reshape(gates, [1, tokens]), 1)] : []),
  ];
  const counts = shares.length ? shares.reduce((a, b) => tf.mul(a, b)) : undefined; // [1 or batch, n]
  const patches = normed(tf, arch, weights, tf.slice(x, [0, prefixTokens, 0], [batch, n, embedDim]));
  if (pooling === "map") return attentionPool(tf, arch, weights, patches, counts);
  const mean = meanOf(tf, patches, counts);
  return pooling === "mean" ? mean : tf.concat([row(tf, arch, weights, x, 0), mean], 1);
}

/** Token `k` of each picture after the norm of tokens, if there is one: [batch, embedDim] */
function row(tf: TF, arch: Architecture, weights: Weights, x: Tensor, k: number): Tensor {
  const batch = x.shape[0]!;
  return tf.reshape(normed(tf, arch, weights, tf.slice(x, [0, k, 0], [batch, 1, arch.embedDim])), [
    batch,
    arch.embedDim,
  ]);
}

/** Each token after `norm`, or unchanged where there is no norm. */
function normed(
  tf: TF,
  { embedDim, finalNorm, normEps, layerNormEps }: Architecture,
  weights: Weights,
  x: Tensor,
): Tensor {
  if (finalNorm === "pooled" || finalNorm === "none") return x;
  const [gain, shift] = [weights.get("norm.weight")!, weights.get("norm.bias")!];
  const flat = layerNorm(tf, tf.reshape(x, [-1, embedDim]), gain, shift, normEps?.final ?? layerNormEps);
  return tf.reshape(flat, x.shape);
}

/** @param counts the weight of each patch, [1 or batch, patches] */
function meanOf(tf: TF, x: Tensor, counts?: Tensor): Tensor {
  if (!counts) return tf.mean(x, 1);
  const [rows, n] = counts.shape as number[];
  const sum = tf.sum(tf.mul(x, tf.reshape(counts, [rows, n, 1])), 1);
  return tf.div(sum, tf.sum(counts, 1, true));
}

/**
 * Attention of a learned query, then a residual MLP. Values are computed after the mixing, which is linear.
 * @param x [batch, patches, embedDim]
 */
function attentionPool(tf: TF, arch: Architecture, weights: Weights, x: Tensor, counts?: Tensor): Tensor {
  const { embedDim: d, layerNormEps, normEps, activation } = arch;
  const [batch, n] = x.shape as number[];
  const heads = arch.poolHeads!;
  const w = (name: string) => weights.get(`attn_pool.${name}`)!;
  const dense = (y: Tensor, name: string) => linear(tf, y, w(`${name}.weight`), w(`${name}.bias`));
  const flat = tf.matMul(tf.reshape(x, [-1, d]) as Matrix, w("query") as Matrix, false, true);
  const scores = tf.transpose(tf.reshape(flat, [batch, n, heads]), [0, 2, 1]);
  const p = counts ? weightedSoftmax(tf, scores, tf.expandDims(counts, 1)) : tf.softmax(scores);
  const perHead = tf.transpose(tf.matMul(p, x) as tfjs.Tensor3D, [1, 0, 2]); // [heads, batch, d]
  const values = tf.matMul(perHead, tf.reshape(w("v.weight"), [heads, d / heads, d]) as tfjs.Tensor3D, false, true);
  const mixed = tf.add(tf.reshape(tf.transpose(values, [1, 0, 2]), [batch, d]), w("v.bias"));
  const y = dense(mixed, "proj");
  const pooled = layerNorm(tf, y, w("norm.weight"), w("norm.bias"), normEps?.pool ?? layerNormEps);
  const hidden = activate(tf, dense(pooled, "mlp.fc1"), arch.poolActivation ?? activation);
  return tf.add(y, dense(hidden, "mlp.fc2"));
}

/** Softmax over the last axis with each exponential weighted by `counts`, which may be 0. */
function weightedSoftmax(tf: TF, scores: Tensor, counts: Tensor): Tensor {
  const weighted = tf.mul(
    tf.exp(
      tf.sub(
        scores,
        constant(tf, () => tf.max(scores, -1, true)),
      ),
    ),
    counts,
  );
  return tf.div(weighted, tf.sum(weighted, -1, true));
}

/** Vectors at length 1. Zeros stay zeros. */
function unit(tf: TF, x: Tensor): Tensor {
  const square = tf.maximum(tf.sum(tf.square(x), -1, true), 1e-24);
  return tf.mul(x, tf.rsqrt(square));
}
