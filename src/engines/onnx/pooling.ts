/** From the last block's tokens to features and logits. */
import type { Layers, Matrix } from "./layers.ts";
import type { Stream } from "./stream.ts";

/** @returns features [batch, featureDim], and logits [batch, classes], absent without a head */
export function classify(layers: Layers, stream: Stream): { features: Matrix; logits?: Matrix } {
  const { graph, model } = layers;
  const { finalNorm, normEps, distilled, projection, head } = model.manifest;
  const isNormed = finalNorm === "tokens" || finalNorm === "both";
  const x = isNormed ? layers.norm(stream.x, "norm", normEps?.final) : stream.x;
  let features = pool(layers, { ...stream, x });
  if (finalNorm === "pooled" || finalNorm === "both") features = layers.norm(features, "fc_norm", normEps?.pooled);
  if (projection) features = layers.linear(features, "projection");
  if (!head) return { features };
  const unit = (of: Matrix) => ({ ...of, name: graph.narrow(layers.unit(graph.widen(of.name), 1)) });
  const ofHead = (of: Matrix, key: string) => layers.linear(head.cosine ? unit(of) : of, key);
  const logits = ofHead(features, "head");
  if (!distilled) return { features, logits };
  const both = layers.add(logits, ofHead(layers.pick(x, [1]), "head_dist").name);
  return { features, logits: { ...both, name: graph.op("Mul", both.name, graph.scalar(0.5)) } };
}

/** [batch, pooledDim] */
function pool(layers: Layers, { x, sizes }: Stream): Matrix {
  const { graph, model } = layers;
  const { prefixTokens, pooling } = model.manifest;
  const { width } = x;
  if (pooling === "class") return layers.first(x, 1);
  const patches = layers.pick(
    x,
    Array.from({ length: x.tokens - prefixTokens }, (_, k) => prefixTokens + k),
  );
  if (pooling === "map") return attentionPool(layers, patches, sizes?.());
  const rows = layers.pictures(patches);
  let mean: string;
  if (sizes) {
    const share = graph.op("Div", sizes(), graph.reduce("ReduceSum", sizes(), [1]));
    const weighted = graph.op("MatMul", graph.narrow(graph.transpose(share, [0, 2, 1])), rows);
    mean = graph.reshape(weighted, [-1, width]);
  } else mean = graph.reduce("ReduceMean", rows, [1], 0);
  if (pooling === "mean") return { name: mean, tokens: 1, width };
  return { name: graph.concat([layers.first(x, 1).name, mean], 1), tokens: 1, width: 2 * width };
}

/**
 * Attention of a learned query, then a residual MLP. The query is constant and already multiplied by the keys' weights.
 */
function attentionPool(layers: Layers, x: Matrix, sizes?: string): Matrix {
  const { graph, model } = layers;
  const { poolHeads, poolActivation, activation, normEps } = model.manifest;
  const { tokens, width } = x;
  const heads = poolHeads!;
  const query = graph.floats("attn_pool.query", layers.values("attn_pool.query"), [heads, width]);
  const products = graph.reshape(graph.node("Gemm", [x.name, query], { transB: 1 }), [-1, tokens, heads]);
  let scores = graph.transpose(products, [0, 2, 1]);
  if (sizes) scores = graph.op("Add", scores, graph.narrow(graph.transpose(graph.op("Log", sizes), [0, 2, 1])));
  const chances = graph.reshape(graph.op("Softmax", scores), [-1, heads, 1, tokens]);
  const v = graph.reshape(layers.linear(x, "attn_pool.v").name, [-1, tokens, heads, width / heads]);
  const mixed = graph.op("MatMul", chances, graph.transpose(v, [0, 2, 1, 3]));
  const y = layers.linear({ name: graph.reshape(mixed, [-1, width]), tokens: 1, width }, "attn_pool.proj");
  const normed = layers.norm(y, "attn_pool.norm", normEps?.pool);
  const hidden = layers.activate(layers.linear(normed, "attn_pool.mlp.fc1"), poolActivation ?? activation);
  return layers.add(y, layers.linear(hidden, "attn_pool.mlp.fc2").name);
}
