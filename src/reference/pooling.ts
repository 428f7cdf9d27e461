/** From the last block's tokens to features and logits. */
import { type Model, pooledDim } from "../format/model.ts";
import { float32 } from "../format/read.ts";
import { activate, layerNorm, linear, softmax } from "./ops.ts";

/**
 * @param x [tokens, embedDim] after the last block
 * @param sizes [tokens]: patches that each row stands for
 * @returns features [featureDim], and logits [classes], empty without a head
 */
export function classify(
  model: Model,
  x: Float32Array,
  sizes: Float64Array,
): { features: Float32Array; logits: Float32Array } {
  const { manifest, tensors } = model;
  const { embedDim, layerNormEps, normEps, finalNorm, distilled, projection, head } = manifest;
  const t = (key: string) => float32(tensors, key);
  const norm = (values: Float32Array, key: string, eps = layerNormEps) =>
    layerNorm(values, t(`${key}.weight`), t(`${key}.bias`), eps);
  const dense = (values: Float32Array, key: string) => linear(values, t(`${key}.weight`), t(`${key}.bias`), 1);

  const tokens = finalNorm === "tokens" || finalNorm === "both" ? norm(x, "norm", normEps?.final) : x;
  let features = pool(model, tokens, sizes);
  if (finalNorm === "pooled" || finalNorm === "both") features = norm(features, "fc_norm", normEps?.pooled);
  if (projection) features = linear(features, t("projection.weight"), new Float32Array(projection), 1);
  if (!head) return { features, logits: new Float32Array(0) };
  const ofHead = (values: Float32Array, key: string) => dense(head.cosine ? unit(values) : values, key);
  let logits = ofHead(features, "head");
  if (distilled) {
    const ofDistilled = ofHead(tokens.subarray(embedDim, 2 * embedDim), "head_dist");
    logits = logits.map((v, i) => (v + ofDistilled[i]) / 2);
  }
  return { features, logits };
}

/** @returns [pooledDim] */
function pool(model: Model, x: Float32Array, sizes: Float64Array): Float32Array {
  const { embedDim, prefixTokens, pooling } = model.manifest;
  const patches = x.subarray(prefixTokens * embedDim);
  const patchSizes = sizes.subarray(prefixTokens);
  if (pooling === "map") return attentionPool(model, patches, patchSizes);
  const pooled = new Float32Array(pooledDim(model.manifest));
  if (pooling !== "mean") pooled.set(x.subarray(0, embedDim));
  if (pooling !== "class") pooled.set(meanOf(patches, embedDim, patchSizes), pooled.length - embedDim);
  return pooled;
}

/** The mean of rows, weighted by their sizes. */
function meanOf(x: Float32Array, dim: number, sizes: Float64Array): Float64Array {
  const mean = new Float64Array(dim);
  const total = sizes.reduce((a, b) => a + b, 0);
  sizes.forEach((size, row) => {
    for (let d = 0; d < dim; d++) mean[d] += (size * x[row * dim + d]) / total;
  });
  return mean;
}

/**
 * Attention of a learned query, then a residual MLP. The query is constant and already multiplied by the keys' weights.
 * @param x [patches, embedDim]
 * @see Zhai et al. 2022, "Scaling vision transformers", appendix — https://arxiv.org/abs/2106.04560
 */
function attentionPool({ manifest, tensors }: Model, x: Float32Array, sizes: Float64Array): Float32Array {
  const { embedDim: d, layerNormEps, normEps, activation } = manifest;
  const heads = manifest.poolHeads!;
  const t = (key: string) => float32(tensors, `attn_pool.${key}`);
  const dense = (values: Float32Array, key: string, rows = 1) =>
    linear(values, t(`${key}.weight`), t(`${key}.bias`), rows);
  const query = t("query");
  const v = dense(x, "v", sizes.length);
  const width = d / heads;
  const mixed = new Float32Array(d);
  for (let h = 0; h < heads; h++) {
    const scores = Float64Array.from(sizes, (size, row) => {
      let dot = Math.log(size);
      for (let i = 0; i < d; i++) dot += query[h * d + i] * x[row * d + i];
      return dot;
    });
    const p = softmax(scores);
    for (let c = h * width; c < (h + 1) * width; c++) {
      mixed[c] = p.reduce((sum, share, row) => sum + share * v[row * d + c], 0);
    }
  }
  const y = dense(mixed, "proj");
  const normed = layerNorm(y, t("norm.weight"), t("norm.bias"), normEps?.pool ?? layerNormEps);
  const hidden = activate(dense(normed, "mlp.fc1"), manifest.poolActivation ?? activation);
  const more = dense(hidden, "mlp.fc2");
  return y.map((value, i) => value + more[i]);
}

/** The vector at length 1. Zeros stay zeros. */
function unit(values: Float32Array): Float32Array {
  const length = Math.max(Math.hypot(...values), 1e-12);
  return values.map((v) => v / length);
}
