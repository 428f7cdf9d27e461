/** From the last block's tokens to features and logits. */
import type { Layers } from "./layers.ts";
import type { Stream } from "./stream.ts";

/** @returns features [1, featureDim], and logits [1, classes], absent without a head */
export function classify(layers: Layers, stream: Stream): { features: MLOperand; logits?: MLOperand } {
  const { graph, model } = layers;
  const { embedDim, finalNorm, normEps, distilled, projection, head } = model.manifest;
  const isNormed = finalNorm === "tokens" || finalNorm === "both";
  const x = isNormed ? layers.norm(stream.x, "norm", normEps?.final) : stream.x;
  let features = pool(layers, x, stream.sizes);
  if (finalNorm === "pooled" || finalNorm === "both") features = layers.norm(features, "fc_norm", normEps?.pooled);
  if (projection) features = layers.linear(features, "projection", { bias: null });
  if (!head) return { features };
  const ofHead = (values: MLOperand, key: string) => layers.linear(head.cosine ? layers.unit(values) : values, key);
  let logits = ofHead(features, "head");
  if (distilled) {
    const second = ofHead(graph.slice(x, [1, 0], [1, embedDim]), "head_dist");
    logits = graph.op("mul", graph.op("add", logits, second), graph.scalar(0.5));
  }
  return { features, logits };
}

/** [1, pooledDim] */
function pool(layers: Layers, x: MLOperand, sizes: MLOperand | undefined): MLOperand {
  const { graph, model } = layers;
  const { embedDim, prefixTokens, pooling } = model.manifest;
  const parts: MLOperand[] = [];
  if (pooling.startsWith("class")) parts.push(graph.slice(x, [0, 0], [1, embedDim]));
  if (pooling === "class") return parts[0];
  const count = x.shape[0] - prefixTokens;
  const patches = graph.slice(x, [prefixTokens, 0], [count, embedDim]);
  const patchSizes = sizes && graph.slice(sizes, [0, prefixTokens], [1, count]);
  if (pooling === "map") return attentionPool(layers, patches, patchSizes);
  if (patchSizes) {
    const total = graph.sum(patchSizes, 1);
    parts.push(graph.op("div", graph.op("matmul", patchSizes, patches), total));
  } else parts.push(graph.op("reduceMean", patches, { axes: [0], keepDimensions: true }));
  return graph.concat(parts, 1);
}

/**
 * Attention of a learned query, then a residual MLP. The query is constant and already multiplied by the keys' weights.
 */
function attentionPool(layers: Layers, x: MLOperand, sizes?: MLOperand): MLOperand {
  const { graph, model } = layers;
  const { poolHeads, poolActivation, activation, normEps } = model.manifest;
  const [count, dim] = x.shape;
  const heads = poolHeads!;
  const query = layers.vector("attn_pool.query", [heads, dim]);
  let scores = graph.transpose(graph.op("gemm", x, query, { bTranspose: true }), [1, 0]);
  if (sizes) scores = graph.op("add", scores, graph.op("log", sizes));
  const chances = graph.reshape(graph.op("softmax", scores, 1), [heads, 1, count]);
  const v = graph.reshape(layers.linear(x, "attn_pool.v"), [count, heads, dim / heads]);
  const mixed = graph.op("matmul", chances, graph.transpose(v, [1, 0, 2]));
  const y = layers.linear(graph.reshape(mixed, [1, dim]), "attn_pool.proj");
  const normed = layers.norm(y, "attn_pool.norm", normEps?.pool);
  const hidden = layers.activate(layers.linear(normed, "attn_pool.mlp.fc1"), poolActivation ?? activation);
  return graph.op("add", y, layers.linear(hidden, "attn_pool.mlp.fc2"));
}
