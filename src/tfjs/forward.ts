/**
 * The slim forward pass in TensorFlow.js ops, batched and differentiable. Training and the tfjs engine both run it, so
 * what is trained is what ships. The maths is that of src/reference/forward.ts.
 */
import type * as tfjs from "@tensorflow/tfjs-core";
import { refuseUnsupported } from "../format/features.ts";
import { type Architecture, denseTokens, patchGrid } from "../format/model.ts";
import { attend, erfGate, gatherTokens, layerNorm, linear, normalise, type Tensor, type TF } from "./ops.ts";

/** Tensors by timm name, f32, shaped as `tensorShapes` says. */
export type Weights = ReadonlyMap<string, Tensor>;

export type BlockLinear = "attn.qkv" | "attn.proj" | "mlp.fc1" | "mlp.fc2";

export interface ForwardOptions {
  /** A factor for each token that enters a block, [keepIdx.length], on the output of both its norms (ViT-Slim's tanh ζ). */
  tokenGates?: Tensor[];
  /**
   * The attention-score form: a factor G ≥ 0 for each token, [keepIdx.length], on its exponential in every softmax.
   * Where G is 0 nobody reads the token, as if it were gone.
   */
  scoreGates?: Tensor[];
  /**
   * A ghost a block: one constant key and value, those of the qkv bias, that counts as so many tokens in every softmax.
   * It is what a token leaves behind whose norm output was multiplied by zero instead of removed; at 0 there is none.
   */
  ghosts?: (number | Tensor)[];
  /** Stochastic depth: whether a residual branch runs for each picture, [batch, 1, 1], already divided by its keep rate. */
  branchGates?: { attn: Tensor; mlp: Tensor }[];
  /**
   * The last block for its prefix tokens only, all that the heads read; the others are keys and values there and nothing
   * more. Not with `tokenGates`, which are as many as the tokens.
   */
  prefixOnly?: boolean;
  /** Receives what enters a block's linear, [batch × tokens, inputs]: GELU's output √2 times as large (see erfGate). */
  onInput?: (x: Tensor, name: BlockLinear, i: number) => void;
  /** Receives the class token's attention in block i, [batch, heads, 1, tokens]. */
  onAttention?: (p: Tensor, i: number) => void;
  /** Receives the residual stream after each block, [batch, tokens, embedDim]. */
  onBlock?: (x: Tensor) => void;
}

export interface ForwardOutput {
  /** [batch, classes]; with a distillation token, the mean of the two heads, as at inference */
  logits: Tensor;
  classLogits: Tensor;
  distLogits?: Tensor;
  /** [batch, embedDim]: the class token after the final norm */
  features: Tensor;
}

/** @param pixels [batch, 3, height, width], normalised */
export function forward(
  tf: TF,
  arch: Architecture,
  weights: Weights,
  pixels: Tensor,
  options: ForwardOptions = {},
): ForwardOutput {
  let x = embed(tf, arch, weights, pixels);
  arch.blocks.forEach((_, i) => {
    x = runBlock(tf, arch, i, blockWeights(tf, arch, i, weights, options), x, options);
    options.onBlock?.(x);
  });
  return classify(tf, arch, weights, x);
}

/** y = x Wᵀ + b */
interface Linear {
  weight: Tensor;
  bias: Tensor;
}

/** A block's weights as `runBlock` multiplies with them: for training made anew each step, for inference once. */
export interface BlockWeights {
  /** gain and shift of the norms, where they are not part of the linears after them */
  norm1?: Linear;
  norm2?: Linear;
  /** heads padded to the widest; absent without heads */
  qkv?: Linear;
  proj: Linear;
  /** absent without hidden units */
  fc1?: Linear;
  fc2: Linear;
}

