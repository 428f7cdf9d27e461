/** The tokens between two blocks, and how tokens are dropped or merged. */
import type { Architecture, BlockShape } from "../../format/model.ts";
import { ropeCoordinates } from "../../reference/positions.ts";
import type { GraphBuilder } from "./builder.ts";
import type { Layers } from "./layers.ts";

export interface Stream {
  /** [tokens, embedDim] */
  x: MLOperand;
  /** Tokens that are represented, as in keepIdx. */
  alive: number[];
  /** [1, tokens], after a merge: patches that each row stands for. */
  sizes?: MLOperand;
  /** [tokens, 2], with RoPE: row and column in the network's own coordinates. */
  coordinates?: MLOperand;
}

/** Gathers the rows of the tokens in `keepIdx`, a subset of those alive. Lists do not shrink after a merge. */
export function keepTokens(graph: GraphBuilder, arch: Architecture, stream: Stream, keepIdx: number[]): Stream {
  if (keepIdx.length === stream.alive.length) return stream;
  const row = new Map(stream.alive.map((token, k) => [token, k]));
  const kept = keepIdx.map((token) => row.get(token)!);
  return { x: graph.rows(stream.x, kept), alive: keepIdx, coordinates: coordinatesOf(graph, arch, keepIdx) };
}

/** undefined without RoPE. A prefix token lies at 0, 0, where nothing is turned. */
export function coordinatesOf(graph: GraphBuilder, arch: Architecture, keepIdx: number[]): MLOperand | undefined {
  if (arch.position !== "rope") return undefined;
  const values = () => Float32Array.from(ropeCoordinates(arch, keepIdx));
  return graph.floats(`coordinates ${keepIdx.length}`, [keepIdx.length, 2], values);
}

/**
 * Merges tokens as src/reference/merge.ts does, but without a sort: a pair's rank is the number of pairs that are more
 * similar. A matrix, [rows after, rows before], says which rows merge.
 *
 * @param keys [tokens, inner], as they enter the scores
 * @returns the stream after the merge, and for each row before it, its row after: [1, rows before]
 */
export function mergeTokens(
  layers: Layers,
  stream: Stream,
  keys: MLOperand,
  { merge }: BlockShape,
): { stream: Stream; rows: MLOperand } {
  const { graph } = layers;
  const { prefixTokens: p } = layers.model.manifest;
  const [n] = stream.x.shape;
  const [inA, inB] = halves(n, p);
  const [a, b] = [inA.length, inB.length];
  const unit = layers.unit(keys);
  const turned = graph.transpose(graph.rows(unit, inB), [1, 0]);
  const alike = graph.op("matmul", graph.rows(unit, inA), turned);
  const best = graph.op("reduceMax", alike, { axes: [1], keepDimensions: true });
  const partner = graph.op("cast", graph.reshape(graph.op("argMax", alike, 1), [a, 1]), graph.type);

  const other = graph.transpose(best, [1, 0]);
  const number = (truth: MLOperand) => graph.op("cast", truth, graph.type);
  const sum = (x: MLOperand) => graph.sum(x, 1);
  // [i, j] of `before` is 1 where j < i: of equally similar pairs the lower comes first.
  const before = graph.floats(`before ${a}`, [a, a], () =>
    Float32Array.from({ length: a * a }, (_, k) => Number(k % a < Math.floor(k / a))),
  );
  const isMore = number(graph.op("greater", other, best));
  const isEarlier = graph.op("mul", number(graph.op("equal", other, best)), before);
  const rank = sum(graph.op("add", isMore, isEarlier));
  const stays = number(graph.op("greater", rank, graph.scalar(merge - 0.5))); // [a, 1]
  const goes = graph.op("sub", graph.scalar(1), stays);
  const staying = graph.op("add", graph.op("matmul", before, stays), graph.scalar(p));
  const going = graph.op("add", partner, graph.scalar(p + a - merge));
  const ofA = graph.op("add", graph.op("mul", stays, staying), graph.op("mul", goes, going));

  const count = (first: number, length: number) =>
    graph.floats(`count ${first} ${length}`, [length, 1], () => Float32Array.from({ length }, (_, k) => first + k));
  const rowsByPart = graph.concat([...(p ? [count(0, p)] : []), ofA, count(p + a - merge, b)], 0);
  const places: number[] = [];
  for (const [k, row] of [...Array(p).keys(), ...inA, ...inB].entries()) places[row] = k;
  const rows = graph.transpose(graph.rows(rowsByPart, places), [1, 0]);
  let share = number(graph.op("equal", rows, count(0, n - merge)));
  if (stream.sizes) share = graph.op("mul", share, stream.sizes);
  const total = sum(share);
  const mean = (x: MLOperand) => graph.op("div", graph.op("matmul", share, x), total);
  return {
    rows,
    stream: {
      x: mean(stream.x),
      alive: stream.alive,
      sizes: graph.reshape(total, [1, n - merge]),
      coordinates: stream.coordinates && mean(stream.coordinates),
    },
  };
}

/** Rows that are A and those that are B, of so many tokens. */
export function halves(tokens: number, prefixTokens: number): [a: number[], b: number[]] {
  const every = (first: number) =>
    Array.from({ length: Math.ceil(Math.max(0, tokens - first) / 2) }, (_, k) => first + 2 * k);
  return [every(prefixTokens + 1), every(prefixTokens)];
}
