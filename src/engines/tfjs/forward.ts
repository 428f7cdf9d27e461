/**
 * The slim forward pass in TensorFlow.js ops, batched and differentiable. Training and the tfjs engine both run it, so
 * what is trained is what ships. The maths is that of src/reference/forward.ts.
 */
import type * as tfjs from "@tensorflow/tfjs-core";
import { type Architecture, type BlockShape, denseTokens, patchGrid } from "../../format/model.ts";
import { attend, erfGate, gatherTokens, layerNorm, linear, normalise, type Tensor, type TF } from "./ops.ts";

/** Tensors by timm name, f32, shaped as `tensorShapes` says. */
export type Weights = ReadonlyMap<string, Tensor>;

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
  const { embedDim, layerNormEps, prefixTokens, blocks } = arch;
  const batch = pixels.shape[0]!;
  const w = (name: string) => weights.get(name)!;
  const norm = (x: Tensor, name: string) => layerNorm(tf, x, w(`${name}.weight`), w(`${name}.bias`), layerNormEps);
  // A norm's gain and shift go into the linear after it, W(γn + β) + b = (Wγ)n + (Wβ + b), which saves passes over the
  // activations; not where something acts between the two, nor with ghosts, which are made of b alone.
  const folds = !options.tokenGates && !options.ghosts?.some((ghost) => ghost !== 0);
  const normAndLinear = (x: Tensor, normName: string, name: string): Linear => {
    const [weight, bias] = [w(`${name}.weight`), w(`${name}.bias`)];
    if (!folds || weight.size === 0) return { x: norm(x, normName), weight, bias };
    const shift = tf.reshape(w(`${normName}.bias`), [embedDim, 1]) as tfjs.Tensor2D;
    return {
      x: normalise(tf, x, layerNormEps),
      weight: tf.mul(weight, w(`${normName}.weight`)),
      bias: tf.add(bias, tf.reshape(tf.matMul(weight as tfjs.Tensor2D, shift), [-1])),
    };
  };
  const flat = (x: Tensor) => tf.reshape(x, [-1, embedDim]);

  let alive = blocks[0].keepIdx;
  let x = embed(tf, arch, weights, pixels, alive);
  blocks.forEach((block, i) => {
    const rows = positions(alive, block.keepIdx);
    x = gatherTokens(tf, x, rows);
    alive = block.keepIdx;
    const tokens = alive.length;
    const stream = (y: Tensor) => tf.reshape(y, [batch, tokens, embedDim]);
    const gate = (y: Tensor) => {
      const g = options.tokenGates?.[i];
      return g ? flat(tf.mul(stream(y), tf.reshape(g, [tokens, 1]))) : y;
    };
    const branch = (y: Tensor, kept?: Tensor) => (kept ? tf.mul(stream(y), kept) : stream(y));

    const qkv = normAndLinear(flat(x), `blocks.${i}.norm1`, `blocks.${i}.attn.qkv`);
    const attn = attention(
      tf,
      arch,
      block,
      weights,
      `blocks.${i}.attn`,
      { ...qkv, x: gate(qkv.x) },
      batch,
      options.scoreGates?.[i],
      options.ghosts?.[i],
    );
    x = tf.add(x, branch(attn, options.branchGates?.[i].attn));
    const half = (t: Tensor) => tf.mul(t, Math.SQRT1_2); // see erfGate
    const fc1 = normAndLinear(flat(x), `blocks.${i}.norm2`, `blocks.${i}.mlp.fc1`);
    const hidden = erfGate(tf, linear(tf, gate(fc1.x), half(fc1.weight), half(fc1.bias)));
    const mlp = linear(tf, hidden, half(w(`blocks.${i}.mlp.fc2.weight`)), w(`blocks.${i}.mlp.fc2.bias`));
    x = tf.add(x, branch(mlp, options.branchGates?.[i].mlp));
    options.onBlock?.(x);
  });

  const token = (k: number) =>
    norm(tf.reshape(tf.slice(x, [0, k, 0], [batch, 1, embedDim]), [batch, embedDim]), "norm");
  const features = token(0);
  const classLogits = linear(tf, features, w("head.weight"), w("head.bias"));
  if (prefixTokens === 1) return { logits: classLogits, classLogits, features };
  const distLogits = linear(tf, token(1), w("head_dist.weight"), w("head_dist.bias"));
  return { logits: tf.mul(tf.add(classLogits, distLogits), 0.5), classLogits, distLogits, features };
}

