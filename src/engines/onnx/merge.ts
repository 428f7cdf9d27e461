/** Merging tokens: the computation of src/reference/merge.ts as products with matrices of ones and zeros. */
import type { MergePairs } from "../../reference/merge.ts";
import { FLOAT, type Graph } from "./builder.ts";
import type { Layers, Matrix } from "./layers.ts";
import type { Stream } from "./stream.ts";

/** The rows of a block's patches that form A and those that form B, as in src/reference/merge.ts. */
export function halvesOf(tokens: number, prefixTokens: number): [a: number[], b: number[]] {
  const every = (first: number) =>
    Array.from({ length: Math.ceil(Math.max(0, tokens - first) / 2) }, (_, k) => first + 2 * k);
  return [every(prefixTokens + 1), every(prefixTokens)];
}

/**
 * Merges tokens as src/reference/merge.ts does, but without a sort: a pair's rank is the number of pairs that are more
 * similar. All is in f32, because the choice depends on the last bits of the similarities.
 *
 * @param keys [tokens, inner] side by side
 * @param forced pairs that merge instead of the most similar ones
 * @returns the stream after the merge; target [batch, 1, A]: for each row of A the row of B that it merges into, −1
 * where it stays
 */
export function mergeTokens(
  layers: Layers,
  stream: Stream,
  keys: Matrix[],
  count: number,
  forced?: MergePairs,
): { stream: Stream; target: string } {
  const { graph } = layers;
  const { prefixTokens } = layers.model.manifest;
  const { tokens, width } = stream.x;
  const [inA, inB] = halvesOf(tokens, prefixTokens);
  const target = forced ? forcedTarget(graph, forced, inA, inB) : chooseTarget(layers, keys, inA, inB, count);
  const matrices = mergeMatrices(graph, target, inA.length, inB.length, count);
  const patches = tokens - prefixTokens;
  const sizes =
    stream.sizes?.() ?? graph.wideFloats(`each of ${patches}`, new Float32Array(patches).fill(1), [1, patches, 1]);
  const merge = merger(graph, matrices, sizes, inA, inB, prefixTokens);
  const x = graph.narrow(merge.mean(graph.widen(layers.pictures(stream.x)), prefixTokens));
  return {
    target,
    stream: {
      x: layers.matrix(x, tokens - count, width),
      alive: stream.alive,
      sizes: once(merge.sizes),
      coordinates: stream.coordinates && once(() => merge.mean(stream.coordinates!(), 0)),
    },
  };
}

/** The most similar pairs. Among equals the lower row of B and the lower row of A win. */
function chooseTarget(layers: Layers, keys: Matrix[], inA: number[], inB: number[], count: number): string {
  const { graph } = layers;
  const sideBySide = keys.map((part) => layers.pictures(part));
  const unit = layers.unit(graph.widen(graph.concat(sideBySide, 2)), 2);
  const alike = graph.op("MatMul", graph.pick(unit, inA, 1), graph.transpose(graph.pick(unit, inB, 1), [0, 2, 1]));
  const best = graph.reduce("ReduceMax", alike, [2]); // [batch, A, 1]
  const isBest = graph.op("Equal", alike, best);
  const ofB = graph.op("Where", isBest, numbers(graph, inB.length, [1, 1, inB.length]), graph.wideScalar(inB.length));
  const partner = graph.reduce("ReduceMin", ofB, [2]);

  const other = graph.transpose(best, [0, 2, 1]);
  const earlier = graph.op("Mul", graph.truth("Equal", other, best), triangle(graph, inA.length, "below"));
  const rank = graph.reduce("ReduceSum", graph.op("Add", graph.truth("Greater", other, best), earlier), [2]);
  const stays = graph.op("Greater", rank, graph.wideScalar(count - 0.5));
  return graph.transpose(graph.op("Where", stays, graph.wideScalar(-1), partner), [0, 2, 1]);
}

function forcedTarget(graph: Graph, pairs: MergePairs, inA: number[], inB: number[]): string {
  const partner = new Map(pairs);
  const values = inA.map((a) => (partner.has(a) ? inB.indexOf(partner.get(a)!) : -1));
  return graph.wideFloats(graph.fresh(), Float32Array.from(values), [1, 1, values.length]);
}

interface MergeMatrices {
  /** [batch, A − count, A]: which row of A stays where; absent where none does */
  staying?: string;
  /** [batch, B, A]: which row of A goes into which of B */
  going: string;
}

/** Matrices of ones and zeros that move the rows of A. */
function mergeMatrices(graph: Graph, target: string, a: number, b: number, count: number): MergeMatrices {
  const going = graph.truth("Equal", target, numbers(graph, b, [1, b, 1]));
  if (a === count) return { going };
  const goes = graph.op("Greater", target, graph.wideScalar(-0.5));
  const stays = graph.op("Sub", graph.wideScalar(1), graph.node("Cast", [goes], { to: FLOAT }));
  const place = graph.op("MatMul", stays, triangle(graph, a, "above"));
  const ofStaying = graph.op("Where", goes, graph.wideScalar(-1), place);
  return { going, staying: graph.truth("Equal", ofStaying, numbers(graph, a - count, [1, a - count, 1])) };
}

/** @param sizes [batch or 1, patches, 1] */
function merger(
  graph: Graph,
  { staying, going }: MergeMatrices,
  sizes: string,
  inA: number[],
  inB: number[],
  prefixTokens: number,
) {
  const rowsOf = (x: string, rows: number[], prefix: number) =>
    graph.pick(
      x,
      rows.map((row) => row - prefixTokens + prefix),
      1,
    );
  const [sizesA, sizesB] = [inA, inB].map((rows) => rowsOf(sizes, rows, 0));
  const total = graph.op("Add", sizesB, graph.op("MatMul", going, sizesA));
  const stay = (x: string) => (staying ? [graph.op("MatMul", staying, x)] : []);
  return {
    /** Prefix tokens, then those of A that are left, then B. */
    mean(x: string, prefix: number): string {
      const [a, b] = [inA, inB].map((rows) => rowsOf(x, rows, prefix));
      const sum = graph.op("Add", graph.op("Mul", b, sizesB), graph.op("MatMul", going, graph.op("Mul", a, sizesA)));
      const before = prefix ? [graph.slice(x, 0, prefix, 1)] : [];
      return graph.concat([...before, ...stay(a), graph.op("Div", sum, total)], 1);
    },
    sizes: () => graph.concat([...stay(sizesA), total], 1),
  };
}

/** Writes the nodes when their value is first read, because the last merge's sizes may never be read. */
function once(write: () => string): () => string {
  let written: string | undefined;
  return () => {
    written ??= write();
    return written;
  };
}

/** 0, 1, 2, … */
function numbers(graph: Graph, count: number, shape: number[]): string {
  return graph.wideFloats(
    `numbers ${shape}`,
    Float32Array.from({ length: count }, (_, k) => k),
    shape,
  );
}

/** [n, n] of ones on one side of the diagonal, and zeros. */
function triangle(graph: Graph, n: number, side: "below" | "above"): string {
  const values = Float32Array.from({ length: n * n }, (_, k) => {
    const [row, column] = [Math.floor(k / n), k % n];
    return Number(side === "below" ? column < row : column > row);
  });
  return graph.wideFloats(`ones ${side} the diagonal of ${n}`, values, [n, n]);
}
