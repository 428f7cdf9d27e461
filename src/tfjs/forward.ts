/**
 * The slim forward pass in TensorFlow.js ops, batched and differentiable. Training and the tfjs engine both run it, so
 * the trained arithmetic is the shipped one. The maths is that of src/reference/forward.ts.
 */
import { type Architecture, lastRows } from "../format/model.ts";
import { attention, keysOf } from "./attention.ts";
import { blockWeights } from "./blockWeights.ts";
import { embed } from "./embedding.ts";
import { forcedRows, mergeTokens, rowsOfAlike } from "./merge.ts";
import { hiddenUnits } from "./mlp.ts";
import { gatherTokens, layerNorm, linear, normalise, type Tensor, type TF } from "./ops.ts";
import type { BlockWeights, ForwardOptions, ForwardOutput, Linear, Stream, Weights } from "./options.ts";
import { classify } from "./pooling.ts";

export { blockWeights } from "./blockWeights.ts";
export { embed } from "./embedding.ts";
export type { BlockLinear, BlockWeights, ForwardOptions, ForwardOutput, Stream, Weights } from "./options.ts";
export { classify } from "./pooling.ts";

/** @param pixels [batch, 3, height, width], normalised */
export function forward(
  tf: TF,
  arch: Architecture,
  weights: Weights,
  pixels: Tensor,
  options: ForwardOptions = {},
): ForwardOutput {
  let stream = embed(tf, arch, weights, pixels);
  arch.blocks.forEach((_, i) => {
    stream = runBlock(tf, arch, i, blockWeights(tf, arch, i, weights, options), stream, options);
    options.onBlock?.(stream.x);
  });
  return classify(tf, arch, weights, stream, options);
}

/**
 * Drops the tokens that do not enter block `i`, then attention, merge and MLP.
 * @param stream of the block before
 * @returns the stream after the block; of the last block with `lastRowsOnly` its first `lastRows` tokens
 */
export function runBlock(
  tf: TF,
  arch: Architecture,
  i: number,
  w: BlockWeights,
  stream: Stream,
  options: ForwardOptions = {},
): Stream {
  const { embedDim, layerNormEps, prefixTokens, blocks } = arch;
  const { keepIdx, merge } = blocks[i];
  const flat = (y: Tensor) => tf.reshape(y, [-1, embedDim]);
  const tokensOf = (y: Tensor) => tf.reshape(y, [batch, -1, embedDim]);
  const norm = (y: Tensor, affine?: Linear) => {
    const n = affine
      ? layerNorm(tf, flat(y), affine.weight, affine.bias, layerNormEps)
      : normalise(tf, flat(y), layerNormEps);
    const gate = options.tokenGates?.[i];
    return gate ? flat(tf.mul(tokensOf(n), tf.reshape(gate, [-1, 1]))) : n;
  };
  const branch = (y: Tensor, kept?: Tensor) => (kept ? tf.mul(tokensOf(y), kept) : tokensOf(y));

  let { x } = stream;
  const before = blocks[Math.max(0, i - 1)].keepIdx;
  if (before.length > keepIdx.length) x = gatherTokens(tf, x, placesIn(before, keepIdx));
  const [batch, tokens] = x.shape as number[];
  const isLast = i === blocks.length - 1;
  const rows = options.lastRowsOnly && isLast ? Math.min(tokens, lastRows(arch)) : tokens;

  const entering = w.qkv && norm(x, w.norm1);
  if (rows < tokens) x = tf.slice(x, [0, 0, 0], [batch, rows, embedDim]);
  if (entering) options.onInput?.(entering, "attn.qkv", i);
  const attended = entering && attention(tf, arch, i, w, entering, { ...stream, x }, options);
  if (attended) options.onInput?.(attended.mixed, "attn.proj", i);
  const mixed = attended ? attended.mixed : flat(x);
  x = tf.add(x, branch(linear(tf, mixed, w.proj.weight, w.proj.bias), options.branchGates?.[i].attn));
  let next: Stream = { ...stream, x };

  const forced = options.forcedPairs?.[i];
  if (merge && attended && forced?.length !== 0) {
    const rowsAfter = forced
      ? forcedRows(tf, batch, tokens, prefixTokens, forced)
      : (options.mergeRows?.[i] ?? rowsOfAlike(tf, keysOf(tf, w, attended.keys), prefixTokens, merge));
    options.onMerge?.(rowsAfter, i);
    next = mergeTokens(tf, arch, i, next, rowsAfter, tokens - (forced?.length ?? merge));
  }

  const wide = w.fc1 && norm(next.x, w.norm2);
  if (wide) options.onInput?.(wide, "mlp.fc1", i);
  const hidden = wide ? hiddenUnits(tf, arch, i, w, wide, options.onInput) : flat(next.x);
  const made = linear(tf, hidden, w.fc2.weight, w.fc2.bias);
  return { ...next, x: tf.add(next.x, branch(made, options.branchGates?.[i].mlp)) };
}

/**
 * `tf.tidy` of a stream. Tensors that it shares with another stream, such as the sizes while nothing merges, are
 * copied, so that each is freed alone.
 */
export function tidyStream(tf: TF, of: () => Stream): Stream {
  return tf.tidy(() => ownStream(tf, of()) as never) as Stream;
}

export function ownStream(tf: TF, { x, sizes, coordinates }: Stream): Stream {
  return {
    x,
    ...(sizes && { sizes: tf.clone(sizes) }),
    ...(coordinates && { coordinates: tf.clone(coordinates) }),
  };
}

/** Positions of the tokens of `keep` in `alive`; both ascend. */
function placesIn(alive: number[], keep: number[]): number[] {
  const at = new Map(alive.map((token, k) => [token, k]));
  return keep.map((token) => at.get(token)!);
}
