/** The hidden units of a block's MLP, and the activations of the family. */
import type { Activation, Architecture } from "../format/model.ts";
import { linear, normalise, type Tensor, type TF } from "./ops.ts";
import type { BlockWeights, ForwardOptions } from "./options.ts";

type Save = (tensors: Tensor[]) => void;

/**
 * Whether the weights around GELU contain √½, see `erfGate`. Not where an operation between GELU and fc2 would see it.
 */
export function hasHalvedGelu({ activation, mlp }: Architecture): boolean {
  return activation === "gelu" && mlp === "plain";
}

/**
 * @param x [rows, embedDim], normalised
 * @returns [rows, mlpHidden], as fc2 of `blockWeights` takes it
 */
export function hiddenUnits(
  tf: TF,
  arch: Architecture,
  i: number,
  w: BlockWeights,
  x: Tensor,
  onInput?: ForwardOptions["onInput"],
): Tensor {
  const { activation, mlp, hiddenNorm, normEps, layerNormEps } = arch;
  const units = linear(tf, x, w.fc1!.weight, w.fc1!.bias);
  if (hasHalvedGelu(arch)) {
    const hidden = erfGate(tf, units);
    onInput?.(tf.mul(hidden, Math.SQRT1_2), "mlp.fc2", i);
    return hidden;
  }
  let hidden: Tensor;
  if (mlp === "swiglu") {
    const [gate, value] = tf.split(units, 2, 1);
    hidden = tf.mul(activate(tf, gate, activation), value);
  } else hidden = activate(tf, units, activation);
  if (hiddenNorm) {
    hidden = normalise(tf, hidden, normEps?.hidden ?? layerNormEps, hiddenNorm);
    if (w.hiddenNorm) hidden = tf.add(tf.mul(hidden, w.hiddenNorm.weight), w.hiddenNorm.bias);
  }
  onInput?.(hidden, "mlp.fc2", i);
  return hidden;
}

export function activate(tf: TF, x: Tensor, kind: Activation): Tensor {
  if (kind === "gelu") return tf.mul(erfGate(tf, tf.mul(x, Math.SQRT1_2)), Math.SQRT1_2);
  if (kind === "gelu_tanh") return geluTanh(tf, x);
  if (kind === "relu") return tf.relu(x);
  return swish(tf, x, kind === "silu" ? 1 : 1.702);
}

/**
 * u (1 + erf u), which is √2 · GELU(√2 u), exact. With √½ in the weights of the linears around it, as `blockWeights` puts
 * it, this is GELU in the fewest passes over the widest activation.
 */
export function erfGate(tf: TF, u: Tensor): Tensor {
  const op = tf.customGrad((u, save) => {
    const ut = u as Tensor;
    const gate = tf.add(tf.erf(ut), 1);
    (save as unknown as Save)([ut, gate]);
    return {
      value: tf.mul(ut, gate),
      gradFunc: (dy: Tensor, saved: Tensor[]) => {
        const [ut, gate] = saved;
        const slope = tf.exp(tf.sub(Math.log(2 / Math.sqrt(Math.PI)), tf.square(ut))); // 2/√π e^(−u²)
        return tf.mul(dy, tf.add(gate, tf.mul(ut, slope)));
      },
    };
  });
  return op(u);
}

/** x σ(βx), whose slope is σ + βx σ (1 − σ) */
function swish(tf: TF, x: Tensor, beta: number): Tensor {
  const op = tf.customGrad((x, save) => {
    const xt = x as Tensor;
    const gate = tf.sigmoid(beta === 1 ? xt : tf.mul(xt, beta));
    const value = tf.mul(xt, gate);
    (save as unknown as Save)([value, gate]);
    return {
      value,
      gradFunc: (dy: Tensor, [value, gate]: Tensor[]) =>
        tf.mul(dy, tf.add(gate, tf.mul(tf.mul(value, beta), tf.sub(1, gate)))),
    };
  });
  return op(x);
}

const CUBE = 0.044715;
const ROOT = Math.sqrt(2 / Math.PI);

/** ½x (1 + t) with t = tanh z, z = √(2/π) (x + 0.044715 x³); its slope is ½(1 + t) + ½x (1 − t²) z′ */
function geluTanh(tf: TF, x: Tensor): Tensor {
  const op = tf.customGrad((x, save) => {
    const xt = x as Tensor;
    const z = tf.mul(xt, tf.add(tf.mul(tf.square(xt), ROOT * CUBE), ROOT));
    const t = tf.tanh(z);
    (save as unknown as Save)([xt, t]);
    return {
      value: tf.mul(tf.mul(xt, 0.5), tf.add(t, 1)),
      gradFunc: (dy: Tensor, [xt, t]: Tensor[]) => {
        const zSlope = tf.add(tf.mul(tf.square(xt), 3 * ROOT * CUBE), ROOT);
        const grows = tf.mul(tf.mul(xt, tf.sub(1, tf.square(t))), zSlope);
        return tf.mul(dy, tf.mul(tf.add(tf.add(t, 1), grows), 0.5));
      },
    };
  });
  return op(x);
}
