/** The synthetic networks that `slimvit profile` times: a block for every point of its tables. */
import {
  type Architecture,
  type BlockShape,
  denseTokens,
  type Manifest,
  PLAIN,
  type Tensors,
  tensorShapes,
  type WeightsDtype,
} from "../../src/format/model.ts";
import { singleVariant } from "../../src/format/variants.ts";
import { encodeTensors, manifestJson, writeWeights } from "../../src/format/write.ts";
import { architectureOf, manifestText, sha256, writeFolder } from "../models/folders.ts";
import { random } from "../shared/random.ts";

export const DEIT_TINY: DenseShape = {
  ...PLAIN,
  imageSize: [224, 224],
  patchSize: 16,
  embedDim: 192,
  headDim: 64,
  layerNormEps: 1e-6,
  prefixTokens: 1,
  heads: 3,
  mlpHidden: 768,
  classes: 1000,
  depth: 12,
};

export interface DenseShape extends Omit<Architecture, "blocks"> {
  heads: number;
  mlpHidden: number;
  classes: number;
  depth: number;
}

/** Points of the tables, as shares of the dense width and sequence. */
const SHARES = [0.08, 0.25, 0.5, 0.75, 1];

export function denseShape(manifest: Manifest): DenseShape {
  const { blocks: _, ...shape } = architectureOf(manifest);
  const dense = (manifest.provenance.dense ?? {}) as { heads?: number; mlpHidden?: number[] };
  return {
    ...shape,
    heads: dense.heads ?? Math.max(...manifest.blocks.map((b) => b.headDims.length)),
    mlpHidden: Math.max(...(dense.mlpHidden ?? manifest.blocks.map((b) => b.mlpHidden))),
    classes: manifest.labels.length,
    depth: manifest.blocks.length,
  };
}

export interface Grid {
  tokens: number[];
  /** of each head */
  widths: number[];
  units: number[];
}

export function gridOf(shape: DenseShape): Grid {
  const points = (dense: number, least: number, step: number) => {
    const at = (share: number) =>
      share === 1 ? dense : Math.min(dense, Math.max(least, step * Math.round((share * dense) / step)));
    return [...new Set(SHARES.map(at))].sort((a, b) => a - b);
  };
  const all = denseTokens({ ...shape, blocks: [] });
  return {
    tokens: [...new Set([shape.prefixTokens, ...points(all, shape.prefixTokens + 1, 1)])],
    widths: points(shape.headDim, 8, 8),
    units: points(shape.mlpHidden, 8, 8),
  };
}

/** The numbers of tokens at which a last block is measured. */
export function lastTokens({ tokens }: Grid): number[] {
  return [...new Set([tokens[Math.min(2, tokens.length - 1)], tokens[tokens.length >> 1], tokens.at(-1)!])];
}

/** All networks that are timed: the tables' points, two of the usual depth, and for each number of tokens two last blocks. */
export function networksOf(shape: DenseShape, grid: Grid): BlockShape[][] {
  const lasts = lastTokens(grid);
  return [
    tableBlocks(shape, grid),
    deep(shape, grid.tokens.at(-1)!),
    deep(shape, lasts[0]),
    ...lasts.flatMap((n) => [lastBlock(shape, n, 0), lastBlock(shape, n, shape.heads)]),
  ];
}

/**
 * The blocks to time for every number of tokens, most first so that keep-lists nest: an empty block, once as tokens
 * drop and once after; all heads of each width; one head; an MLP of each width.
 */
function tableBlocks(shape: DenseShape, { tokens, widths, units }: Grid): BlockShape[] {
  const block = (keepIdx: number[], headDims: number[] = [], mlpHidden = 0) => ({
    headDims,
    mlpHidden,
    keepIdx,
    merge: 0,
  });
  const points = [...tokens].reverse().flatMap((n) => {
    const keepIdx = firstTokens(n);
    return [
      block(keepIdx),
      block(keepIdx),
      ...widths.map((width) => block(keepIdx, Array(shape.heads).fill(width))),
      block(keepIdx, [shape.headDim]),
      ...units.map((mlpHidden) => block(keepIdx, [], mlpHidden)),
    ];
  });
  return [...points, block(firstTokens(tokens[0]))]; // the last is not like the others
}

/** The blocks of a network of the usual depth, so that the time outside of its blocks is as large as in real ones. */
function deep({ heads, headDim, mlpHidden, depth }: DenseShape, tokens: number): BlockShape[] {
  const block = { headDims: Array(heads).fill(headDim), mlpHidden, keepIdx: firstTokens(tokens), merge: 0 };
  return Array(depth).fill(block);
}

/** An empty block, then one with attention as the last. */
function lastBlock({ headDim }: DenseShape, tokens: number, heads: number): BlockShape[] {
  const keepIdx = firstTokens(tokens);
  return [
    { headDims: [], mlpHidden: 0, keepIdx, merge: 0 },
    { headDims: Array(heads).fill(headDim), mlpHidden: 0, keepIdx, merge: 0 },
  ];
}

const firstTokens = (n: number) => Array.from({ length: n }, (_, token) => token);

/**
 * Small random weights, whose values do not change the time. The model has no known logits, because nothing reads them.
 */
export function writeSynthetic(folder: string, shape: DenseShape, blocks: BlockShape[], dtype: WeightsDtype): void {
  const { heads: _, mlpHidden: __, depth: ___, classes, ...rest } = shape;
  const arch: Architecture = { ...rest, blocks };
  const rng = random(1);
  const noise = Float32Array.from({ length: 1 << 16 }, () => (rng() - 0.5) * 0.05);
  const tensors: Tensors = new Map();
  for (const [name, dims] of tensorShapes(arch, classes)) {
    const isNorm = name.includes("norm") && name.endsWith("weight");
    const data = Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, (_, i) =>
      isNorm ? 1 : noise[i & 0xffff],
    );
    tensors.set(name, { dtype: "F32", shape: dims, data });
  }
  const bytes = writeWeights(encodeTensors(tensors, dtype));
  const file = `model.${dtype}.safetensors`;
  const manifest = singleVariant({
    name: "synthetic",
    license: "CC0-1.0",
    ...arch,
    preprocess: {
      resize: Math.max(...arch.imageSize),
      crop: arch.imageSize,
      interpolation: "bilinear",
      mean: [0.5, 0.5, 0.5],
      std: [0.5, 0.5, 0.5],
    },
    labels: Array.from({ length: classes }, (_, k) => ({ id: String(k), label: String(k) })),
    weights: [{ dtype, file, bytes: bytes.length, sha256: sha256(bytes) }],
    provenance: {},
    metrics: {},
  });
  writeFolder(folder, { [file]: bytes, "slimvit.json": manifestText(manifestJson(manifest)) });
}
