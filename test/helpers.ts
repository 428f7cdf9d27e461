/** Models to test with, and comparisons whose failure names the worst element. */
import { readFileSync } from "node:fs";
import fc from "fast-check";
import {
  type Architecture,
  type BlockShape,
  FORMAT,
  type Manifest,
  type Model,
  type Tensors,
  tensorShapes,
} from "../src/format/model.ts";
import { readSafetensors } from "../src/format/safetensors.ts";

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
export function randomModel(arch: Architecture, seed: number, classes = CLASSES): Model {
  const tensors: Tensors = new Map();
  let next = seed;
  for (const [key, shape] of tensorShapes(arch, classes)) {
    const count = shape.reduce((a, b) => a * b, 1);
    const fanIn = shape.length > 1 ? count / shape[0] : 1;
    const isGain = /norm\d?\.weight$/.test(key);
    const size = isGain ? 0.5 : shape.length > 1 ? Math.sqrt(3 / Math.max(1, fanIn)) : 0.5;
    const data = randomValues(count, next++).map((v) => (isGain ? 1 : 0) + size * v);
    tensors.set(key, { dtype: "F32", shape, data });
  }
  for (const key of ["cls_token", "dist_token", "pos_embed"]) {
    const tensor = tensors.get(key);
    if (tensor) tensor.data = randomValues(tensor.data.length, next++);
  }
  return { manifest: manifestOf(arch, classes), dtype: "f32", tensors };
}

export function manifestOf(arch: Architecture, classes = CLASSES): Manifest {
  return {
    format: FORMAT,
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
    labels: Array.from({ length: classes }, (_, i) => ({ id: `c${i}`, label: `class ${i}` })),
    weights: [],
    provenance: {},
    metrics: {},
  };
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
        ({ blocks, lives }): Architecture => ({
          ...rest,
          imageSize: [rows * rest.patchSize, columns * rest.patchSize],
          layerNormEps: 1e-6,
          blocks: blocks.map((shape, i): BlockShape => {
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

const goldenFile = (name: string) => {
  const url = new URL(`fixtures/golden/${name}.safetensors`, import.meta.url);
  return readSafetensors(readFileSync(url), name);
};

export interface Golden {
  model: Model;
  /** each [3, 32, 32] */
  images: Float32Array[];
}

/** The dense network of fixtures/golden and its four pictures. */
export function readGolden(): Golden {
  const keepIdx = [...Array(17).keys()];
  const arch: Architecture = {
    imageSize: [32, 32],
    patchSize: 8,
    embedDim: 48,
    headDim: 16,
    layerNormEps: 1e-6,
    prefixTokens: 1,
    blocks: Array.from({ length: 4 }, () => ({ headDims: [16, 16, 16], mlpHidden: 192, keepIdx })),
  };
  const images = goldenFile("inputs").get("images")!.data as Float32Array;
  const size = 3 * 32 * 32;
  return {
    model: { manifest: manifestOf(arch, 10), dtype: "f32", tensors: goldenFile("weights") as Tensors },
    images: [0, 1, 2, 3].map((i) => images.slice(i * size, (i + 1) * size)),
  };
}

/** The published numbers of a golden file, by name. */
export function goldenValues(file: string, key: string): ArrayLike<number> {
  return goldenFile(file).get(key)!.data as Float64Array;
}
