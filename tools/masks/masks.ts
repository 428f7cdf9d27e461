/**
 * ViT-Slim's soft masks ζ: their shapes, how they act, how budgets turn them into hard masks, and how a hard mask cuts a
 * model.
 * @see Chavan et al. 2022 — https://arxiv.org/abs/2201.00814
 */

import type { Architecture, BlockShape, Tensors } from "../../src/format/model.ts";
import { denseTokens, innerDim } from "../../src/format/model.ts";
import { float32 } from "../../src/format/read.ts";
import type { ForwardOptions, Weights } from "../../src/tfjs/forward.ts";
import type { Tensor, TF } from "../../src/tfjs/ops.ts";

/** The scope of an attention ζ: one channel of one head; all channels of a head; the same channel of all heads. */
export type MaskMode = "channel" | "head" | "uniform";
export const MASK_MODES: MaskMode[] = ["channel", "head", "uniform"];

/**
 * How raw patch masks become nested keep-lists. `union`: a block keeps what a deeper one needs. `intersect`: a dropped
 * token stays dropped.
 */
export type TokenRule = "union" | "intersect";

/** ζ of one block as plain numbers, `attn` by [heads × headDim] whatever the mode. */
export interface BlockZeta {
  attn: Float32Array;
  mlp: Float32Array;
  /** raw, before tanh */
  patch: Float32Array;
}

/** Which channels, units and tokens of one dense block survive. */
export interface BlockMask {
  /** [heads × headDim] */
  attn: boolean[];
  /** [mlpHidden] */
  mlp: boolean[];
  /** [tokens], after the token rule; class token (and distillation token) always true */
  tokens: boolean[];
}

export const ZETA_INIT = { attn: 1, mlp: 1, patch: 3 };

export const isZeta = (name: string) => name.endsWith("zeta");

/** Adjacent channels of a head that one ζ covers at least: RoPE turns them in pairs, which go or stay together. */
export const channelStep = ({ position }: Architecture): number => (position === "rope" ? 2 : 1);

/** Whether all heads have all their channels. Only such heads are cut further. */
export const hasWholeHeads = ({ blocks, headDim }: Architecture): boolean =>
  blocks.every(({ headDims }) => headDims.every((width) => width === headDim));

export const mergesTokens = ({ blocks }: Architecture): boolean => blocks.some(({ merge }) => merge > 0);

/** ζ tensors by name, shaped as the reference stores them. */
export function zetaShapes(arch: Architecture, mode: MaskMode): Map<string, number[]> {
  const shapes = new Map<string, number[]>();
  const perHead = arch.headDim / channelStep(arch);
  arch.blocks.forEach((block, i) => {
    const heads = block.headDims.length;
    shapes.set(`blocks.${i}.attn.zeta`, [1, 1, mode === "uniform" ? 1 : heads, 1, mode === "head" ? 1 : perHead]);
    shapes.set(`blocks.${i}.mlp.zeta`, [1, 1, block.mlpHidden]);
    shapes.set(`blocks.${i}.attn.patch_zeta`, [1, denseTokens(arch), 1]);
  });
  return shapes;
}

/**
 * Multiplies ζ into the weights: rows of q, k and v and their biases by the attention ζ, columns of fc2 by the MLP ζ. What a
 * norm between would undo is multiplied before the norm, so that its statistics see what a cut leaves, and after it.
 * The folded weights in a plain forward pass are the search model, so search and compression share this one rule.
 */
