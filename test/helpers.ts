/** Models to test with, and comparisons whose failure names the worst element. */
import { readFileSync } from "node:fs";
import fc from "fast-check";
import {
  type Architecture,
  type BlockShape,
  type Manifest,
  type Model,
  type PlainArchitecture,
  plainArchitecture,
  type Tensors,
  tensorShapes,
} from "../src/format/model.ts";
import { readSafetensors } from "../src/format/safetensors.ts";
import { singleVariant } from "../src/format/variants.ts";

export const CLASSES = 5;

/** Uniform in ±1 from `seed`: mulberry32. */
export function randomValues(count: number, seed: number): Float32Array {
  let state = seed >>> 0;
  return Float32Array.from({ length: count }, () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 31 - 1;
  });
}

/** [3, height, width] */
export function randomPixels({ imageSize: [height, width] }: Architecture, seed: number): Float32Array {
  return randomValues(3 * height * width, seed).map((v) => 2 * v);
}

/** Random weights of a size that keeps activations near 1, so that every part of the network moves the logits. */
export function randomModel(sizes: PlainArchitecture, seed: number, classes = CLASSES): Model {
  const arch = plainArchitecture(sizes);
  const tensors: Tensors = new Map();
  let next = seed;
  for (const [key, shape] of tensorShapes(arch, classes)) {
    const count = shape.reduce((a, b) => a * b, 1);
    const fanIn = shape.length > 1 ? count / shape[0] : 1;
    const isGain = /norm(\d|_pre)?\.weight$/.test(key);
    const size = isGain ? 0.5 : shape.length > 1 ? Math.sqrt(3 / Math.max(1, fanIn)) : 0.5;
    const data = randomValues(count, next++).map((v) => (isGain ? 1 : 0) + size * v);
    tensors.set(key, { dtype: "F32", shape, data });
  }
  for (const key of ["cls_token", "dist_token", "reg_token", "pos_embed"]) {
    const tensor = tensors.get(key);
    if (tensor) tensor.data = randomValues(tensor.data.length, next++);
  }
  return { manifest: manifestOf(arch, classes), dtype: "f32", tensors };
}

export function manifestOf(sizes: PlainArchitecture, classes = CLASSES): Manifest {
  const arch = plainArchitecture(sizes);
  return singleVariant({
    name: "random",
    license: "Apache-2.0",
    ...arch,
    preprocess: {
      resize: Math.max(...arch.imageSize),
      crop: arch.imageSize,
      interpolation: "bicubic",
      mean: [0.5, 0.5, 0.5],
      std: [0.5, 0.5, 0.5],
    },
    labels: Array.from({ length: arch.head ? classes : 0 }, (_, i) => ({ id: `c${i}`, label: `class ${i}` })),
    weights: [],
    provenance: {},
    metrics: {},
  });
}

/** Small slim networks of every legal kind: blocks without heads or units, ragged heads, one token, two prefix tokens. */
export function slimArchitecture(): fc.Arbitrary<Architecture> {
  return fc
    .record({
      rows: fc.integer({ min: 1, max: 4 }),
      columns: fc.integer({ min: 1, max: 4 }),
      patchSize: fc.constantFrom(2, 4),
      embedDim: fc.integer({ min: 1, max: 24 }),
      headDim: fc.integer({ min: 1, max: 9 }),
      prefixTokens: fc.constantFrom(1 as const, 2 as const),
      depth: fc.integer({ min: 1, max: 3 }),
    })
    .chain(({ rows, columns, depth, ...rest }) => {
      const patches = rows * columns;
      const widths = fc.integer({ min: 1, max: rest.headDim });
      const headDims = fc.oneof(
        fc.array(widths, { maxLength: 4 }),
        fc.tuple(widths, fc.integer({ min: 1, max: 4 })).map(([width, heads]) => Array<number>(heads).fill(width)),
      );
      const block = fc.record({ headDims, mlpHidden: fc.oneof(fc.constant(0), fc.integer({ min: 1, max: 20 })) });
      // A patch lives until the block that drops it, so that keep-lists nest.
      const lives = fc.array(fc.integer({ min: 0, max: depth }), { minLength: patches, maxLength: patches });
      return fc.record({ blocks: fc.array(block, { minLength: depth, maxLength: depth }), lives }).map(
        ({ blocks, lives }): Architecture =>
          plainArchitecture({
            ...rest,
            imageSize: [rows * rest.patchSize, columns * rest.patchSize],
            layerNormEps: 1e-6,
            blocks: blocks.map((shape, i) => {
              const kept = lives.flatMap((life, patch) => (life > i ? [patch + rest.prefixTokens] : []));
              return { ...shape, keepIdx: [...Array(rest.prefixTokens).keys(), ...kept] };
            }),
          }),
      );
    });
}

/** @param tolerance largest absolute difference; NaN is never close */
export function expectClose(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  tolerance: number,
  what = "",
): void {
  const label = what && `${what}: `;
  if (actual.length !== expected.length) {
    throw new Error(`${label}${actual.length} values; expected ${expected.length}`);
  }
  let worst = 0;
  let at = -1;
  for (let i = 0; i < expected.length; i++) {
    const difference = Math.abs(actual[i] - expected[i]);
    if (difference > worst || Number.isNaN(difference)) {
      worst = difference;
      at = i;
      if (Number.isNaN(difference)) break;
    }
  }
  if (!(worst <= tolerance)) {
    throw new Error(
      `${label}element ${at} is ${actual[at]}; expected ${expected[at]} ± ${tolerance} (off by ${worst.toExponential(2)})`,
    );
  }
}

