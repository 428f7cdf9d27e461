/** Moves a network to another image size: position embeddings, keep-lists and merges are resampled to the new patch grid. */
import { SlimViTError } from "../../src/errors.ts";
import { LIMITS } from "../../src/format/limits.ts";
import {
  denseTokens,
  type Manifest,
  type Model,
  type Preprocess,
  patchGrid,
  type Tensors,
  tokenCounts,
} from "../../src/format/model.ts";
import { float32 } from "../../src/format/read.ts";

/** @throws SlimViTError `bad-option` for a size that is no multiple of the patch size */
export function resizeModel(model: Model, imageSize: [number, number]): Model {
  const { manifest } = model;
  const { prefixTokens } = manifest;
  const resized = resizedManifest(manifest, imageSize);
  if (resized === manifest) return model;
  const [from, to] = [patchGrid(manifest), patchGrid(resized)];
  const tensors: Tensors = new Map(model.tensors);
  const position = resamplePositions(float32(tensors, "pos_embed"), from, to, prefixTokens, manifest.embedDim);
  tensors.set("pos_embed", { dtype: "F32", shape: [1, denseTokens(resized), manifest.embedDim], data: position });
  if (manifest.position === "relative") {
    resized.blocks.forEach(({ headDims }, i) => {
      const key = `blocks.${i}.attn.rel_bias`;
      const data = resampleBias(float32(tensors, key), headDims.length, from, to);
      tensors.set(key, {
        dtype: "F32",
        shape: [headDims.length, headDims.length ? data.length / headDims.length : 0],
        data,
      });
    });
  }
  return { ...model, manifest: resized, tensors };
}

/**
 * The description of the resized network, without its tensors.
 *
 * @throws SlimViTError `bad-option` for a size that is no multiple of the patch size, or has more patches than the format allows
 */
export function resizedManifest<M extends Manifest>(manifest: M, imageSize: [number, number]): M {
  const { patchSize, prefixTokens, preprocess } = manifest;
  if (imageSize.join() === manifest.imageSize.join()) return manifest;
  const fault = sizeFault(imageSize, patchSize);
  if (fault) throw new SlimViTError("bad-option", `An ${fault}`);
  const resized = {
    ...manifest,
    imageSize,
    preprocess: {
      ...preprocess,
      crop: imageSize,
      resize: grown(preprocess.resize, manifest.imageSize, imageSize),
    },
  };
  const [from, to] = [patchGrid(manifest), patchGrid(resized)];
  const blocks = manifest.blocks.map((block) => ({
    ...block,
    keepIdx: resampleKeepIdx(block.keepIdx, from, to, prefixTokens),
  }));
  const rope = manifest.rope && {
    rows: stretched(manifest.rope.rows, from[0], to[0]),
    columns: stretched(manifest.rope.columns, from[1], to[1]),
  };
  return { ...resized, blocks: withShareOfMerges(blocks, manifest), ...(rope && { rope }) };
}

/** @returns what is wrong with pictures of this size, as the end of a sentence */
export function sizeFault([height, width]: [number, number], patch: number): string | undefined {
  const image = `image of ${height}×${width} px`;
  if ([height, width].some((side) => side < patch || side % patch))
    return `${image} does not divide into patches of ${patch} px.`;
  if (Math.max(height, width) > LIMITS.imageSize)
    return `${image} is too large; expected at most ${LIMITS.imageSize} px.`;
  const patches = (height / patch) * (width / patch);
  const most = LIMITS.tokens - LIMITS.prefixTokens;
  return patches > most ? `${image} has ${patches} patches of ${patch} px; expected at most ${most}.` : undefined;
}

/** Each block merges the same share of its patches as before. */
function withShareOfMerges(blocks: Manifest["blocks"], before: Manifest): Manifest["blocks"] {
  const patches = tokenCounts(before).map(({ entering }) => entering - before.prefixTokens);
  const out = blocks.map((block) => ({ ...block, merge: 0 }));
  out.forEach((block, i) => {
    const now = tokenCounts({ blocks: out })[i].entering - before.prefixTokens;
    const { merge } = before.blocks[i];
    block.merge = merge ? Math.min(Math.round((merge * now) / patches[i]), Math.floor(now / 2)) : 0;
  });
  return out;
}

/** Coordinates of patches that lie over the same part of the picture, at their centres. */
function stretched([start, step]: [number, number], from: number, to: number): [number, number] {
  return [start + step * ((0.5 * from) / to - 0.5), (step * from) / to];
}

/** The size that pictures are resized to, scaled in proportion. */
function grown(resize: Preprocess["resize"], from: [number, number], to: [number, number]): Preprocess["resize"] {
  if (typeof resize === "number") return Math.max(Math.round((resize * Math.min(...to)) / Math.min(...from)), ...to);
  return resize.map((side, k) => Math.round((side * to[k]) / from[k])) as [number, number];
}

type Grid = [rows: number, columns: number];

/** A new patch is kept where the old patch under its centre was, so nested lists stay nested. */
export function resampleKeepIdx(keepIdx: number[], from: Grid, to: Grid, prefixTokens: number): number[] {
  const kept = new Set(keepIdx);
  const out = Array.from({ length: prefixTokens }, (_, token) => token);
  for (let r = 0; r < to[0]; r++) {
    for (let c = 0; c < to[1]; c++) {
      const row = Math.floor(((r + 0.5) * from[0]) / to[0]);
      const column = Math.floor(((c + 0.5) * from[1]) / to[1]);
      if (kept.has(prefixTokens + row * from[1] + column)) out.push(prefixTokens + r * to[1] + c);
    }
  }
  return out;
}

