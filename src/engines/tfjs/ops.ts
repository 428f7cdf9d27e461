/**
 * The network's operations in TensorFlow.js, each with its gradient written out: fewer passes over memory than
 * automatic differentiation of the plain form, and no kernel that the wasm or webgpu backend lacks.
 */
import type * as tfjs from "@tensorflow/tfjs-core";

/** The caller's TensorFlow.js: tfjs-node when training in Node, tfjs-core with the webgpu backend in a browser. */
export type TF = typeof tfjs;
export type Tensor = tfjs.Tensor;

/** y = x Wᵀ + b for x [rows, in], W [out, in] */
export function linear(tf: TF, x: Tensor, weight: Tensor, bias: Tensor): Tensor {
  if (weight.size === 0) return tf.add(tf.zeros([x.shape[0], bias.shape[0]!]), bias); // nothing left to multiply
  return tf.add(tf.matMul(x as tfjs.Tensor2D, weight as tfjs.Tensor2D, false, true), bias);
}

/** Over the last axis of x [rows, dim], biased variance. */
export function layerNorm(tf: TF, x: Tensor, weight: Tensor, bias: Tensor, eps: number): Tensor {
  const op = tf.customGrad((x, weight, bias, save) => {
    const [xt, wt, bt] = [x, weight, bias] as Tensor[];
    const centred = tf.sub(xt, tf.mean(xt, -1, true));
    const inverse = tf.rsqrt(tf.add(tf.mean(tf.square(centred), -1, true), eps));
    const normal = tf.mul(centred, inverse);
    (save as unknown as (tensors: Tensor[]) => void)([normal, inverse, wt]);
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

/** x Φ(x), exact. */
export function gelu(tf: TF, x: Tensor): Tensor {
  const op = tf.customGrad((x, save) => {
    const xt = x as Tensor;
    const cdf = tf.mul(tf.add(tf.erf(tf.mul(xt, Math.SQRT1_2)), 1), 0.5);
    (save as unknown as (tensors: Tensor[]) => void)([xt, cdf]);
    return {
      value: tf.mul(xt, cdf),
      gradFunc: (dy: Tensor, saved: Tensor[]) => {
        const [xt, cdf] = saved;
        const density = tf.exp(tf.sub(tf.mul(tf.square(xt), -0.5), 0.5 * Math.log(2 * Math.PI)));
        return tf.mul(dy, tf.add(cdf, tf.mul(xt, density)));
      },
    };
  });
  return op(x);
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