/** What a block keeps. */
export interface Cut {
  /** of each head, which channels */
  heads: boolean[][];
  units: boolean[];
  keepIdx: number[];
}

/** Removes what `cuts` do not keep from a dense model; nothing is folded. With RoPE, channels are kept in pairs. */
export function cut({ manifest, dtype, tensors }: Model, cuts: Cut[]): Model {
  const slim = new Map(tensors);
  const rows = (key: string, keep: boolean[]) => {
    const { data } = tensors.get(key)!;
    const width = data.length / keep.length;
    const kept = (data as Float32Array).filter((_, i) => keep[Math.floor(i / width)]);
    const count = keep.filter(Boolean).length;
    slim.set(key, { dtype: "F32", shape: tensors.get(key)!.shape.length === 1 ? [count] : [count, width], data: kept });
  };
  const columns = (key: string, keep: boolean[]) => {
    const { data, shape } = tensors.get(key)!;
    const kept = (data as Float32Array).filter((_, i) => keep[i % keep.length]);
    slim.set(key, { dtype: "F32", shape: [shape[0], kept.length / shape[0]], data: kept });
  };
  const blocks = cuts.map(({ heads, units, keepIdx }, i): BlockShape => {
    const channels = heads.flat();
    for (const part of ["weight", "bias"]) {
      rows(`blocks.${i}.attn.qkv.${part}`, [...channels, ...channels, ...channels]);
      rows(`blocks.${i}.mlp.fc1.${part}`, manifest.mlp === "swiglu" ? [...units, ...units] : units);
      if (manifest.hiddenNorm) rows(`blocks.${i}.mlp.norm.${part}`, units);
      if (manifest.qkNorm) for (const of of ["q", "k"]) rows(`blocks.${i}.attn.${of}_norm.${part}`, channels);
    }
    if (manifest.position === "rope") {
      const pairs = channels.filter((_, channel) => channel % 2 === 0);
      columns(`blocks.${i}.attn.rope_freqs`, pairs);
    }
    if (manifest.position === "relative") {
      const survives = heads.map((head) => head.some(Boolean));
      rows(`blocks.${i}.attn.rel_bias`, survives);
    }
    columns(`blocks.${i}.attn.proj.weight`, channels);
    columns(`blocks.${i}.mlp.fc2.weight`, units);
    return {
      headDims: heads.map((head) => head.filter(Boolean).length).filter((width) => width > 0),
      mlpHidden: units.filter(Boolean).length,
      keepIdx,
      merge: manifest.blocks[i].merge,
    };
  });
  return { manifest: { ...manifest, blocks }, dtype, tensors: slim };
}

const goldenFile = (name: string) => {
  const url = new URL(`fixtures/golden/${name}.safetensors`, import.meta.url);
  return readSafetensors(readFileSync(url), name);
};

export interface Golden {
  model: Model;
  /** each [3, 32, 32] */
  images: Float32Array[];
  cases: GoldenCase[];
}

/** One published slim network: a mask mode, a budget and a rule for tokens. */
export interface GoldenCase {
  name: string;
  cuts: Cut[];
  /** of each picture */
  logits: Float64Array[];
}

/** The dense network of fixtures/golden, its four pictures, and the logits of what is left of it after each compression. */
export function readGolden(): Golden {
  const keepIdx = [...Array(17).keys()];
  const arch = plainArchitecture({
    imageSize: [32, 32],
    patchSize: 8,
    embedDim: 48,
    headDim: 16,
    layerNormEps: 1e-6,
    prefixTokens: 1,
    blocks: Array.from({ length: 4 }, () => ({ headDims: [16, 16, 16], mlpHidden: 192, keepIdx })),
  });
  const images = goldenFile("inputs").get("images")!.data as Float32Array;
  const size = 3 * 32 * 32;
  return {
    model: { manifest: manifestOf(arch, 10), dtype: "f32", tensors: goldenFile("weights") as Tensors },
    images: [0, 1, 2, 3].map((i) => images.slice(i * size, (i + 1) * size)),
    cases: ["channel", "head", "uniform"].flatMap(goldenCases),
  };
}

type GoldenJson = { modes: Record<string, { budgets: Record<string, Record<`keep_${string}`, number[][]>> }> };

function goldenCases(mode: string): GoldenCase[] {
  const json = readFileSync(new URL("fixtures/golden/golden.json", import.meta.url), "utf8");
  const { budgets } = (JSON.parse(json) as GoldenJson).modes[mode];
  const stored = goldenFile(`compress-${mode}`);
  return Object.entries(budgets).flatMap(([budget, kept]) => {
    const attn = stored.get(`${budget}.mask_attn`)!; // [4, 3 | 1, 16 | 1]
    const mlp = stored.get(`${budget}.mask_mlp`)!.data; // [4, 192]
    const [, heads, width] = attn.shape;
    const channel = (block: number, head: number, c: number) =>
      attn.data[(block * heads + (head % heads)) * width + (c % width)] === 1;
    return [
      ["union", "slim_logits"],
      ["intersect", "slim_intersect_logits"],
    ].map(([rule, key]) => {
      const logits = stored.get(`${budget}.${key}`)!.data as Float64Array;
      return {
        name: `${mode} ${budget} ${rule}`,
        cuts: kept[`keep_${rule}`].map((keepIdx, block) => ({
          heads: [0, 1, 2].map((head) => Array.from({ length: 16 }, (_, c) => channel(block, head, c))),
          units: Array.from({ length: 192 }, (_, unit) => mlp[block * 192 + unit] === 1),
          keepIdx,
        })),
        logits: [0, 1, 2, 3].map((i) => logits.slice(i * 10, i * 10 + 10)),
      };
    });
  });
}
