/** What a network has beyond a plain DeiT, in people's names. */
import type { Architecture } from "./architecture.ts";

/** Each feature: how people call it, and whether a network has it. */
const FEATURES = {
  merge: ["tokens that merge", ({ blocks }) => blocks.some(({ merge }) => merge > 0)],
  registers: ["registers", (a) => a.prefixTokens > Number(a.classToken) + Number(a.distilled)],
  noClassToken: ["a network without class token", (a) => !a.classToken],
  meanPooling: ["pooling by the mean of patches", ({ pooling }) => pooling === "mean"],
  classMeanPooling: ["pooling by class token and mean", ({ pooling }) => pooling === "class+mean"],
  mapPooling: ["attention pooling", ({ pooling }) => pooling === "map"],
  pooledNorm: ["a norm after pooling", ({ finalNorm }) => finalNorm === "pooled" || finalNorm === "both"],
  noTokenNorm: [
    "a network without a norm before pooling",
    ({ finalNorm }) => finalNorm === "pooled" || finalNorm === "none",
  ],
  activation: ["activations other than exact GELU", ({ activation }) => activation !== "gelu"],
  swiglu: ["a SwiGLU MLP", ({ mlp }) => mlp === "swiglu"],
  hiddenNorm: ["a norm inside the MLP", ({ hiddenNorm }) => hiddenNorm !== undefined],
  preNorm: ["a norm before the first block", ({ preNorm }) => preNorm],
  qkNorm: ["norms of queries and keys", ({ qkNorm }) => qkNorm],
  normEps: ["norms of several epsilons", ({ normEps }) => normEps !== undefined && Object.keys(normEps).length > 0],
  rope: ["rotary positions", ({ position }) => position === "rope"],
  relative: ["relative positions", ({ position }) => position === "relative"],
  projection: ["a projection after pooling", ({ projection }) => projection !== undefined],
  noHead: ["an embedding model without a head", ({ head }) => !head],
  cosine: ["a head over normalised features", ({ head }) => head?.cosine === true],
} satisfies Record<string, [string, (arch: Architecture) => boolean]>;

export type Feature = keyof typeof FEATURES;

export const ALL_FEATURES = Object.keys(FEATURES) as Feature[];

/** @returns those that a network has, none for a plain DeiT */
export function featuresOf(arch: Architecture): Feature[] {
  return ALL_FEATURES.filter((feature) => FEATURES[feature][1](arch));
}

/** @returns what people call the first feature of the network that is not in `supported`; undefined if all are */
export function unsupportedFeature(arch: Architecture, supported: readonly Feature[] = []): string | undefined {
  const missing = featuresOf(arch).find((feature) => !supported.includes(feature));
  return missing && FEATURES[missing][0];
}
