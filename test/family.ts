/** Random small networks of every kind that the family has, to hold engines against the reference. */
import fc from "fast-check";
import { ALL_FEATURES, type Feature } from "../src/format/features.ts";
import {
  type Activation,
  type Architecture,
  type BlockShape,
  denseTokens,
  type FinalNorm,
  type Head,
  type Model,
  type NormEps,
  PLAIN,
  type Pooling,
  type Position,
  plainArchitecture,
} from "../src/format/model.ts";
import { randomModel } from "./helpers.ts";

const MAX_DEPTH = 3;
const MAX_PATCHES = 16;

/**
 * @param supported features that a network may have, each of which about half of those drawn have
 * @returns networks of one to three blocks: ragged heads, blocks without heads or units, tokens leaving, oblong grids
 */
export function familyArchitecture(supported: readonly Feature[] = ALL_FEATURES): fc.Arbitrary<Architecture> {
  return draws(supported).map(build);
}

/** The same with random weights. */
export function familyModel(supported: readonly Feature[] = ALL_FEATURES): fc.Arbitrary<Model> {
  return fc
    .record({ arch: familyArchitecture(supported), seed: fc.integer({ min: 0, max: 1e6 }) })
    .map(({ arch, seed }) => randomModel(arch, seed));
}

type Draws = ReturnType<typeof draws> extends fc.Arbitrary<infer T> ? T : never;

function draws(supported: readonly Feature[]) {
  const whole = (min: number, max: number) => fc.integer({ min, max });
  /** One of `plain` and those whose feature is supported. */
  const choice = <T>(plain: T, ...others: [Feature, T][]) =>
    fc.constantFrom(plain, ...others.filter(([feature]) => supported.includes(feature)).map(([, value]) => value));
  const flag = (feature: Feature) => (supported.includes(feature) ? fc.boolean() : fc.constant(false));
  const headDims = fc.oneof(
    fc.array(whole(1, 9), { maxLength: 3 }),
    fc.tuple(whole(1, 9), whole(1, 3)).map(([width, heads]) => Array<number>(heads).fill(width)),
  );
  return fc.record({
    ...{ rows: whole(1, 4), columns: whole(1, 4), patchSize: whole(1, 3), width: whole(1, 20), headDim: whole(1, 9) },
    depth: whole(1, MAX_DEPTH),
    noClassToken: flag("noClassToken"),
    distilled: fc.boolean(),
    registers: supported.includes("registers") ? fc.oneof(whole(0, 4), fc.constant(14)) : fc.constant(0),
    pooling: choice<Pooling>(
      "class",
      ["meanPooling", "mean"],
      ["classMeanPooling", "class+mean"],
      ["mapPooling", "map"],
    ),
    pooledNorm: flag("pooledNorm"),
    noTokenNorm: flag("noTokenNorm"),
    activation: choice<Activation>(
      "gelu",
      ["activation", "gelu_tanh"],
      ["activation", "quick_gelu"],
      ["activation", "relu"],
      ["activation", "silu"],
    ),
    poolActivation: choice<Activation | undefined>(undefined, ["activation", "gelu_tanh"], ["activation", "gelu"]),
    swiglu: flag("swiglu"),
    hiddenNorm: flag("hiddenNorm"),
    preNorm: flag("preNorm"),
    qkNorm: flag("qkNorm"),
    position: choice<Position>("learned", ["rope", "rope"], ["relative", "relative"]),
    rope: fc.tuple(...[0, 1, 2, 3].map(() => whole(-8, 8).map((v) => v / 8))),
    poolHeads: whole(1, 3),
    poolHidden: whole(1, 8),
    projection: supported.includes("projection") ? fc.oneof(fc.constant(0), whole(1, 12)) : fc.constant(0),
    normEps: supported.includes("normEps") ? fc.array(whole(0, 5), { maxLength: 3 }) : fc.constant<number[]>([]),
    head: choice<Head | undefined>({ scores: "softmax" }, ["noHead", undefined]),
    sigmoid: fc.boolean(),
    cosine: flag("cosine"),
    merge: supported.includes("merge")
      ? fc.array(fc.oneof(fc.constant(0), whole(1, 8)), { minLength: MAX_DEPTH, maxLength: MAX_DEPTH })
      : fc.constant(Array<number>(MAX_DEPTH).fill(0)),
    // A patch lives until the block that drops it, so that keep-lists nest; most live to the end.
    lives: fc.array(fc.oneof(fc.constant(MAX_DEPTH), whole(0, MAX_DEPTH)), {
      minLength: MAX_PATCHES,
      maxLength: MAX_PATCHES,
    }),
    shapes: fc.array(fc.record({ headDims, mlpHidden: fc.oneof(fc.constant(0), whole(1, 12)) }), {
      minLength: MAX_DEPTH,
      maxLength: MAX_DEPTH,
    }),
  });
}

