/**
 * The network's operations in TensorFlow.js, each with an explicit gradient: fewer passes over memory than automatic
 * differentiation of the plain form, and no kernel that the wasm or webgpu backend lacks.
 */
import type * as tfjs from "@tensorflow/tfjs-core";

/** The caller's TensorFlow.js: tfjs-node when training in Node, tfjs-core with the webgpu backend in a browser. */
export type TF = typeof tfjs;
export type Tensor = tfjs.Tensor;

type Save = (tensors: Tensor[]) => void;

/**
 * From this many columns on, TensorFlow.js 4.22 splits products of few rows on WebGPU. It then reads a W that is to be
 * transposed as if it were not.
 */
const SPLIT_COLUMNS = 2000;

/** The result of `of` as a constant: nothing in it is differentiated. */
export function constant(tf: TF, of: () => Tensor): Tensor {
  return tf.customGrad(() => ({ value: of(), gradFunc: () => [] }))();
}

/** y = x Wᵀ + b for x [rows, in], W [out, in] */
export function linear(tf: TF, x: Tensor, weight: Tensor, bias: Tensor): Tensor {
  if (weight.size === 0) return tf.add(tf.zeros([x.shape[0], bias.shape[0]!]), bias); // nothing left to multiply
  const op = tf.customGrad((x, weight, bias, save) => {
    const [xt, wt] = [x, weight] as tfjs.Tensor2D[];
    (save as unknown as Save)([xt, wt]);
    const product =
      wt.shape[1] < SPLIT_COLUMNS ? tf.matMul(xt, wt, false, true) : tf.matMul(xt, tf.transpose(wt) as tfjs.Tensor2D);
    return {
      value: tf.add(product, bias as Tensor),
      gradFunc: (dy: Tensor, saved: Tensor[]) => {
        const [xt, wt] = saved as tfjs.Tensor2D[];
        const d = dy as tfjs.Tensor2D;
        const ones = tf.ones([1, d.shape[0]]) as tfjs.Tensor2D; // column sums are faster as a product than as a reduction
        return [tf.matMul(d, wt), tf.matMul(d, xt, true, false), tf.reshape(tf.matMul(ones, d), [d.shape[1]])];
      },
    };
  });
  return op(x, weight, bias);
}

/** Over the last axis of x [rows, dim], biased variance. */
export function layerNorm(tf: TF, x: Tensor, weight: Tensor, bias: Tensor, eps: number): Tensor {
  const op = tf.customGrad((x, weight, bias, save) => {
    const [xt, wt, bt] = [x, weight, bias] as Tensor[];
    const centred = tf.sub(xt, tf.mean(xt, -1, true));
    const inverse = tf.rsqrt(tf.add(tf.mean(tf.square(centred), -1, true), eps));
    const normal = tf.mul(centred, inverse);
    (save as unknown as Save)([normal, inverse, wt]);
    return {
      value: tf.add(tf.mul(normal, wt), bt),
      gradFunc: (dy: Tensor, saved: Tensor[]) => {
        const [normal, inverse, wt] = saved;
        const dyNormal = tf.mul(dy, normal);
        const dWeight = tf.sum(dyNormal, 0);
        const dBias = tf.sum(dy, 0);
        const g = tf.mul(dy, wt);
        const dim = wt.size;
        const meanG = tf.div(tf.matMul(dy as tfjs.Tensor2D, tf.reshape(wt, [dim, 1])), dim);
        const meanGNormal = tf.div(tf.matMul(dyNormal as tfjs.Tensor2D, tf.reshape(wt, [dim, 1])), dim);
        const dx = tf.mul(tf.sub(tf.sub(g, meanG), tf.mul(normal, meanGNormal)), inverse);
        return [dx, dWeight, dBias];
      },
    };
  });
  return op(x, weight, bias);
}

/**
 * Layer norm without gain and shift: (x − mean) / √(variance + eps) over the last axis of x.
 * @param denseDim how many channels mean and variance count; those that were cut are not in `x` and count as zeros
 */
export function normalise(tf: TF, x: Tensor, eps: number, denseDim?: number): Tensor {
  const width = x.shape.at(-1)!;
  const share = width / (denseDim ?? width);
  /** The mean over all channels, where values are 0 in those that were cut. */
  const mean = (y: Tensor) => (share === 1 ? tf.mean(y, -1, true) : tf.mul(tf.mean(y, -1, true), share));
  const op = tf.customGrad((x, save) => {
    const xt = x as Tensor;
    const middle = mean(xt);
    const centred = tf.sub(xt, middle);
    const square = mean(tf.square(centred));
    const variance = share === 1 ? square : tf.add(square, tf.mul(tf.square(middle), 1 - share));
    const inverse = tf.rsqrt(tf.add(variance, eps));
    const normal = tf.mul(centred, inverse);
    (save as unknown as Save)([normal, inverse]);
    return {
      value: normal,
      gradFunc: (dy: Tensor, saved: Tensor[]) => {
        const [normal, inverse] = saved;
        const along = mean(tf.mul(dy, normal));
        return tf.mul(tf.sub(tf.sub(dy, mean(dy)), tf.mul(normal, along)), inverse);
      },
    };
  });
  return op(x);
}