/** How values on a grid are resampled; the names are PyTorch's. */
export interface Resampling {
  filter: "bicubic" | "bilinear";
  /** When scaling down, the filter is as many times wider. */
  antialias: boolean;
  /** The outermost values stay where they are. */
  alignCorners: boolean;
  /** An oblong grid is the top left of a square one, so that a patch's step is the same along both axes. */
  fromSquare?: boolean;
}

const USUAL: Resampling = { filter: "bicubic", antialias: true, alignCorners: false };

/** Antialiased bicubic (a = −0.5) over the grid by default. Prefix tokens' embeddings are passed through. */
export function resamplePositions(
  position: Float32Array,
  from: Grid,
  to: Grid,
  prefixTokens: number,
  dim: number,
  how: Resampling = USUAL,
): Float32Array {
  const out = new Float32Array((prefixTokens + to[0] * to[1]) * dim);
  out.set(position.subarray(0, prefixTokens * dim));
  const [down, across] = [0, 1].map((axis) =>
    taps(from[axis], how.fromSquare ? Math.max(...to) : to[axis], how).slice(0, to[axis]),
  );
  down.forEach((rows, r) => {
    across.forEach((columns, c) => {
      const at = (prefixTokens + r * to[1] + c) * dim;
      for (const [row, rowWeight] of rows) {
        for (const [column, columnWeight] of columns) {
          const source = (prefixTokens + row * from[1] + column) * dim;
          for (let d = 0; d < dim; d++) out[at + d] += rowWeight * columnWeight * position[source + d];
        }
      }
    });
  });
  return out;
}

/** For each output position, the inputs that it mixes and their weights, which sum to 1. */
function taps(from: number, to: number, { filter, antialias, alignCorners }: Resampling): [number, number][][] {
  const scale = alignCorners && to > 1 ? (from - 1) / (to - 1) : from / to;
  const stretch = antialias ? Math.max(1, scale) : 1;
  const reach = (filter === "bicubic" ? 2 : 1) * stretch;
  const weigh = filter === "bicubic" ? cubic : (x: number) => Math.max(0, 1 - Math.abs(x));
  return Array.from({ length: to }, (_, k) => {
    const centre = alignCorners && !antialias ? k * scale + 0.5 : (k + 0.5) * scale;
    const list: [number, number][] = [];
    for (let i = Math.max(0, Math.floor(centre - reach)); i < Math.min(from, Math.ceil(centre + reach)); i++) {
      const weight = weigh((i + 0.5 - centre) / stretch);
      if (weight !== 0) list.push([i, weight]);
    }
    const total = list.reduce((sum, [, weight]) => sum + weight, 0);
    return list.map(([i, weight]) => [i, weight / total]);
  });
}

/** The resampling as a matrix: [from, to], row-major. */
export function resampleMatrix(from: number, to: number): Float32Array {
  const matrix = new Float32Array(from * to);
  taps(from, to, USUAL).forEach((list, k) => {
    for (const [i, weight] of list) matrix[i * to + k] = weight;
  });
  return matrix;
}

function cubic(x: number): number {
  const a = -0.5;
  const t = Math.abs(x);
  if (t < 1) return (a + 2) * t ** 3 - (a + 3) * t ** 2 + 1;
  return t < 2 ? a * t ** 3 - 5 * a * t ** 2 + 8 * a * t - 4 * a : 0;
}

/** Entries of a table of relative positions that are for prefix tokens. */
export const PREFIX_ENTRIES = 3;

/** Entries of a table of relative positions between patches. */
export const tableLength = ([rows, columns]: Grid): number => (2 * rows - 1) * (2 * columns - 1);

/** Antialiased bicubic over the plane of differences. @param bias [heads, places + 3] */
export function resampleBias(bias: Float32Array, heads: number, from: Grid, to: Grid): Float32Array {
  const [places, wanted] = [tableLength(from), tableLength(to)];
  const out = new Float32Array(heads * (wanted + PREFIX_ENTRIES));
  for (let head = 0; head < heads; head++) {
    const own = bias.subarray(head * (places + PREFIX_ENTRIES), (head + 1) * (places + PREFIX_ENTRIES));
    const plane = resamplePlane(own.subarray(0, places), doubled(from), doubled(to));
    out.set(plane, head * (wanted + PREFIX_ENTRIES));
    out.set(own.subarray(places), head * (wanted + PREFIX_ENTRIES) + wanted);
  }
  return out;
}

const doubled = ([rows, columns]: Grid): Grid => [2 * rows - 1, 2 * columns - 1];

/** @param values [rows, columns] */
function resamplePlane(values: Float32Array, from: Grid, to: Grid): Float32Array {
  const [down, across] = [taps(from[0], to[0], USUAL), taps(from[1], to[1], USUAL)];
  const out = new Float32Array(to[0] * to[1]);
  down.forEach((rows, r) => {
    across.forEach((columns, c) => {
      let sum = 0;
      for (const [row, rowWeight] of rows)
        for (const [column, columnWeight] of columns) sum += rowWeight * columnWeight * values[row * from[1] + column];
      out[r * to[1] + c] = sum;
    });
  });
  return out;
}
