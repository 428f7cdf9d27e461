/** A block's weights in the form in which `runBlock` multiplies with them. */
import type * as tfjs from "@tensorflow/tfjs-core";
import type { Architecture } from "../format/model.ts";
import { hasHalvedGelu } from "./mlp.ts";
import { type Tensor, type TF, takeTokens } from "./ops.ts";
import type { BlockWeights, ForwardOptions, Linear, Weights } from "./options.ts";
import { coordinatesOf, relativeBias, turnsOf } from "./positions.ts";

export function blockWeights(
  tf: TF,
  arch: Architecture,
  i: number,
  weights: Weights,
  options: ForwardOptions = {},
): BlockWeights {
  const { headDims, mlpHidden } = arch.blocks[i];
  const at = (name: string): Linear => ({
    weight: weights.get(`blocks.${i}.${name}.weight`)!,
    bias: weights.get(`blocks.${i}.${name}.bias`)!,
  });
  // A norm's gain and shift are folded into the linear after it, which saves passes over the activations. They are not
  // where something acts between the two, nor with ghosts, which consist of b alone.
  const folds = !options.tokenGates && !options.onInput && !options.ghosts?.some((ghost) => ghost !== 0);
  const fold = (norm: Linear, linear: Linear): Linear => (folds ? foldNorm(tf, norm, linear) : linear);

  const out: BlockWeights = { proj: at("attn.proj"), fc2: at("mlp.fc2") };
  if (!folds) Object.assign(out, { norm1: at("norm1"), norm2: at("norm2") });
  if (headDims.length > 0) Object.assign(out, headWeights(tf, arch, i, weights, at, fold(at("norm1"), at("attn.qkv"))));
  if (mlpHidden > 0) {
    out.fc1 = fold(at("norm2"), at("mlp.fc1"));
    if (arch.hiddenNorm) {
      if (!folds) out.hiddenNorm = at("mlp.norm");
      out.fc2 = fold(at("mlp.norm"), out.fc2);
    }
    if (hasHalvedGelu(arch)) {
      const half = (t: Tensor) => tf.mul(t, Math.SQRT1_2);
      out.fc1 = { weight: half(out.fc1.weight), bias: half(out.fc1.bias) };
      out.fc2 = { weight: half(out.fc2.weight), bias: out.fc2.bias };
    }
  }
  return out;
}

/** W(γn + β) + b = (Wγ)n + (Wβ + b) */
function foldNorm(tf: TF, norm: Linear, { weight, bias }: Linear): Linear {
  const shift = tf.reshape(norm.bias, [-1, 1]) as tfjs.Tensor2D;
  return {
    weight: tf.mul(weight, norm.weight),
    bias: tf.add(bias, tf.reshape(tf.matMul(weight as tfjs.Tensor2D, shift), [-1])),
  };
}

/** @param qkv after the fold of norm1 */
function headWeights(
  tf: TF,
  arch: Architecture,
  i: number,
  weights: Weights,
  at: (name: string) => Linear,
  qkv: Linear,
): Partial<BlockWeights> {
  const { headDim, qkNorm, position, blocks } = arch;
  const { headDims, merge } = blocks[i];
  const heads = headDims.length;
  const width = Math.max(...headDims);
  const thrice = [...headDims, ...headDims, ...headDims];
  const out: Partial<BlockWeights> = {};
  // With RoPE the first channels of all pairs of a head come first, then the second ones: in both q and k, so that no
  // product changes.
  const inTurn = Array.from({ length: width }, (_, c) => (c < width / 2 ? 2 * c : 2 * c - width + 1));
  const inOrder = Array.from({ length: width }, (_, c) => c);
  const ordered = (t: Tensor, parts: number[][]) => {
    if (position !== "rope" || width === 2) return t;
    const rows = parts.flatMap((order, head) => order.map((c) => head * width + c));
    return tf.reshape(takeTokens(tf, tf.reshape(t, [1, rows.length, -1]), rows), t.shape);
  };
  const ofQkv = (t: Tensor) =>
    ordered(
      padHeads(tf, t, thrice, 0),
      [0, 1, 2].flatMap((part) => headDims.map(() => (part < 2 ? inTurn : inOrder))),
    );
  const ofHead = (t: Tensor) =>
    tf.reshape(
      ordered(
        padHeads(tf, t, headDims, 0),
        headDims.map(() => inTurn),
      ),
      [heads, 1, width],
    ) as Tensor;

  const scale = 1 / Math.sqrt(headDim); // folded into q
  const rows = (factors: number[]) =>
    tf.reshape(tf.mul(tf.tensor2d(factors, [3, 1]), tf.ones([1, heads * width])), [-1, 1]);
  const whole = ofQkv(qkv.bias);
  // A shift of all keys adds the same to all scores of a query, so softmax does not see it: left out, its gradient is exactly
  // 0; left in, it is rounding noise, which Adam would scale up to whole steps. RoPE turns it, and a norm sees a bias before it.
  const shifts = position === "rope";
  const [ofQ, ofK] = qkNorm ? [1, 1] : [scale, Number(shifts)];
  const plain = ofQ === 1;
  out.qkv = {
    weight: plain ? ofQkv(qkv.weight) : tf.mul(ofQkv(qkv.weight), rows([ofQ, 1, 1])),
    bias: plain ? whole : tf.mul(whole, tf.reshape(rows([ofQ, ofK, 1]), [-1])),
  };
  if (qkNorm) {
    const [q, k] = [at("attn.q_norm"), at("attn.k_norm")];
    out.qNorm = { weight: tf.mul(ofHead(q.weight), scale), bias: tf.mul(ofHead(q.bias), scale) };
    out.kNorm = { weight: ofHead(k.weight), bias: shifts ? ofHead(k.bias) : tf.zeros([heads, 1, width]) };
    if (merge && !shifts) out.keyShift = ofHead(k.bias);
  } else if (merge && !shifts) {
    out.keyShift = tf.reshape(tf.slice(whole, [heads * width], [heads * width]), [heads, 1, width]);
  }
  if (position === "rope") {
    const halves = headDims.map((w) => w / 2);
    out.frequencies = padHeads(tf, weights.get(`blocks.${i}.attn.rope_freqs`)!, halves, 1);
    if (!blocks.slice(0, i).some((block) => block.merge > 0))
      out.turns = turnsOf(tf, out.frequencies, coordinatesOf(tf, arch, i), heads);
  }
  if (position === "relative")
    out.scoreBias = relativeBias(tf, arch, blocks[i].keepIdx, weights.get(`blocks.${i}.attn.rel_bias`)!);
  const proj = at("attn.proj");
  return { ...out, proj: { weight: padHeads(tf, proj.weight, headDims, 1), bias: proj.bias } };
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