export function blockWeights(
  tf: TF,
  arch: Architecture,
  i: number,
  weights: Weights,
  options: ForwardOptions = {},
): BlockWeights {
  const { embedDim, headDim, blocks } = arch;
  const { headDims, mlpHidden } = blocks[i];
  const at = (name: string): Linear => ({
    weight: weights.get(`blocks.${i}.${name}.weight`)!,
    bias: weights.get(`blocks.${i}.${name}.bias`)!,
  });
  // A norm's gain and shift go into the linear after it, W(γn + β) + b = (Wγ)n + (Wβ + b), which saves passes over the
  // activations; not where something acts between the two, nor with ghosts, which are made of b alone.
  const folds = !options.tokenGates && !options.onInput && !options.ghosts?.some((ghost) => ghost !== 0);
  const fold = (norm: Linear, { weight, bias }: Linear): Linear => {
    if (!folds) return { weight, bias };
    const shift = tf.reshape(norm.bias, [embedDim, 1]) as tfjs.Tensor2D;
    return {
      weight: tf.mul(weight, norm.weight),
      bias: tf.add(bias, tf.reshape(tf.matMul(weight as tfjs.Tensor2D, shift), [-1])),
    };
  };
  const half = (t: Tensor) => tf.mul(t, Math.SQRT1_2); // see erfGate

  const out: BlockWeights = { proj: at("attn.proj"), fc2: at("mlp.fc2") };
  if (!folds) Object.assign(out, { norm1: at("norm1"), norm2: at("norm2") });
  if (headDims.length > 0) {
    const width = Math.max(...headDims);
    const thrice = [...headDims, ...headDims, ...headDims];
    const qkv = fold(at("norm1"), at("attn.qkv"));
    // Per row: q carries the softmax scale. A key bias (or a norm's shift folded into it) adds the same to all scores of a
    // query, so softmax does not see it: left out, its gradient is exactly 0; left in, it is rounding noise, which Adam
    // would scale up to whole steps.
    const scale = 1 / Math.sqrt(headDim);
    const rows = (factors: number[]) =>
      tf.reshape(tf.mul(tf.tensor2d(factors, [3, 1]), tf.ones([1, headDims.length * width])), [-1, 1]);
    out.qkv = {
      weight: tf.mul(padHeads(tf, qkv.weight, thrice, 0), rows([scale, 1, 1])),
      bias: tf.mul(padHeads(tf, qkv.bias, thrice, 0), tf.reshape(rows([scale, 0, 1]), [-1])),
    };
    out.proj = { weight: padHeads(tf, out.proj.weight, headDims, 1), bias: out.proj.bias };
  }
  if (mlpHidden > 0) {
    const fc1 = fold(at("norm2"), at("mlp.fc1"));
    out.fc1 = { weight: half(fc1.weight), bias: half(fc1.bias) };
    out.fc2 = { weight: half(out.fc2.weight), bias: out.fc2.bias };
  }
  return out;
}

/**
 * Heads of one block may differ in width. Their weights, not their activations, are padded with zero channels to the
 * widest head, so that all heads run in one batched product; a zero channel adds nothing to q·k and carries no value.
 */
function padHeads(tf: TF, tensor: Tensor, widths: number[], axis: 0 | 1): Tensor {
  const width = Math.max(...widths);
  if (widths.every((w) => w === width)) return tensor;
  const padded = tf.split(tensor, widths, axis).map((head, h) => {
    const padding = tensor.shape.map((_, a) => (a === axis ? [0, width - widths[h]] : [0, 0])) as [number, number][];
    return widths[h] === width ? head : tf.pad(head, padding);
  });
  return tf.concat(padded, axis);
}

/**
 * Drops the tokens that do not enter block `i`, then attention and MLP.
 * @param x [batch, tokens of the block before, embedDim]
 * @returns [batch, keepIdx.length, embedDim]; with `prefixOnly`, of the last block [batch, prefixTokens, embedDim]
 */
export function runBlock(
  tf: TF,
  arch: Architecture,
  i: number,
  w: BlockWeights,
  x: Tensor,
  options: ForwardOptions = {},
): Tensor {
  const { embedDim, layerNormEps, prefixTokens, blocks } = arch;
  const { keepIdx } = blocks[i];
  const batch = x.shape[0]!;
  const tokens = options.prefixOnly && i === blocks.length - 1 ? prefixTokens : keepIdx.length;
  const flat = (y: Tensor) => tf.reshape(y, [-1, embedDim]);
  const stream = (y: Tensor) => tf.reshape(y, [batch, tokens, embedDim]);
  const norm = (y: Tensor, affine?: Linear) => {
    const n = affine
      ? layerNorm(tf, flat(y), affine.weight, affine.bias, layerNormEps)
      : normalise(tf, flat(y), layerNormEps);
    const gate = options.tokenGates?.[i];
    return gate ? flat(tf.mul(stream(n), tf.reshape(gate, [tokens, 1]))) : n;
  };
  const branch = (y: Tensor, kept?: Tensor) => (kept ? tf.mul(stream(y), kept) : stream(y));

  x = gatherTokens(tf, x, positions(blocks[Math.max(0, i - 1)].keepIdx, keepIdx));
  const keys = w.qkv && norm(x, w.norm1);
  if (tokens < keepIdx.length) x = tf.slice(x, [0, 0, 0], [batch, tokens, embedDim]);
  if (keys) options.onInput?.(keys, "attn.qkv", i);
  const mixed = keys ? attention(tf, arch, i, w.qkv!, keys, batch, tokens, options) : flat(x);
  if (keys) options.onInput?.(mixed, "attn.proj", i);
  x = tf.add(x, branch(linear(tf, mixed, w.proj.weight, w.proj.bias), options.branchGates?.[i].attn));
  const wide = w.fc1 && norm(x, w.norm2);
  const hidden = wide ? erfGate(tf, linear(tf, wide, w.fc1!.weight, w.fc1!.bias)) : flat(x);
  if (wide) options.onInput?.(wide, "mlp.fc1", i);
  if (wide) options.onInput?.(hidden, "mlp.fc2", i);
  return tf.add(x, branch(linear(tf, hidden, w.fc2.weight, w.fc2.bias), options.branchGates?.[i].mlp));
}