/** Draws that cannot go together give way: a class token is there where the pooling needs it, and so on. */
function build(d: Draws): Architecture {
  const { pooling } = d;
  const classToken = !d.noClassToken || pooling.startsWith("class");
  const swiglu = d.swiglu || d.hiddenNorm;
  const finalNorm = FINAL_NORMS[Number(!d.noTokenNorm)][Number(d.pooledNorm)];
  const isDistilled = d.distilled && classToken && pooling === "class" && !d.pooledNorm && !d.projection;
  const even = (width: number) => (d.position === "rope" ? 2 * Math.ceil(width / 2) : width);
  const widest = Math.max(d.headDim, ...d.shapes.flatMap(({ headDims }) => headDims));
  const arch: Architecture = {
    ...PLAIN,
    imageSize: [d.rows * d.patchSize, d.columns * d.patchSize],
    patchSize: d.patchSize,
    embedDim: pooling === "map" ? d.poolHeads * Math.ceil(d.width / d.poolHeads) : d.width,
    headDim: even(widest),
    layerNormEps: 1e-6,
    prefixTokens: Math.min(16, Number(classToken) + Number(isDistilled) + d.registers),
    classToken,
    distilled: isDistilled,
    pooling,
    finalNorm,
    activation: d.activation,
    mlp: swiglu ? "swiglu" : "plain",
    preNorm: d.preNorm,
    qkNorm: d.qkNorm,
    position: d.position,
    head: d.head && { scores: d.sigmoid ? "sigmoid" : "softmax", ...(d.cosine && { cosine: true }) },
    blocks: [],
  };
  if (!arch.head) delete arch.head;
  if (d.hiddenNorm) arch.hiddenNorm = 14;
  if (d.projection) arch.projection = d.projection;
  if (d.normEps.length) arch.normEps = Object.fromEntries(d.normEps.map((k) => [EPS[k], 10 ** -(k + 2)]));
  if (d.position === "rope") arch.rope = { rows: [d.rope[0], d.rope[1]], columns: [d.rope[2], d.rope[3]] };
  if (pooling === "map")
    Object.assign(arch, {
      poolHeads: d.poolHeads,
      poolHidden: d.poolHidden,
      poolActivation: d.poolActivation ?? d.activation,
    });
  arch.blocks = blocksOf(d, arch, even);
  return arch;
}

/** By [a norm of tokens][a norm after pooling]. */
const FINAL_NORMS: FinalNorm[][] = [
  ["none", "pooled"],
  ["tokens", "both"],
];
const EPS: (keyof NormEps)[] = ["pre", "final", "pooled", "hidden", "qk", "pool"];

function blocksOf(d: Draws, arch: Architecture, even: (width: number) => number): BlockShape[] {
  const { prefixTokens, pooling, position } = arch;
  const prefix = [...Array(prefixTokens).keys()];
  const patches = d.rows * d.columns;
  const lives = d.lives.slice(0, patches);
  if (pooling !== "class") lives[0] = MAX_DEPTH; // a mean needs a patch
  if (!prefixTokens) lives[0] = MAX_DEPTH; // and a block a token
  const blocks: BlockShape[] = [];
  let rows = 0; // patches, as rows
  for (let i = 0; i < d.depth; i++) {
    const before = blocks[i - 1];
    const hasMerged = blocks.some(({ merge }) => merge > 0);
    const kept = lives.flatMap((life, patch) => (life > i ? [patch + prefixTokens] : []));
    const keepIdx = hasMerged ? before.keepIdx : [...prefix, ...kept];
    if (!hasMerged) rows = keepIdx.length - prefixTokens;
    const headDims = d.shapes[i].headDims.map(even);
    const canMerge = position !== "relative" && headDims.length && !(i === d.depth - 1 && pooling === "class");
    const merge = canMerge ? Math.min(d.merge[i], Math.floor(rows / 2)) : 0;
    rows -= merge;
    blocks.push({ headDims, mlpHidden: d.shapes[i].mlpHidden, keepIdx, merge });
  }
  return blocks;
}