export function foldZeta(tf: TF, arch: Architecture, weights: Weights, zetas: Weights): Weights {
  const folded = new Map(weights);
  const step = channelStep(arch);
  arch.blocks.forEach((block, i) => {
    const inner = innerDim(block);
    const times = (name: string, factor: Tensor) => {
      const weight = weights.get(`blocks.${i}.${name}`)!;
      folded.set(`blocks.${i}.${name}`, tf.mul(weight, factor));
    };
    const rowsTimes = (name: string, factor: Tensor) => {
      times(`${name}.weight`, tf.reshape(factor, [-1, 1]));
      times(`${name}.bias`, factor);
    };
    const zeta = zetas.get(`blocks.${i}.attn.zeta`)!;
    const [, , heads, , perHead] = zeta.shape as number[];
    const everywhere = tf.ones([block.headDims.length, arch.headDim / step, step]);
    const spread = tf.reshape(tf.mul(tf.reshape(zeta, [heads, perHead, 1]), everywhere), [inner]);
    rowsTimes("attn.qkv", tf.tile(spread, [3]));
    if (arch.qkNorm)
      for (const norm of ["attn.q_norm", "attn.k_norm"])
        for (const part of ["weight", "bias"]) times(`${norm}.${part}`, spread);
    const mlp = tf.reshape(zetas.get(`blocks.${i}.mlp.zeta`)!, [block.mlpHidden]);
    if (!arch.hiddenNorm) {
      times("mlp.fc2.weight", tf.reshape(mlp, [1, block.mlpHidden]));
      return;
    }
    rowsTimes("mlp.fc1", tf.concat([tf.ones([block.mlpHidden]), mlp], 0)); // values, not gates
    for (const part of ["weight", "bias"]) times(`mlp.norm.${part}`, mlp);
  });
  return folded;
}

/**
 * How patch masks act during the search. `gate`: the reference's tanh ζ on both norms' outputs. `score`: a factor on the
 * token's exponential in every softmax, nested over depth, so that at 0 the soft model is the physically slim one.
 */
export type PatchForm = "gate" | "score";
export const PATCH_FORMS: PatchForm[] = ["gate", "score"];

/** tanh ζ_patch of each block, [tokens] */
export function patchGates(tf: TF, arch: Architecture, zetas: Weights): Tensor[] {
  return arch.blocks.map((_, i) => tf.tanh(tf.reshape(zetas.get(`blocks.${i}.attn.patch_zeta`)!, [-1])));
}

/** Gates t_l = tanh ζ_l, one tensor a block → what the forward pass takes. */
export function patchOptions(
  tf: TF,
  arch: Architecture,
  gates: Tensor[],
  form: PatchForm,
  rule: TokenRule,
): ForwardOptions {
  if (form === "gate") return { tokenGates: gates, ...poolGates(tf, arch, gates) };
  const isPrefix = tf.tensor1d(Array.from({ length: gates[0].size }, (_, token) => Number(token < arch.prefixTokens)));
  const free = gates.map((gate) => tf.maximum(gate, isPrefix)); // class token ≡ 1
  const nested = [...free];
  if (rule === "intersect") for (let i = 1; i < nested.length; i++) nested[i] = tf.mul(nested[i - 1], free[i]);
  else for (let i = nested.length - 2; i >= 0; i--) nested[i] = tf.maximum(free[i], nested[i + 1]);
  return { scoreGates: nested, ...poolGates(tf, arch, nested) };
}

/** Removed tokens are left out of means and attention pooling, too. */
function poolGates(tf: TF, { pooling }: Architecture, gates: Tensor[]): ForwardOptions {
  if (pooling === "class") return {};
  return { poolGates: tf.add(tf.relu(gates.at(-1)!), LEAST_POOL_GATE) };
}

/** If all tokens are gone, a mean must still be finite. */
const LEAST_POOL_GATE = 1e-6;

/** The sparsity terms of the loss: Σ|ζ_attn|, Σ|ζ_mlp|, Σ|tanh ζ_patch| over all blocks; sums, not means. */
export function sparsity(tf: TF, arch: Architecture, zetas: Weights): { attn: Tensor; mlp: Tensor; patch: Tensor } {
  const size = (x: Tensor): Tensor => tf.sum(tf.mul(x, tf.sign(x))); // |x| whose derivative at 0 is 0
  // Pair by pair: on WebGPU, addN of more terms than a shader has buffers fails.
  const total = (terms: Tensor[]) => terms.map(size).reduce((a, b) => tf.add(a, b));
  return {
    attn: total(arch.blocks.map((_, i) => zetas.get(`blocks.${i}.attn.zeta`)!)),
    mlp: total(arch.blocks.map((_, i) => zetas.get(`blocks.${i}.mlp.zeta`)!)),
    patch: total(patchGates(tf, arch, zetas)),
  };
}

/** Named ζ tensors → plain numbers a block, spread over heads and channels. */
export function blockZetas(arch: Architecture, mode: MaskMode, read: (name: string) => Float32Array): BlockZeta[] {
  return arch.blocks.map((block, i) => {
    const raw = read(`blocks.${i}.attn.zeta`);
    const attn = Float32Array.from({ length: innerDim(block) }, (_, c) => raw[zetaOf(arch, mode, c)]);
    return { attn, mlp: read(`blocks.${i}.mlp.zeta`), patch: read(`blocks.${i}.attn.patch_zeta`) };
  });
}

