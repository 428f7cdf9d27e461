/** The words of the last stage: norms, pooling, projection and head. */
import { type Activation, type Model, type Pooling, pooledDim } from "../../format/model.ts";
import { float32 } from "../../format/read.ts";
import { putNorm, putTokenNorm } from "./constants.ts";
import * as L from "./layout.ts";
import type { LinearPlanner } from "./linears.ts";
import type { MemoryLayout, WordTable } from "./memoryLayout.ts";
import { pad8 } from "./padding.ts";
import type { Stream } from "./stream.ts";

export const ACTIVATIONS: Record<Activation, number> = {
  gelu: L.ACTIVATION_GELU,
  gelu_tanh: L.ACTIVATION_GELU_TANH,
  quick_gelu: L.ACTIVATION_QUICK_GELU,
  relu: L.ACTIVATION_RELU,
  silu: L.ACTIVATION_SILU,
};

const POOLINGS: Record<Pooling, number> = {
  class: L.POOL_CLASS,
  mean: L.POOL_MEAN,
  "class+mean": L.POOL_CLASS_MEAN,
  map: L.POOL_MAP,
};

/** Channels of each head of the attention pooling. */
const poolWidths = ({ manifest: { poolHeads = 1, embedDim } }: Model) =>
  Array<number>(poolHeads).fill(embedDim / poolHeads);

export function planPoolLinears(model: Model, linears: LinearPlanner, words: WordTable): void {
  const { embedDim, pooling, poolHidden = 0, projection, head, distilled } = model.manifest;
  const pooled = [pooledDim(model.manifest)];
  const dim = [embedDim];
  if (pooling === "map") {
    const widths = poolWidths(model);
    linears.plan({ key: "attn_pool.v", outs: widths, ins: dim }, words, L.PLAN_POOL_V);
    linears.plan({ key: "attn_pool.proj", outs: dim, ins: widths }, words, L.PLAN_POOL_PROJ);
    linears.plan({ key: "attn_pool.mlp.fc1", outs: [poolHidden], ins: dim }, words, L.PLAN_POOL_FC1);
    linears.plan({ key: "attn_pool.mlp.fc2", outs: dim, ins: [poolHidden] }, words, L.PLAN_POOL_FC2);
  }
  if (projection) linears.plan({ key: "projection", outs: [projection], ins: pooled }, words, L.PLAN_PROJECTION);
  if (!head) return;
  const classes = [model.tensors.get("head.bias")!.shape[0]];
  const features = projection ? [projection] : pooled;
  linears.plan({ key: "head", outs: classes, ins: features }, words, L.PLAN_HEAD);
  if (distilled) linears.plan({ key: "head_dist", outs: classes, ins: features }, words, L.PLAN_HEAD2);
}

export function setPooling(model: Model, memory: MemoryLayout, words: WordTable, stream: Stream): void {
  const { manifest } = model;
  const { pooling, finalNorm, normEps, distilled, projection, head } = manifest;
  const width = pooledDim(manifest);
  const ofTokens = finalNorm === "tokens" || finalNorm === "both";
  const ofPooled = finalNorm === "pooled" || finalNorm === "both";
  words.set([
    [L.PLAN_POOLING, POOLINGS[pooling]],
    [L.PLAN_CLASS_ROWS, distilled ? 2 : 1],
    [L.PLAN_TOKEN_NORM, ofTokens ? putTokenNorm(model, memory, "norm", normEps?.final) : 0],
    [L.PLAN_POOLED_NORM, ofPooled ? putPooledNorm(model, memory) : 0],
    [L.PLAN_POOLED_DIM, width],
    [L.PLAN_POOLED, stream.pooled],
    [L.PLAN_PROJECTED, projection ? 1 : 0],
    [L.PLAN_FEATURES, stream.features],
    [L.PLAN_FEATURE_DIM, stream.featureDim],
    [L.PLAN_CLASSIFIED, head ? 1 : 0],
    [L.PLAN_COSINE, head?.cosine ? 1 : 0],
    [L.PLAN_UNIT, head?.cosine ? memory.take(pad8(stream.featureDim) * 4) : 0],
    [L.PLAN_LOGITS, stream.logits[0] ?? 0],
    [L.PLAN_LOGITS2, stream.logits[1] ?? 0],
  ]);
  if (pooling === "map") setAttentionPool(model, memory, words);
}

function putPooledNorm(model: Model, memory: MemoryLayout): number {
  const width = pooledDim(model.manifest);
  const eps = model.manifest.normEps?.pooled;
  return putNorm(model, memory, { key: "fc_norm", widths: [width], eps, denseDim: width });
}

function setAttentionPool(model: Model, memory: MemoryLayout, words: WordTable): void {
  const { embedDim, poolHeads = 1, poolHidden = 0, activation, poolActivation, normEps } = model.manifest;
  const dim = pad8(embedDim);
  const query = float32(model.tensors, "attn_pool.query");
  const rows = new Float32Array(poolHeads * dim);
  for (let h = 0; h < poolHeads; h++) rows.set(query.subarray(h * embedDim, (h + 1) * embedDim), h * dim);
  const wide = pad8(embedDim / poolHeads);
  words.set([
    [L.PLAN_POOL_HEADS, poolHeads],
    [L.PLAN_POOL_QUERY, memory.put(rows)],
    [L.PLAN_POOL_PANELS, wide / 8],
    [L.PLAN_POOL_MIXED, memory.take(rows.byteLength)],
    [L.PLAN_POOL_VALUES, memory.take(poolHeads * wide * 4)],
    [L.PLAN_POOL_NORM, putTokenNorm(model, memory, "attn_pool.norm", normEps?.pool)],
    [L.PLAN_POOL_NORMED, memory.take(dim * 4)],
    [L.PLAN_POOL_HIDDEN, memory.take(pad8(poolHidden) * 4)],
    [L.PLAN_POOL_ACTIVATION, ACTIVATIONS[poolActivation ?? activation]],
  ]);
}