const SIZES = { imageSize: [20, 12], patchSize: 4, embedDim: 16, headDim: 8, layerNormEps: 1e-6 } as const;

/** 5×3 patches, three blocks with ragged heads. @param merge pairs a block */
function example(prefixTokens: number, merge: number[], more: Partial<Architecture>): Architecture {
  const keepIdx = [...Array(15 + prefixTokens).keys()];
  const fewer = merge[0] ? keepIdx : keepIdx.filter((token) => token < prefixTokens || token % 3 !== 0);
  const arch = plainArchitecture({
    ...SIZES,
    imageSize: [...SIZES.imageSize],
    prefixTokens,
    distilled: false,
    ...more,
    blocks: [
      { headDims: [8, 4], mlpHidden: 24, keepIdx, merge: merge[0] },
      { headDims: [6, 8, 2], mlpHidden: 9, keepIdx: fewer, merge: merge[1] },
      { headDims: [4], mlpHidden: 17, keepIdx: fewer, merge: merge[2] },
    ],
  });
  if (denseTokens(arch) !== keepIdx.length) throw new Error(`${denseTokens(arch)} tokens; expected ${keepIdx.length}`);
  return arch;
}

const none = [0, 0, 0];

/** A small network shaped as each family that people have, some of them with tokens that merge. */
export const FAMILY: Record<string, Architecture> = {
  DeiT: example(1, none, {}),
  "DeiT, distilled": example(2, none, { distilled: true }),
  "DeiT, merging": example(1, [3, 4, 0], {}),
  CLIP: example(1, none, {
    preNorm: true,
    activation: "quick_gelu",
    layerNormEps: 1e-5,
    projection: 10,
    head: undefined,
  }),
  "CLIP, zero-shot": example(1, [2, 2, 0], {
    ...{ preNorm: true, activation: "quick_gelu", projection: 10 },
    head: { scores: "softmax", cosine: true },
  }),
  SigLIP: example(0, [2, 3, 1], {
    ...{ classToken: false, pooling: "map", poolHeads: 2, poolHidden: 20, activation: "gelu_tanh" },
    ...{ poolActivation: "gelu_tanh", head: { scores: "sigmoid", cosine: true } },
  }),
  "DINOv2 with registers": example(5, [0, 3, 3], { pooling: "class+mean" }),
  "DINOv2 giant": example(5, none, { mlp: "swiglu", activation: "silu", head: undefined }),
  DINOv3: example(5, none, { position: "rope", rope: { rows: [-0.8, 0.4], columns: [-0.67, 0.67] }, head: undefined }),
  "DINOv3, merging": example(5, [3, 2, 0], { position: "rope", rope: { rows: [-0.8, 0.4], columns: [-0.67, 0.67] } }),
  "EVA-02": example(1, [2, 2, 2], {
    ...{ position: "rope", rope: { rows: [0, 1], columns: [0, 1] }, mlp: "swiglu", hiddenNorm: 30, activation: "silu" },
    ...{ pooling: "mean", finalNorm: "pooled" },
  }),
  BEiT: example(1, none, { position: "relative", pooling: "mean", finalNorm: "pooled" }),
  "norms of queries and keys": example(0, [2, 2, 2], {
    ...{ classToken: false, pooling: "mean", qkNorm: true, activation: "relu", finalNorm: "both" },
    normEps: { qk: 1e-3, final: 1e-2, pooled: 1e-4 },
  }),
};