/** The index of the attention ζ that covers channel `c` of [heads × headDim]. */
function zetaOf(arch: Architecture, mode: MaskMode, c: number): number {
  const { headDim } = arch;
  if (mode === "head") return Math.floor(c / headDim);
  return Math.floor((mode === "channel" ? c : c % headDim) / channelStep(arch));
}

/** The channels of a block that each ζ covers. */
export function channelGroupsOf(arch: Architecture, mode: MaskMode, block: BlockShape): number[][] {
  const groups: number[][] = [];
  for (let c = 0; c < innerDim(block); c++) {
    const zeta = zetaOf(arch, mode, c);
    groups[zeta] = [...(groups[zeta] ?? []), c];
  }
  return groups;
}

/**
 * The value at index trunc((1 − budget)·n) of the ascending order; what is ≥ it survives, so ties at the threshold all
 * do. A budget of 0 points past the end: nothing survives.
 */
export function threshold(values: ArrayLike<number>, budget: number): number {
  const sorted = Float64Array.from(values).sort();
  return sorted[Math.trunc((1 - budget) * sorted.length)] ?? Infinity;
}

export interface Budgets {
  attn: number;
  mlp: number;
  patch: number;
}

export interface MaskOptions {
  mode: MaskMode;
  rule: TokenRule;
  /** rank by |ζ| instead of the reference's signed ζ, under which a strongly negative, active channel goes first */
  absolute?: boolean;
}

export interface HardMasks {
  blocks: BlockMask[];
  /** patch masks before the token rule */
  rawTokens: boolean[][];
  thresholds: Budgets;
}

/** Three global rankings, one a family, over all blocks. */
export function hardenMasks(arch: Architecture, zetas: BlockZeta[], budgets: Budgets, options: MaskOptions): HardMasks {
  const { mode, rule, absolute = false } = options;
  const importance = (values: ArrayLike<number>) => Array.from(values, (v) => (absolute ? Math.abs(v) : v));
  const attn = zetas.map((z) => importance(z.attn));
  const mlp = zetas.map((z) => importance(z.mlp));
  const patch = zetas.map((z) => Array.from(z.patch, Math.tanh));
  const thresholds = {
    attn: threshold(
      attn.flatMap((values) => distinct(arch, mode, values)),
      budgets.attn,
    ),
    mlp: threshold(mlp.flat(), budgets.mlp),
    patch: threshold(patch.flat(), budgets.patch),
  };
  const rawTokens = patch.map((values) => values.map((v) => v >= thresholds.patch));
  const tokens = withOnePatch(arch, nestTokens(rawTokens, rule, arch.prefixTokens), patch);
  const blocks = zetas.map((_, i) => ({
    attn: withKeys(
      arch,
      mode,
      i,
      attn[i].map((v) => v >= thresholds.attn),
      attn[i],
    ),
    mlp: mlp[i].map((v) => v >= thresholds.mlp),
    tokens: tokens[i],
  }));
  return { blocks, rawTokens, thresholds };
}

/** One value for each ζ, from values that are spread over the channels of a block. */
function distinct(arch: Architecture, mode: MaskMode, spread: number[]): number[] {
  return channelGroupsOf(arch, mode, arch.blocks[0]).map(([first]) => spread[first]);
}

/**
 * Pooling by more than the class token needs a patch. Where none is left, the one with the greatest ζ in the last block
 * stays.
 */
function withOnePatch(arch: Architecture, masks: boolean[][], values: number[][]): boolean[][] {
  const { pooling, prefixTokens } = arch;
  if (pooling === "class" || masks.at(-1)!.some((kept, token) => kept && token >= prefixTokens)) return masks;
  const best = greatest(values.at(-1)!, prefixTokens);
  return masks.map((mask) => mask.map((kept, token) => kept || token === best));
}

/** A block that merges compares keys, so where no channel is left, those with the greatest ζ stay. */
function withKeys(arch: Architecture, mode: MaskMode, i: number, mask: boolean[], values: number[]): boolean[] {
  if (!arch.blocks[i].merge || mask.some(Boolean)) return mask;
  const zeta = zetaOf(arch, mode, greatest(values, 0));
  return mask.map((_, c) => zetaOf(arch, mode, c) === zeta);
}

