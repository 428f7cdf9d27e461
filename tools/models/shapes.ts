/** Published shapes with random weights, to measure speed where no trained model of that size is shipped. */
import {
  type Architecture,
  type BlockShape,
  plainArchitecture,
  type Tensors,
  tensorShapes,
} from "../../src/format/model.ts";
import { random } from "../shared/random.ts";
import type { ManifestDraft } from "./folders.ts";

/** DeiT's, and the ViT-B/16 that CLIP has, with its other norm and activation. */
const SIZES: Record<string, { embedDim: number } & Partial<Architecture>> = {
  "deit-tiny": { embedDim: 192 },
  "deit-small": { embedDim: 384 },
  "deit-base": { embedDim: 768 },
  "vit-base": { embedDim: 768, preNorm: true, activation: "quick_gelu" },
};
const CLASSES = 1000;
const DEPTH = 12;
const TOKENS = 197;

/** About half of the MACs: channels a head of 64, MLP units, and tokens in the last block, falling evenly from the first. */
const SLIM = { headDim: 40, mlp: 0.6, tokens: 0.65 };

/** About 70 % of the MACs: pairs of tokens that merge in each block but the last. */
const MERGE = 10;

export const SHAPES = Object.keys(SIZES).flatMap((name) =>
  ["", "-slim", "-merged"].map((kind) => `random:${name}${kind}`),
);

export function randomShape(source: string): { draft: ManifestDraft; tensors: Tensors } | undefined {
  if (!SHAPES.includes(source)) return undefined;
  const name = source.slice("random:".length);
  const arch = architecture(SIZES[name.replace(/-(slim|merged)$/, "")], name.match(/-(slim|merged)$/)?.[1]);
  return {
    draft: {
      name: `${name}-random`,
      license: "Apache-2.0",
      ...arch,
      preprocess: {
        resize: 256,
        crop: [224, 224],
        interpolation: "bicubic",
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
      },
      labels: Array.from({ length: CLASSES }, (_, i) => ({ id: `c${i}`, label: `class ${i}` })),
      provenance: { weights: "random" },
      metrics: {},
    },
    tensors: randomTensors(arch),
  };
}

function architecture(shape: (typeof SIZES)[string], kind?: string): Architecture {
  const { embedDim } = shape;
  const heads = embedDim / 64;
  const slim = kind === "slim";
  const blocks = Array.from({ length: DEPTH }, (_, i): BlockShape => {
    const tokens = slim ? Math.round(TOKENS * (1 - ((1 - SLIM.tokens) * i) / (DEPTH - 1))) : TOKENS;
    // Evenly over the picture, and the same patches go on from block to block: each list is the start of one order.
    const kept = PATCH_ORDER.slice(0, tokens - 1).sort((a, b) => a - b);
    return {
      headDims: Array<number>(heads).fill(slim ? SLIM.headDim : 64),
      mlpHidden: Math.round(embedDim * 4 * (slim ? SLIM.mlp : 1)),
      keepIdx: [0, ...kept],
      merge: kind === "merged" && i < DEPTH - 1 ? MERGE : 0,
    };
  });
  const sizes = { ...shape, patchSize: 16, headDim: 64, layerNormEps: 1e-6, prefixTokens: 1 };
  return plainArchitecture({ ...sizes, imageSize: [224, 224], blocks });
}

/** Patches 1 to 196 in steps of a number that has no factor in common with 196. */
const PATCH_ORDER = Array.from({ length: TOKENS - 1 }, (_, i) => ((i * 73) % (TOKENS - 1)) + 1);

/** Random weights of a size that keeps activations near 1. */
function randomTensors(arch: Architecture): Tensors {
  const next = random(1);
  const tensors: Tensors = new Map();
  for (const [key, shape] of tensorShapes(arch, CLASSES)) {
    const count = shape.reduce((a, b) => a * b, 1);
    const fanIn = shape.length > 1 ? count / shape[0] : 1;
    const gain = /norm\d?\.weight$/.test(key);
    const size = gain ? 0.1 : shape.length > 1 ? Math.sqrt(3 / fanIn) : 0.1;
    tensors.set(key, {
      dtype: "F32",
      shape,
      data: Float32Array.from({ length: count }, () => (gain ? 1 : 0) + size * (2 * next() - 1)),
    });
  }
  return tensors;
}