/** Options that change the softmax of `attend`. */
export interface AttendOptions {
  /** [tokens], a factor G ≥ 0 for each key's exponential, with a gradient */
  gate?: Tensor;
  /** [batch, tokens]: how many tokens each key stands for, a constant factor beside the gate */
  sizes?: Tensor;
  /** [heads, queries, tokens], added to the scores */
  bias?: Tensor;
}

/**
 * softmax(q kᵀ + bias) v, with factors for the keys' exponentials: p_ij = G_j e^(s_ij − m_i) / Σ_k G_k e^(s_ik − m_i), the row's
 * maximum m_i taken without gradient.
 * @param q [batch, heads, queries, width], already scaled; k and v [batch, heads, tokens, width]
 */
export function attend(tf: TF, q: Tensor, k: Tensor, v: Tensor, { gate, sizes, bias }: AttendOptions = {}): Tensor {
  const further = [gate, bias].filter((input) => input !== undefined);
  const op = tf.customGrad((...inputs) => {
    const [q, k, v] = inputs as unknown as Tensor[];
    const save = inputs.at(-1) as unknown as Save;
    const products = tf.matMul(q, k, false, true);
    const scores = bias ? tf.add(products, bias) : products;
    const { p, slope } = weightedSoftmax(tf, scores, gate, sizes);
    const out = tf.matMul(p, v);
    save([q, k, v, p, out, ...(slope ? [slope] : [])]);
    return {
      value: out,
      gradFunc: (dy: Tensor, saved: Tensor[]) => {
        const [q, k, v, p, out, slope] = saved;
        const dp = tf.matMul(dy, v, false, true);
        // Σ_j p_ij dp_ij, taken over the narrow head instead of over all keys
        const centred = tf.sub(dp, tf.sum(tf.mul(dy, out), -1, true));
        const ds = tf.mul(p, centred);
        return [
          ...[tf.matMul(ds, k), tf.matMul(ds, q, true, false), tf.matMul(p, dy, true, false)],
          ...(slope ? [tf.sum(tf.mul(slope, centred), [0, 1, 2])] : []),
          ...(bias ? [tf.sum(ds, 0)] : []),
        ];
      },
    };
  });
  return op(q, k, v, ...further);
}

/** @returns p, and with a gate p over G, finite at G = 0: what a dropped key's share would grow by */
function weightedSoftmax(tf: TF, scores: Tensor, gate?: Tensor, sizes?: Tensor): { p: Tensor; slope?: Tensor } {
  if (!gate && !sizes) return { p: tf.softmax(scores) };
  let exponentials = tf.exp(tf.sub(scores, tf.max(scores, -1, true)));
  if (sizes) exponentials = tf.mul(exponentials, tf.reshape(sizes, [sizes.shape[0]!, 1, 1, -1]));
  const weighted = gate ? tf.mul(exponentials, gate) : exponentials;
  const inverse = tf.reciprocal(tf.sum(weighted, -1, true));
  return { p: tf.mul(weighted, inverse), ...(gate && { slope: tf.mul(exponentials, inverse) }) };
}

/**
 * Takes rows out of the token axis. Its gradient is a gather as well (dropped rows read a zero row), so it needs no
 * scatter kernel.
 * @param x [batch, tokens, dim]
 * @param rows ascending positions on the token axis
 * @returns [batch, rows.length, dim]
 */
export function gatherTokens(tf: TF, x: Tensor, rows: number[]): Tensor {
  const tokens = x.shape[1]!;
  if (rows.length === tokens) return x;
  return takeTokens(tf, x, rows);
}

/** `gatherTokens` for rows in any order, each at most once. */
export function takeTokens(tf: TF, x: Tensor, rows: number[]): Tensor {
  const tokens = x.shape[1]!;
  const op = tf.customGrad((x) => ({
    value: tf.gather(x as Tensor, tf.tensor1d(rows, "int32"), 1),
    gradFunc: (dy: Tensor) => {
      const back = new Int32Array(tokens).fill(rows.length);
      rows.forEach((token, k) => {
        back[token] = k;
      });
      const [batch, , dim] = dy.shape as [number, number, number];
      return tf.gather(tf.concat([dy, tf.zeros([batch, 1, dim])], 1), tf.tensor1d(back, "int32"), 1);
    },
  }));
  return op(x);
}
