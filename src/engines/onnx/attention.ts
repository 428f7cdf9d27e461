/** Self-attention over heads that need not have the same width. */
import { type Architecture, innerDim, patchGrid } from "../../format/model.ts";
import { headRuns, type Layers, type Matrix, widthOf } from "./layers.ts";
import type { Stream } from "./stream.ts";

export interface Attended {
  output: Matrix;
  /** as they enter the scores; with RoPE the even channels of all heads, then the odd ones */
  keys: Matrix[];
  /** [batch, tokens], where asked for: the class token's attention, or the mean of all, averaged over the heads */
  map?: string;
}

/** Attention of the first `read` tokens over all, mixed by proj. */
export function attend(layers: Layers, i: number, stream: Stream, read: number, withMap: boolean): Attended {
  const { graph, model } = layers;
  const { manifest } = model;
  const block = manifest.blocks[i];
  const { headDims } = block;
  const at = `blocks.${i}.attn`;
  const inner = innerDim(block);
  const { tokens } = stream.x;
  const normed = layers.norm(stream.x, `blocks.${i}.norm1`);
  const turn = stream.coordinates === undefined ? undefined : rotation(layers, i, inner, stream);
  const part = (x: Matrix, k: 0 | 1, factor?: number): Matrix[] => {
    const rows: [number, number] = [k * inner, (k + 1) * inner];
    const linear = (order?: number[]) => layers.linear(x, `${at}.qkv`, { rows, order, factor });
    if (!manifest.qkNorm) return turn ? turn(halves(inner).map((order) => linear(order))) : [linear()];
    const heads = layers.normHeads(layers.linear(x, `${at}.qkv`, { rows }), `${at}.${"qk"[k]}_norm`, headDims);
    const scaled = factor ? { ...heads, name: graph.op("Mul", heads.name, graph.scalar(factor)) } : heads;
    if (!turn) return [scaled];
    const columns = (order: number[]) => graph.node("Gather", [scaled.name, graph.integers(order)], { axis: 1 });
    return turn(halves(inner).map((order) => ({ ...scaled, name: columns(order), width: inner / 2 })));
  };
  const q = part(layers.first(normed, read), 0, 1 / Math.sqrt(manifest.headDim));
  const k = part(normed, 1);
  const v = [layers.linear(normed, `${at}.qkv`, { rows: [2 * inner, 3 * inner] })];
  const { mixed, chances } = mixHeads(layers, headDims, [q, k, v], scoreBias(layers, i, stream, read));
  const output = layers.linear({ name: mixed, tokens: read, width: inner }, `${at}.proj`);
  if (!withMap) return { output, keys: k };
  const rows = manifest.classToken ? 1 : read;
  const sums = chances.map((p) => graph.reduce("ReduceSum", graph.slice(p, 0, rows, 2), [1, 2], 0));
  const total = sums.reduce((sum, one) => graph.op("Add", sum, one));
  const map = graph.op("Mul", total, graph.scalar(1 / headDims.length / rows));
  return { output, keys: k, map: graph.reshape(map, [-1, tokens]) };
}

/**
 * The even channels, then the odd ones, because RoPE turns pairs of neighbours. Scores do not depend on the order of a
 * head's channels.
 */
function halves(inner: number): number[][] {
  return [0, 1].map((odd) => Array.from({ length: inner / 2 }, (_, i) => 2 * i + odd));
}

/**
 * @param parts of q, of k and of v, each in one matrix or in two halves
 * @returns mixed [batch × read, inner], and the softmax's outputs [batch, heads, read, tokens]
 */