/** @param x [batch, tokens, embedDim] of the last block */
export function classify(tf: TF, arch: Architecture, weights: Weights, x: Tensor): ForwardOutput {
  const { embedDim, layerNormEps, prefixTokens } = arch;
  const batch = x.shape[0]!;
  const w = (name: string) => weights.get(name)!;
  const token = (k: number) => {
    const row = tf.reshape(tf.slice(x, [0, k, 0], [batch, 1, embedDim]), [batch, embedDim]);
    return layerNorm(tf, row, w("norm.weight"), w("norm.bias"), layerNormEps);
  };
  const features = token(0);
  const classLogits = linear(tf, features, w("head.weight"), w("head.bias"));
  if (prefixTokens === 1) return { logits: classLogits, classLogits, features };
  const distLogits = linear(tf, token(1), w("head_dist.weight"), w("head_dist.bias"));
  return { logits: tf.mul(tf.add(classLogits, distLogits), 0.5), classLogits, distLogits, features };
}

/** Where the tokens of `keep` stand in `alive`; both ascending. */
function positions(alive: number[], keep: number[]): number[] {
  const at = new Map(alive.map((token, k) => [token, k]));
  return keep.map((token) => at.get(token)!);
}

/** The first block's patches only, as reshape and matMul: [batch, keepIdx.length, embedDim]. */
export function embed(tf: TF, arch: Architecture, weights: Weights, pixels: Tensor): Tensor {
  refuseUnsupported("The TensorFlow.js forward", arch);
  const { embedDim, patchSize: p, prefixTokens } = arch;
  const { keepIdx } = arch.blocks[0];
  const [rows, columns] = patchGrid(arch);
  const batch = pixels.shape[0]!;
  const split = tf.transpose(tf.reshape(pixels, [batch, 3, rows, p, columns, p]), [0, 2, 4, 1, 3, 5]);
  const patches = gatherTokens(
    tf,
    tf.reshape(split, [batch, rows * columns, 3 * p * p]),
    keepIdx.slice(prefixTokens).map((token) => token - prefixTokens),
  );
  const parts = [tf.tile(weights.get("cls_token")!, [batch, 1, 1])];
  if (prefixTokens === 2) parts.push(tf.tile(weights.get("dist_token")!, [batch, 1, 1]));
  if (keepIdx.length > prefixTokens) {
    const kernel = tf.reshape(weights.get("patch_embed.proj.weight")!, [embedDim, 3 * p * p]);
    const tokens = linear(tf, tf.reshape(patches, [-1, 3 * p * p]), kernel, weights.get("patch_embed.proj.bias")!);
    parts.push(tf.reshape(tokens, [batch, -1, embedDim]));
  }
  const position = tf.reshape(weights.get("pos_embed")!, [1, denseTokens(arch), embedDim]);
  return tf.add(tf.concat(parts, 1), gatherTokens(tf, position, keepIdx));
}

/**
 * @param x [batch × tokens, embedDim], normalised
 * @param queries how many of the tokens, the first ones, read the others
 * @returns [batch × queries, heads × width], to be mixed by proj
 */
function attention(
  tf: TF,
  arch: Architecture,
  i: number,
  { weight, bias }: Linear,
  x: Tensor,
  batch: number,
  queries: number,
  { scoreGates, ghosts, onAttention }: ForwardOptions,
): Tensor {
  const heads = arch.blocks[i].headDims.length;
  const tokens = x.shape[0]! / batch;
  const width = bias.size / (3 * heads);
  const qkv = tf.reshape(linear(tf, x, weight, bias), [batch, tokens, 3, heads, width]);
  const [all, k, v] = tf.unstack(tf.transpose(qkv, [2, 0, 3, 1, 4]));
  const q = queries < tokens ? tf.slice(all, [0, 0, 0, 0], [batch, heads, queries, width]) : all;
  onAttention?.(tf.softmax(tf.matMul(tf.slice(q, [0, 0, 0, 0], [batch, heads, 1, width]), k, false, true)), i);
  const ghost = ghosts?.[i] ?? 0;
  const attended = ghost === 0 ? attend(tf, q, k, v, scoreGates?.[i]) : attendGhost(ghost);
  return tf.reshape(tf.transpose(attended, [0, 2, 1, 3]), [batch * queries, heads * width]);

  /** Its key is the key bias, which is left out of all keys: zero. */
  function attendGhost(ghost: number | Tensor): Tensor {
    const one = [batch, heads, 1, width];
    const valueBias = tf.reshape(tf.slice(bias, [2 * heads * width], [heads * width]), [1, heads, 1, width]);
    const gates = tf.concat([scoreGates?.[i] ?? tf.ones([tokens]), tf.reshape(ghost, [1])], 0);
    return attend(
      tf,
      q,
      tf.concat([k, tf.zeros(one)], 2),
      tf.concat([v, tf.tile(valueBias, [batch, 1, 1, 1])], 2),
      gates,
    );
  }
}
