/**
 * ViT-Slim's soft masks ζ: their shapes, how they act, how budgets harden them, how a hardened mask cuts a model.
 * @see Chavan et al. 2022 — https://arxiv.org/abs/2201.00814
 */

import type { Architecture, BlockShape, Tensors } from "../../src/format/model.ts";
import { denseTokens, innerDim } from "../../src/format/model.ts";
import { float32 } from "../../src/format/read.ts";
import type { ForwardOptions, Weights } from "../../src/tfjs/forward.ts";
import type { Tensor, TF } from "../../src/tfjs/ops.ts";

/** What an attention ζ is shared by: nothing; the channels of a head; the heads, channel by channel. */
export type MaskMode = "channel" | "head" | "uniform";
export const MASK_MODES: MaskMode[] = ["channel", "head", "uniform"];

/** How raw patch masks become nested keep-lists: a shallow block keeps what a deeper one needs; or dropped is dropped. */
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

/** ζ tensors by name, shaped as the reference stores them. */
export function zetaShapes(arch: Architecture, mode: MaskMode): Map<string, number[]> {
  const shapes = new Map<string, number[]>();
  arch.blocks.forEach((block, i) => {
    const heads = block.headDims.length;
    shapes.set(`blocks.${i}.attn.zeta`, [1, 1, mode === "uniform" ? 1 : heads, 1, mode === "head" ? 1 : arch.headDim]);
    shapes.set(`blocks.${i}.mlp.zeta`, [1, 1, block.mlpHidden]);
    shapes.set(`blocks.${i}.attn.patch_zeta`, [1, denseTokens(arch), 1]);
  });
  return shapes;
}

/**
 * Multiplies ζ into the weights: rows of q, k and v and their biases by the attention ζ, columns of fc2 by the MLP ζ.
 * The folded weights in a plain forward pass are the search model, so search and compression share this one rule.
 */
export function foldZeta(tf: TF, arch: Architecture, weights: Weights, zetas: Weights): Weights {
  const folded = new Map(weights);
  arch.blocks.forEach((block, i) => {
    const at = `blocks.${i}`;
    const inner = innerDim(block);
    const zeta = zetas.get(`${at}.attn.zeta`)!;
    const spread = tf.reshape(tf.mul(zeta, tf.ones([1, 1, block.headDims.length, 1, arch.headDim])), [inner]);
    const thrice = tf.tile(spread, [3]);
    folded.set(
      `${at}.attn.qkv.weight`,
      tf.mul(weights.get(`${at}.attn.qkv.weight`)!, tf.reshape(thrice, [3 * inner, 1])),
    );
    folded.set(`${at}.attn.qkv.bias`, tf.mul(weights.get(`${at}.attn.qkv.bias`)!, thrice));
    const mlp = tf.reshape(zetas.get(`${at}.mlp.zeta`)!, [1, block.mlpHidden]);
    folded.set(`${at}.mlp.fc2.weight`, tf.mul(weights.get(`${at}.mlp.fc2.weight`)!, mlp));
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
  if (form === "gate") return { tokenGates: gates };
  const isPrefix = tf.tensor1d(Array.from({ length: gates[0].size }, (_, token) => Number(token < arch.prefixTokens)));
  const free = gates.map((gate) => tf.maximum(gate, isPrefix)); // class token ≡ 1
  const nested = [...free];
  if (rule === "intersect") for (let i = 1; i < nested.length; i++) nested[i] = tf.mul(nested[i - 1], free[i]);
  else for (let i = nested.length - 2; i >= 0; i--) nested[i] = tf.maximum(free[i], nested[i + 1]);
  return { scoreGates: nested };
}

/** The sparsity terms of the loss: Σ|ζ_attn|, Σ|ζ_mlp|, Σ|tanh ζ_patch| over all blocks; sums, not means. */
export function sparsity(tf: TF, arch: Architecture, zetas: Weights): { attn: Tensor; mlp: Tensor; patch: Tensor } {
  const total = (terms: Tensor[]) => tf.addN(terms.map((x) => tf.sum(tf.mul(x, tf.sign(x))))); // |x| whose derivative at 0 is 0
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
    const { headDim } = arch;
    const attn = new Float32Array(innerDim(block));
    for (let c = 0; c < attn.length; c++) {
      attn[c] = raw[mode === "channel" ? c : mode === "head" ? Math.floor(c / headDim) : c % headDim];
    }
    return { attn, mlp: read(`blocks.${i}.mlp.zeta`), patch: read(`blocks.${i}.attn.patch_zeta`) };
  });
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
  const tokens = nestTokens(rawTokens, rule, arch.prefixTokens);
  const blocks = zetas.map((_, i) => ({
    attn: attn[i].map((v) => v >= thresholds.attn),
    mlp: mlp[i].map((v) => v >= thresholds.mlp),
    tokens: tokens[i],
  }));
  return { blocks, rawTokens, thresholds };
}

/** One value for each ζ that exists: in head and uniform mode the spread values repeat it. */
function distinct({ headDim }: Architecture, mode: MaskMode, spread: number[]): number[] {
  if (mode === "channel") return spread;
  return mode === "head" ? spread.filter((_, c) => c % headDim === 0) : spread.slice(0, headDim);
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

/** What each block's ghost stands for: the tokens that are gone. */
export function ghostCounts(arch: Architecture): number[] {
  return arch.blocks.map((block) => denseTokens(arch) - block.keepIdx.length);
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
    const qkv = [0, 1, 2].flatMap((part) => channels.map((c) => part * inner + c));
    take(out, `${at}.attn.qkv.weight`, 0, qkv);
    take(out, `${at}.attn.qkv.bias`, 0, qkv);
    take(out, `${at}.attn.proj.weight`, 1, channels);
    take(out, `${at}.mlp.fc1.weight`, 0, units);
    take(out, `${at}.mlp.fc1.bias`, 0, units);
    take(out, `${at}.mlp.fc2.weight`, 1, units);
  });
  return out;
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
