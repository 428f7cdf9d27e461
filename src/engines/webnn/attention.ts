/** Self-attention over heads that need not have the same width. */
import { type BlockShape, innerDim } from "../../format/model.ts";
import { relativeBias } from "../../reference/positions.ts";
import type { Layers } from "./layers.ts";
import type { Stream } from "./stream.ts";

export interface Attended {
  /** [read, embedDim], mixed by proj */
  output: MLOperand;
  /** [tokens, inner], as they enter the scores */
  keys: MLOperand;
  /** [1, tokens], where asked for: the class token's attention, or the mean of all, averaged over the heads */
  map?: MLOperand;
}

/**
 * Attention of the first `read` tokens over all. A key's bias adds the same to all scores of a query, which softmax takes out
 * again, unless something happens to keys on the way. A value's bias passes through, as the weights of a mean sum to 1,
 * so it is added where proj adds its own. The scale is in the queries' weights.
 */
export function attend(layers: Layers, i: number, stream: Stream, read: number, withMap: boolean): Attended {
  const { graph, model } = layers;
  const { manifest } = model;
  const block = manifest.blocks[i];
  const { headDims } = block;
  const inner = innerDim(block);
  const [tokens] = stream.x.shape;
  const at = `blocks.${i}.attn`;
  const normed = layers.norm(stream.x, `blocks.${i}.norm1`);
  const scale = 1 / Math.sqrt(manifest.headDim);
  const isPlain = !manifest.qkNorm && manifest.position !== "rope" && !block.merge;
  const part = (x: MLOperand, k: number, bias: null | undefined, factor = 1) =>
    layers.linear(x, `${at}.qkv`, { rows: [k * inner, (k + 1) * inner], bias, factor });
  const readers = graph.slice(normed, [0, 0], [read, normed.shape[1]]);
  let q = part(readers, 0, undefined, manifest.qkNorm ? 1 : scale);
  let k = part(normed, 1, isPlain ? null : undefined);
  const v = part(normed, 2, null);
  if (manifest.qkNorm) {
    q = graph.op("mul", normHeads(layers, block, q, `${at}.q_norm`), graph.scalar(scale));
    k = normHeads(layers, block, k, `${at}.k_norm`);
  }
  if (stream.coordinates) {
    const turn = rotation(layers, i, inner, stream.coordinates);
    q = turn(q);
    k = turn(k);
  }
  const bias = scoreBias(layers, i, stream, read);
  const { mixed, chances } = mixHeads(layers, headDims, [q, k, v], bias);
  const output = layers.linear(mixed, `${at}.proj`, { bias: foldValueBias(layers, at, inner) });
  if (!withMap) return { output, keys: k };
  const rows = manifest.classToken ? 1 : read;
  const firstRows = chances.map((p) => graph.slice(p, [0, 0, 0], [p.shape[0], rows, tokens]));
  const means = firstRows.map((p) => graph.op("reduceSum", p, { axes: [0, 1] }));
  const total = means.reduce((sum, one) => graph.op("add", sum, one));
  return {
    output,
    keys: k,
    map: graph.op("mul", graph.reshape(total, [1, tokens]), graph.scalar(1 / headDims.length / rows)),
  };
}

/**
 * Heads of one width are one batch, others go one by one.
 *
 * @returns mixed [read, inner], and the softmax's outputs [heads, read, tokens]
 */
function mixHeads(
  { graph }: Layers,
  headDims: number[],
  qkv: MLOperand[],
  bias: (head: number, heads: number) => MLOperand[],
): { mixed: MLOperand; chances: MLOperand[] } {
  const read = qkv[0].shape[0];
  const runs = headDims.every((width) => width === headDims[0]) ? [headDims] : headDims.map((width) => [width]);
  const parts = qkv.map((x) =>
    graph.split(
      x,
      runs.map((run) => run.length * run[0]),
      1,
    ),
  );
  const chances: MLOperand[] = [];
  let head = 0;
  const outputs = runs.map((run, r) => {
    const heads = run.length;
    const ofHeads = (part: number, permutation: number[]) => {
      const x = graph.reshape(parts[part][r], [parts[part][r].shape[0], heads, run[0]]);
      return graph.op("transpose", x, { permutation });
    };
    let scores = graph.op("matmul", ofHeads(0, [1, 0, 2]), ofHeads(1, [1, 2, 0]));
    for (const one of bias(head, heads)) scores = graph.op("add", scores, one);
    head += heads;
    chances.push(graph.op("softmax", scores, 2));
    const values = graph.op("matmul", chances[r], ofHeads(2, [1, 0, 2]));
    return graph.reshape(graph.transpose(values, [1, 0, 2]), [read, heads * run[0]]);
  });
  return { mixed: graph.concat(outputs, 1), chances };
}

