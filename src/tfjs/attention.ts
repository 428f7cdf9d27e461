/** Self-attention over heads that need not have the same width. They are padded to the widest. */
import type { Architecture } from "../format/model.ts";
import { type AttendOptions, attend, linear, normalise, type Tensor, type TF } from "./ops.ts";
import type { BlockWeights, ForwardOptions, Linear, Stream } from "./options.ts";
import { coordinatesOf, type Turns, turn, turnsOf } from "./positions.ts";

export interface Attended {
  /** [batch × queries, heads × width], to be mixed by proj */
  mixed: Tensor;
  /** [batch, heads, tokens, width], as they enter the scores, but for `keyShift` */
  keys: Tensor;
}

/**
 * @param x [batch × tokens, embedDim], normalised
 * @param stream whose x has the tokens that read the others, the first ones
 */
export function attention(
  tf: TF,
  arch: Architecture,
  i: number,
  w: BlockWeights,
  x: Tensor,
  stream: Stream,
  options: ForwardOptions,
): Attended {
  const { headDim, normEps, layerNormEps, classToken } = arch;
  const [batch, queries] = stream.x.shape as number[];
  const heads = arch.blocks[i].headDims.length;
  const tokens = x.shape[0]! / batch;
  const { weight, bias } = w.qkv!;
  const width = bias.size / (3 * heads);
  const first = (t: Tensor, count: number) =>
    count < tokens ? tf.slice(t, [0, 0, 0, 0], [batch, heads, count, width]) : t;
  const headNorm = (t: Tensor, affine?: Linear) => {
    if (!affine) return t;
    return tf.add(tf.mul(normalise(tf, t, normEps?.qk ?? layerNormEps, headDim), affine.weight), affine.bias);
  };

  const qkv = tf.reshape(linear(tf, x, weight, bias), [batch, tokens, 3, heads, width]);
  const [all, ofK, v] = tf.unstack(tf.transpose(qkv, [2, 0, 3, 1, 4]));
  let [q, k] = [headNorm(first(all, queries), w.qNorm), headNorm(ofK, w.kNorm)];
  const turns = w.frequencies && (stream.coordinates || !w.turns ? turnsNow() : w.turns);
  if (turns) [q, k] = [turn(tf, q, turns), turn(tf, k, turns)];

  const readers = classToken ? 1 : queries;
  const biasOf = (rows: number) =>
    w.scoreBias && rows < tokens ? tf.slice(w.scoreBias, [0, 0, 0], [heads, rows, tokens]) : w.scoreBias;
  if (options.onAttention) {
    const scores = tf.matMul(readers < queries ? first(q, readers) : q, k, false, true);
    const biased = w.scoreBias ? tf.add(scores, biasOf(readers)!) : scores;
    const { sizes } = stream;
    options.onAttention(
      tf.softmax(sizes ? tf.add(biased, tf.log(tf.reshape(sizes, [batch, 1, 1, tokens]))) : biased),
      i,
    );
  }

  const ghost = options.ghosts?.[i] ?? 0;
  const how: AttendOptions = { gate: options.scoreGates?.[i], sizes: stream.sizes, bias: biasOf(queries) };
  const attended = ghost === 0 ? attend(tf, q, k, v, how) : attendGhost(ghost);
  const mixed = tf.reshape(tf.transpose(attended, [0, 2, 1, 3]), [batch * queries, heads * width]);
  return { mixed, keys: k };

  function turnsNow(): Turns {
    return turnsOf(tf, w.frequencies!, stream.coordinates ?? coordinatesOf(tf, arch, i), heads);
  }

  /** The ghost's key is the transformed key bias: zero where the bias is left out of all keys. */
  function attendGhost(ghost: number | Tensor): Tensor {
    const ofBias = (part: number) =>
      tf.reshape(tf.slice(bias, [part * heads * width], [heads * width]), [1, heads, 1, width]);
    const beside = (t: Tensor, one: Tensor) => tf.concat([t, tf.tile(one, [batch, 1, 1, 1])], 2);
    const gate = tf.concat([how.gate ?? tf.ones([tokens]), tf.reshape(ghost, [1])], 0);
    const sizes = how.sizes && tf.concat([how.sizes, tf.ones([batch, 1])], 1);
    return attend(tf, q, beside(k, headNorm(ofBias(1), w.kNorm)), beside(v, ofBias(2)), { gate, sizes });
  }
}

/** All heads' keys side by side, for comparing tokens: [batch, tokens, heads × width] */
export function keysOf(tf: TF, { keyShift }: BlockWeights, keys: Tensor): Tensor {
  const [batch, heads, tokens, width] = keys.shape as number[];
  const shifted = keyShift ? tf.add(keys, keyShift) : keys;
  return tf.reshape(tf.transpose(shifted, [0, 2, 1, 3]), [batch, tokens, heads * width]);
}
