/** Rotary and relative positions in the form of the format: tables of each block, and coordinates of the grid. */
import type { RopeGrid } from "../../src/format/model.ts";
import type { RopeRule } from "./description.ts";
import { PREFIX_ENTRIES, resampleBias, tableLength } from "./resize.ts";
import type { Weights } from "./weights.ts";

type Grid = [rows: number, columns: number];

/** NaFlexViT's learned positions of rows and of columns, [1, rows, dim] and [1, columns, dim]: a patch has the sum of its two. */
export function joinAxes(weights: Weights): void {
  if (!weights.has("pos_embed.x") || !weights.has("pos_embed.y")) return;
  const [x, y] = [weights.take("pos_embed.x"), weights.take("pos_embed.y")];
  const [, columns, dim] = x.shape;
  const rows = y.shape[1];
  const sums = Float32Array.from({ length: rows * columns * dim }, (_, k) => {
    const row = Math.floor(k / (columns * dim));
    return y.data[row * dim + (k % dim)] + x.data[k % (columns * dim)];
  });
  weights.put("pos_embed", [1, rows, columns, dim], sums);
}

/** Where the rows and columns of a grid lie. */
export function ropeGrid(rule: RopeRule, grid: Grid): RopeGrid {
  const axis = (patches: number, reference: number | undefined): [number, number] => {
    if (rule.grid === "centred") return [(1 + 2 * rule.offset) / patches - 1, 2 / patches];
    const step = reference === undefined ? 1 : reference / patches;
    return [rule.offset * step, step];
  };
  return { rows: axis(grid[0], rule.reference?.[0]), columns: axis(grid[1], rule.reference?.[1]) };
}

/** [2, headDim / 2]: how fast each pair of a head turns along rows and along columns. */
export function ropeFrequencies(rule: RopeRule, headDim: number): Float32Array {
  const bands = headDim / 4;
  const pairs = headDim / 2;
  const out = new Float32Array(2 * pairs);
  const turn = rule.grid === "centred" ? 2 * Math.PI : 1;
  for (let band = 0; band < bands; band++) {
    const frequency = turn / rule.temperature ** (band / bands);
    const [rowPair, columnPair] = rule.columnsFirst ? [bands + band, band] : [band, bands + band];
    out[rowPair] = frequency;
    out[pairs + columnPair] = frequency;
  }
  return out;
}

/**
 * Learned frequencies of one block.
 * @param freqs [2, depth, heads, headDim / 2]
 * @returns [2, heads × headDim / 2], rows first
 */
export function mixedFrequencies(
  freqs: Float32Array,
  depth: number,
  block: number,
  columnsFirst: boolean,
): Float32Array {
  const width = freqs.length / 2 / depth;
  const of = (axis: number) => freqs.subarray((axis * depth + block) * width, (axis * depth + block + 1) * width);
  const out = new Float32Array(2 * width);
  out.set(of(columnsFirst ? 1 : 0));
  out.set(of(columnsFirst ? 0 : 1), width);
  return out;
}

/**
 * A learned table, transposed.
 * @param table [positions, or positions and three for the class token; heads]
 * @returns [heads, positions + 3]
 */
export function relativeTable(table: Float32Array, heads: number, from: Grid, to: Grid): Float32Array {
  const entries = table.length / heads;
  const places = tableLength(from);
  const all = places + PREFIX_ENTRIES;
  const out = new Float32Array(heads * all);
  for (let head = 0; head < heads; head++) {
    for (let k = 0; k < entries; k++) out[head * all + k] = table[k * heads + head];
  }
  return from.join() === to.join() ? out : resampleBias(out, heads, from, to);
}

/**
 * timm's RelPosMlp: an MLP over the logarithms of the differences, which is constant once it is trained. Prefix tokens have no bias.
 * @param name of the MLP's two linears
 * @returns [heads, positions + 3]
 */
export function relativeTableOfMlp(weights: Weights, name: string, heads: number, grid: Grid): Float32Array {
  const fc1 = weights.take(`${name}.fc1.weight`);
  const hidden = fc1.shape[0];
  const fc1Bias = weights.takeOrZeros(`${name}.fc1.bias`, [hidden]);
  const fc2 = weights.take(`${name}.fc2.weight`, [heads, hidden]).data;
  const fc2Bias = weights.takeOrZeros(`${name}.fc2.bias`, [heads]);
  const [rows, columns] = grid;
  const places = tableLength(grid);
  const out = new Float32Array(heads * (places + PREFIX_ENTRIES));
  const log = (x: number) => Math.sign(x) * Math.log(1 + Math.abs(x));
  for (let r = 0; r < 2 * rows - 1; r++) {
    for (let c = 0; c < 2 * columns - 1; c++) {
      const [down, across] = [log(r - rows + 1), log(c - columns + 1)];
      const units = Float64Array.from({ length: hidden }, (_, u) =>
        Math.max(0, fc1.data[2 * u] * down + fc1.data[2 * u + 1] * across + fc1Bias[u]),
      );
      for (let head = 0; head < heads; head++) {
        let sum = fc2Bias[head];
        for (let u = 0; u < hidden; u++) sum += fc2[head * hidden + u] * units[u];
        out[head * (places + PREFIX_ENTRIES) + r * (2 * columns - 1) + c] = sum;
      }
    }
  }
  return out;
}