function greatest(values: number[], from: number): number {
  let best = from;
  for (let i = from; i < values.length; i++) if (values[i] > values[best]) best = i;
  return best;
}

function nestTokens(raw: boolean[][], rule: TokenRule, prefixTokens: number): boolean[][] {
  const masks = raw.map((mask) => mask.map((kept, token) => kept || token < prefixTokens));
  if (rule === "union") {
    for (let i = masks.length - 2; i >= 0; i--) masks[i] = masks[i].map((kept, token) => kept || masks[i + 1][token]);
  } else {
    for (let i = 1; i < masks.length; i++) masks[i] = masks[i].map((kept, token) => kept && masks[i - 1][token]);
  }
  return masks;
}

/** The architecture that is left when the masked parts are gone. */
export function slimArchitecture<A extends Architecture>(arch: A, masks: BlockMask[]): A {
  const blocks = arch.blocks.map((block, i): BlockShape => {
    const { attn, mlp, tokens } = masks[i];
    const widths = block.headDims.map((_, h) => count(attn.slice(h * arch.headDim, (h + 1) * arch.headDim)));
    return {
      headDims: widths.filter((width) => width > 0),
      mlpHidden: count(mlp),
      keepIdx: indices(tokens),
      merge: block.merge,
    };
  });
  return { ...arch, blocks };
}

/** Rows and columns of the masked parts cut out of a dense model's tensors; everything else is passed through. */
export function cutTensors(arch: Architecture, tensors: Tensors, masks: BlockMask[]): Tensors {
  const out: Tensors = new Map();
  for (const [name, { shape }] of tensors) out.set(name, { dtype: "F32", shape, data: float32(tensors, name) });
  arch.blocks.forEach((block, i) => {
    const at = `blocks.${i}`;
    const channels = indices(masks[i].attn);
    const units = indices(masks[i].mlp);
    const inner = innerDim(block);
    const takeRows = (name: string, keep: number[]) => {
      for (const part of ["weight", "bias"]) take(out, `${at}.${name}.${part}`, 0, keep);
    };
    takeRows(
      "attn.qkv",
      [0, 1, 2].flatMap((part) => channels.map((c) => part * inner + c)),
    );
    if (arch.qkNorm) for (const norm of ["attn.q_norm", "attn.k_norm"]) takeRows(norm, channels);
    if (arch.position === "rope") {
      const pairs = channels.filter((c) => c % 2 === 0).map((c) => c / 2);
      take(out, `${at}.attn.rope_freqs`, 1, pairs);
    }
    if (arch.position === "relative") take(out, `${at}.attn.rel_bias`, 0, headsLeft(block, masks[i].attn));
    take(out, `${at}.attn.proj.weight`, 1, channels);
    takeRows("mlp.fc1", arch.mlp === "swiglu" ? [...units, ...units.map((unit) => block.mlpHidden + unit)] : units);
    if (arch.hiddenNorm) takeRows("mlp.norm", units);
    take(out, `${at}.mlp.fc2.weight`, 1, units);
  });
  return out;
}

function headsLeft({ headDims }: BlockShape, mask: boolean[]): number[] {
  let first = 0;
  return headDims.flatMap((width, head) => {
    first += width;
    return mask.slice(first - width, first).some(Boolean) ? [head] : [];
  });
}

function take(tensors: Tensors, name: string, axis: 0 | 1, keep: number[]): void {
  const { shape, data } = tensors.get(name)!;
  const columns = shape[1] ?? 1;
  const rows = axis === 0 ? keep : Array.from({ length: shape[0] }, (_, r) => r);
  const cols = axis === 1 ? keep : Array.from({ length: columns }, (_, c) => c);
  const out = new Float32Array(rows.length * cols.length);
  let at = 0;
  for (const r of rows) for (const c of cols) out[at++] = data[r * columns + c];
  tensors.set(name, {
    dtype: "F32",
    shape: shape.length === 1 ? [rows.length] : [rows.length, cols.length],
    data: out,
  });
}

const count = (mask: boolean[]) => mask.filter(Boolean).length;
const indices = (mask: boolean[]) => mask.flatMap((kept, k) => (kept ? [k] : []));