/**
 * Gives the terms that are added to the scores of `heads` heads from `head` on: [heads or 1, read or 1, tokens] each.
 */
function scoreBias(
  layers: Layers,
  i: number,
  stream: Stream,
  read: number,
): (head: number, heads: number) => MLOperand[] {
  const { graph, model } = layers;
  const [tokens] = stream.x.shape;
  const sizes = stream.sizes && graph.reshape(graph.op("log", stream.sizes), [1, 1, tokens]);
  const bias =
    model.manifest.position === "relative"
      ? relativeBias(model.manifest, stream.alive, layers.values(`blocks.${i}.attn.rel_bias`))
      : undefined;
  return (head, heads) => {
    const table = () =>
      Float32Array.from({ length: heads * read * tokens }, (_, k) =>
        bias!(head + Math.floor(k / tokens / read), Math.floor(k / tokens) % read, k % tokens),
      );
    const relative = bias && graph.floats(`relative ${i} ${head}`, [heads, read, tokens], table);
    return [sizes, relative].filter((one) => one !== undefined);
  };
}

/** Norms each head's channels; those that were cut count as zeros. */
function normHeads(layers: Layers, { headDims }: BlockShape, x: MLOperand, key: string): MLOperand {
  const { graph, model } = layers;
  const { headDim, normEps, layerNormEps } = model.manifest;
  const parts = graph.split(x, headDims, 1);
  const normed = parts.map((part) => layers.standardise(part, normEps?.qk ?? layerNormEps, headDim));
  return layers.affine(graph.concat(normed, 1), layers.vector(`${key}.weight`), layers.vector(`${key}.bias`));
}

/** Turns each pair of adjacent channels by the angle of its token's place. */
function rotation(layers: Layers, i: number, inner: number, coordinates: MLOperand): (x: MLOperand) => MLOperand {
  const { graph } = layers;
  const frequencies = layers.vector(`blocks.${i}.attn.rope_freqs`, [2, inner / 2]);
  const angles = graph.op("matmul", coordinates, frequencies);
  return (x) => {
    const [rows] = x.shape;
    const pairs = graph.reshape(x, [rows, inner / 2, 2]);
    const half = (k: number) => graph.reshape(graph.slice(pairs, [0, 0, k], [rows, inner / 2, 1]), [rows, inner / 2]);
    const [a, b] = [half(0), half(1)];
    const own = graph.slice(angles, [0, 0], [rows, inner / 2]);
    const [cos, sin] = [graph.op("cos", own), graph.op("sin", own)];
    const times = (left: MLOperand, right: MLOperand) => graph.op("mul", left, right);
    const turned = [graph.op("sub", times(a, cos), times(b, sin)), graph.op("add", times(a, sin), times(b, cos))];
    const columns = turned.map((one) => graph.reshape(one, [rows, inner / 2, 1]));
    return graph.reshape(graph.concat(columns, 2), [rows, inner]);
  };
}

/** proj's bias and what proj makes of the values' biases. */
function foldValueBias(layers: Layers, at: string, inner: number): Float32Array {
  const values = layers.values(`${at}.qkv.bias`).subarray(2 * inner);
  const weight = layers.values(`${at}.proj.weight`);
  return layers.values(`${at}.proj.bias`).map((bias, row) => {
    let sum = bias;
    for (let i = 0; i < inner; i++) sum += weight[row * inner + i] * values[i];
    return sum;
  });
}
