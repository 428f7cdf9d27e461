/** The fields of an architecture that all variants of a folder share, read and checked. */
import { type Architecture, type Head, type NormEps, PLAIN, type UnknownRule } from "./architecture.ts";
import type { Check } from "./check.ts";
import { LIMITS } from "./limits.ts";

export type SharedArchitecture = Omit<Architecture, "imageSize" | "blocks" | "rope">;

type Json = Record<string, unknown>;

const ACTIVATIONS = ["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"] as const;
const NORMS = ["pre", "final", "pooled", "hidden", "qk", "pool"] as const;
/** How scores are made of logits. */
export const SCORES = ["softmax", "sigmoid"] as const;

/** @param isVersion1 format version 1, which has only class-token pooling and GELU */
export function readShared(check: Check, m: Json, isVersion1: boolean): SharedArchitecture {
  const sizes = {
    patchSize: check.integer(m.patchSize, "patchSize", 1, LIMITS.patchSize),
    embedDim: check.integer(m.embedDim, "embedDim", 1, LIMITS.embedDim),
    headDim: check.integer(m.headDim, "headDim", 1, LIMITS.embedDim),
    layerNormEps: check.number(m.layerNormEps, "layerNormEps", true),
  };
  if (isVersion1) {
    const prefixTokens = check.integer(m.prefixTokens, "prefixTokens", 1, 2);
    return { ...sizes, ...PLAIN, head: { ...PLAIN.head }, prefixTokens, distilled: prefixTokens === 2 };
  }
  const f = { ...PLAIN, head: undefined, ...m } as Json;
  const shared: SharedArchitecture = {
    ...sizes,
    prefixTokens: check.integer(f.prefixTokens, "prefixTokens", 0, LIMITS.prefixTokens),
    classToken: check.boolean(f.classToken, "classToken"),
    distilled: check.boolean(f.distilled, "distilled"),
    pooling: check.oneOf(f.pooling, "pooling", ["class", "mean", "class+mean", "map"]),
    finalNorm: check.oneOf(f.finalNorm, "finalNorm", ["tokens", "pooled", "both", "none"]),
    activation: check.oneOf(f.activation, "activation", ACTIVATIONS),
    mlp: check.oneOf(f.mlp, "mlp", ["plain", "swiglu"]),
    preNorm: check.boolean(f.preNorm, "preNorm"),
    qkNorm: check.boolean(f.qkNorm, "qkNorm"),
    position: check.oneOf(f.position, "position", ["learned", "rope", "relative"]),
  };
  if (f.normEps !== undefined) shared.normEps = readNormEps(check, f.normEps);
  if (f.hiddenNorm !== undefined) shared.hiddenNorm = check.integer(f.hiddenNorm, "hiddenNorm", 1, LIMITS.mlpHidden);
  if (f.projection !== undefined) shared.projection = check.integer(f.projection, "projection", 1, LIMITS.embedDim);
  if (f.head !== undefined) shared.head = readHead(check, f.head);
  if (shared.pooling === "map") {
    shared.poolHeads = check.integer(f.poolHeads, "poolHeads", 1, LIMITS.heads);
    shared.poolHidden = check.integer(f.poolHidden, "poolHidden", 1, LIMITS.mlpHidden);
    shared.poolActivation = check.oneOf(f.poolActivation ?? shared.activation, "poolActivation", ACTIVATIONS);
  }
  checkTogether(check, shared);
  return shared;
}

/** Fields that are legal alone and not with each other. */
function checkTogether(check: Check, shared: SharedArchitecture): void {
  const { prefixTokens, classToken, distilled, pooling, finalNorm, embedDim, poolHeads } = shared;
  const own = Number(classToken) + Number(distilled);
  if (own > prefixTokens)
    check.fail(`prefixTokens is ${prefixTokens}; classToken and distilled make at least ${own} of them.`);
  if (!classToken && pooling.startsWith("class"))
    check.fail(`pooling is "${pooling}" and classToken is false; expected a class token, or pooling "mean" or "map".`);
  if (distilled && !(classToken && pooling === "class" && !finalNorm.match(/pooled|both/) && !shared.projection))
    check.fail(
      'distilled is true; expected a class token, pooling "class", finalNorm "tokens" or "none" and no projection beside it.',
    );
  if (shared.hiddenNorm !== undefined && shared.mlp !== "swiglu")
    check.fail(`hiddenNorm is ${shared.hiddenNorm} and mlp is "${shared.mlp}"; expected mlp "swiglu" beside it.`);
  if (poolHeads && embedDim % poolHeads)
    check.fail(`poolHeads is ${poolHeads}; expected a divisor of embedDim ${embedDim}.`);
}

function readNormEps(check: Check, value: unknown): NormEps {
  const given = check.object(value, "normEps");
  const known = NORMS.filter((key) => given[key] !== undefined);
  return Object.fromEntries(known.map((key) => [key, check.number(given[key], `normEps.${key}`, true)]));
}

function readHead(check: Check, value: unknown): Head {
  const head = check.object(value, "head");
  const scores = check.oneOf(head.scores, "head.scores", SCORES);
  const read: Head = { scores };
  if (check.boolean(head.cosine ?? false, "head.cosine")) read.cosine = true;
  if (head.unknown !== undefined) read.unknown = readUnknown(check, head.unknown);
  return read;
}

/** Checks the threshold alone, because nothing else affects a result. */
function readUnknown(check: Check, value: unknown): UnknownRule {
  const rule = check.object(value, "head.unknown") as unknown as UnknownRule;
  check.number(rule.threshold, "head.unknown.threshold", false);
  return rule;
}