function mixHeads(
  { graph }: Layers,
  headDims: number[],
  parts: Matrix[][],
  bias: (head: number, heads: number) => string[],
): { mixed: string; chances: string[] } {
  const runs = headRuns(headDims);
  const inner = headDims.reduce((a, b) => a + b);
  const pieces = parts.map((halves) =>
    halves.map(({ name, width }) =>
      graph.split(
        name,
        runs.map((run) => (widthOf(run) * width) / inner),
        1,
      ),
    ),
  );
  const ofRun = (part: number, r: number, perm: number[]) => {
    const heads = runs[r].length;
    const columns = parts[part].map(({ tokens, width }, h) =>
      graph.reshape(pieces[part][h][r], [-1, tokens, heads, (runs[r][0] * width) / inner]),
    );
    return graph.transpose(graph.concat(columns, 3), perm);
  };
  const chances: string[] = [];
  let head = 0;
  const outputs = runs.map((run, r) => {
    let scores = graph.op("MatMul", ofRun(0, r, [0, 2, 1, 3]), ofRun(1, r, [0, 2, 3, 1]));
    for (const one of bias(head, run.length)) scores = graph.op("Add", scores, one);
    head += run.length;
    chances.push(graph.op("Softmax", scores));
    const values = graph.op("MatMul", chances[r], ofRun(2, r, [0, 2, 1, 3]));
    return graph.reshape(graph.transpose(values, [0, 2, 1, 3]), [-1, widthOf(run)]);
  });
  return { mixed: graph.concat(outputs, 1), chances };
}

/**
 * Gives the terms that are added to the scores of `heads` heads from `head` on, each to be broadcast to [batch, heads,
 * read, tokens].
 */
function scoreBias(layers: Layers, i: number, stream: Stream, read: number): (head: number, heads: number) => string[] {
  const { graph, model } = layers;
  const { position, prefixTokens, blocks } = model.manifest;
  const biases: string[] = [];
  if (stream.sizes) {
    const logs = graph.reshape(graph.op("Log", stream.sizes()), [-1, 1, 1, stream.x.tokens - prefixTokens]);
    biases.push(graph.narrow(graph.pad(logs, 4, 3, [prefixTokens, 0])));
  }
  if (position !== "relative") return () => biases;
  const table = layers.values(`blocks.${i}.attn.rel_bias`);
  const heads = blocks[i].headDims.length;
  const name = graph.floats(`blocks.${i}.attn.rel_bias`, table, [heads, table.length / heads]);
  const indices = graph.integers(relativeIndices(model.manifest, stream.alive, read), [read, stream.alive.length]);
  const all = graph.node("Gather", [name, indices], { axis: 1 });
  return (head, count) => [...biases, count === heads ? all : graph.slice(all, head, head + count, 0)];
}

/** [read, tokens]: the column of the table that src/reference/positions.ts takes. */
function relativeIndices(arch: Architecture, alive: number[], read: number): number[] {
  const [rows, columns] = patchGrid(arch);
  const places = (2 * rows - 1) * (2 * columns - 1);
  const patches = alive.map((token) => token - arch.prefixTokens);
  return patches.slice(0, read).flatMap((from) =>
    patches.map((to) => {
      if (from < 0) return places + (to < 0 ? 2 : 0);
      if (to < 0) return places + 1;
      const down = Math.floor(from / columns) - Math.floor(to / columns) + rows - 1;
      return down * (2 * columns - 1) + (from % columns) - (to % columns) + columns - 1;
    }),
  );
}

/**
 * Turns pairs of channels by the angle of their token's place; prefix tokens lie at 0, 0, where nothing is turned. Angles
 * are in f32, as f16 would be a hundredth off at 16.
 */
function rotation(layers: Layers, i: number, inner: number, stream: Stream): (halves: Matrix[]) => Matrix[] {
  const { graph, model } = layers;
  const key = `blocks.${i}.attn.rope_freqs`;
  const frequencies = graph.wideFloats(key, layers.values(key), [2, inner / 2]);
  const places = graph.pad(stream.coordinates!(), 3, 1, [model.manifest.prefixTokens, 0]);
  const angles = graph.op("MatMul", places, frequencies);
  const [cos, sin] = ["Cos", "Sin"].map((op) => graph.narrow(graph.op(op, angles)));
  return (halves) => {
    const { tokens } = halves[0];
    const [a, b] = halves.map((half) => layers.pictures(half));
    const times = (x: string, factor: string) =>
      graph.op("Mul", x, tokens === stream.x.tokens ? factor : graph.slice(factor, 0, tokens, 1));
    const turned = [graph.op("Sub", times(a, cos), times(b, sin)), graph.op("Add", times(a, sin), times(b, cos))];
    return turned.map((name) => layers.matrix(name, tokens, inner / 2));
  };
}