/** What is to be multiplied and added: y = x Wᵀ + b. */
interface Linear {
  x: Tensor;
  weight: Tensor;
  bias: Tensor;
}

/** Where the tokens of `keep` stand in `alive`; both ascending. */
function positions(alive: number[], keep: number[]): number[] {
  const at = new Map(alive.map((token, k) => [token, k]));
  return keep.map((token) => at.get(token)!);
}

/** Kept patches only, as reshape and matMul: [batch, keepIdx.length, embedDim]. */
function embed(tf: TF, arch: Architecture, weights: Weights, pixels: Tensor, keepIdx: number[]): Tensor {
  const { embedDim, patchSize: p, prefixTokens } = arch;
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
 * Heads of one block may differ in width. Their weights, not their activations, are padded with zero channels to the
 * widest head, so that all heads run in one batched product; a zero channel adds nothing to q·k and carries no value.
 * @param qkvOf q, k and v of x [batch × tokens, embedDim]
 * @returns [batch × tokens, embedDim]
 */
function attention(
  tf: TF,
  arch: Architecture,
  block: BlockShape,
  weights: Weights,
  name: string,
  qkvOf: Linear,
  batch: number,
  scoreGate?: Tensor,
  ghost: number | Tensor = 0,
): Tensor {
  const { embedDim, headDim } = arch;
  const { x } = qkvOf;
  const heads = block.headDims.length;
  const tokens = x.shape[0]! / batch;
  const projWeight = weights.get(`${name}.proj.weight`)!;
  const projBias = weights.get(`${name}.proj.bias`)!;
  if (heads === 0) return linear(tf, x, projWeight, projBias);
  const width = Math.max(...block.headDims);
  const qkvWeight = padHeads(tf, qkvOf.weight, [...block.headDims, ...block.headDims, ...block.headDims], width, 0);
  const qkvBias = padHeads(tf, qkvOf.bias, [...block.headDims, ...block.headDims, ...block.headDims], width, 0);
  // Per row: q carries the softmax scale. A key bias (or a norm's shift folded into it) adds the same to all scores of a query, so softmax does not see it:
  // left out, its gradient is exactly 0; left in, it is rounding noise, which Adam would scale up to whole steps.
  const scale = 1 / Math.sqrt(headDim);
  const rows = (factors: number[]) =>
    tf.reshape(tf.mul(tf.tensor2d(factors, [3, 1]), tf.ones([1, heads * width])), [-1, 1]);
  const scaledWeight = tf.mul(qkvWeight, rows([scale, 1, 1]));
  const scaledBias = tf.mul(qkvBias, tf.reshape(rows([scale, 0, 1]), [-1]));
  const qkv = tf.reshape(linear(tf, x, scaledWeight, scaledBias), [batch, tokens, 3, heads, width]);
  const [q, k, v] = tf.unstack(tf.transpose(qkv, [2, 0, 3, 1, 4]));
  const attended = ghost === 0 ? attend(tf, q, k, v, scoreGate) : attendGhost(ghost);
  const mixed = tf.reshape(tf.transpose(attended, [0, 2, 1, 3]), [batch * tokens, heads * width]);
  return linear(tf, mixed, padHeads(tf, projWeight, block.headDims, width, 1), projBias);

  /** Its key is the key bias, which is left out of all keys: zero. */
  function attendGhost(ghost: number | Tensor): Tensor {
    const one = [batch, heads, 1, width];
    const valueBias = tf.reshape(tf.slice(qkvBias, [2 * heads * width], [heads * width]), [1, heads, 1, width]);
    const gates = tf.concat([scoreGate ?? tf.ones([tokens]), tf.reshape(ghost, [1])], 0);
    return attend(
      tf,
      q,
      tf.concat([k, tf.zeros(one)], 2),
      tf.concat([v, tf.tile(valueBias, [batch, 1, 1, 1])], 2),
      gates,
    );
  }

  function padHeads(tf: TF, tensor: Tensor, widths: number[], width: number, axis: 0 | 1): Tensor {
    if (widths.every((w) => w === width)) return tensor;
    const padded = tf.split(tensor, widths, axis).map((head, h) => {
      const padding = tensor.shape.map((_, a) => (a === axis ? [0, width - widths[h]] : [0, 0])) as [number, number][];
      return widths[h] === width ? head : tf.pad(head, padding);
    });
    return axis === 1 ? tf.reshape(tf.concat(padded, 1), [embedDim, -1]) : tf.concat(padded, 0);
  }
}
