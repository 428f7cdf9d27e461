import type * as tfjs from "@tensorflow/tfjs-core";
import type { Tensor, TF } from "../../src/tfjs/ops.ts";

export interface AdamWOptions {
  beta1?: number;
  beta2?: number;
  eps?: number;
  weightDecay: number;
  /** names whose variables are decayed; default: matrices that are no embedding */
  decays?: (name: string, variable: Tensor) => boolean;
}

/** No decay on vectors, biases, embeddings and prefix tokens. */
export function decaysByDefault(name: string, variable: Tensor): boolean {
  return (
    variable.rank > 1 &&
    !name.endsWith(".bias") &&
    !/^(pos_embed|(cls|dist|reg)_token)$|\.(rel_bias|rope_freqs)$/.test(name)
  );
}

/**
 * Adam with decoupled weight decay: p ← p·(1 − lr·wd), then Adam's step.
 * @see Loshchilov, Hutter 2019 — https://arxiv.org/abs/1711.05101
 */
export class AdamW {
  /** steps taken so far */
  steps = 0;
  /** first and second moments by variable name */
  readonly moments = new Map<string, [Tensor, Tensor]>();
  private readonly options: Required<AdamWOptions>;

  constructor(
    private readonly tf: TF,
    options: AdamWOptions,
  ) {
    this.options = { beta1: 0.9, beta2: 0.999, eps: 1e-8, decays: decaysByDefault, ...options };
  }

  /** @param lr by variable name, so that masks can have a rate of their own */
  step(
    variables: ReadonlyMap<string, tfjs.Variable>,
    gradients: ReadonlyMap<string, Tensor>,
    lr: (name: string) => number,
  ): void {
    const { tf } = this;
    const { beta1, beta2, eps, weightDecay, decays } = this.options;
    this.steps++;
    const correction1 = 1 - beta1 ** this.steps;
    const correction2 = Math.sqrt(1 - beta2 ** this.steps);
    for (const [name, variable] of variables) {
      const gradient = gradients.get(name);
      if (!gradient) continue;
      const rate = lr(name);
      const [m, v, next] = tf.tidy(() => {
        const [m0, v0] = this.moments.get(name) ?? [tf.zerosLike(variable), tf.zerosLike(variable)];
        const m = tf.add(tf.mul(m0, beta1), tf.mul(gradient, 1 - beta1));
        const v = tf.add(tf.mul(v0, beta2), tf.mul(tf.square(gradient), 1 - beta2));
        const decayed = weightDecay && decays(name, variable) ? tf.mul(variable, 1 - rate * weightDecay) : variable;
        const update = tf.div(m, tf.add(tf.div(tf.sqrt(v), correction2), eps));
        return [m, v, tf.sub(decayed, tf.mul(update, rate / correction1))];
      });
      tf.dispose(this.moments.get(name) ?? []);
      this.moments.set(name, [tf.keep(m), tf.keep(v)]);
      variable.assign(next as tfjs.Tensor);
      next.dispose();
    }
  }

  dispose(): void {
    for (const pair of this.moments.values()) this.tf.dispose(pair);
    this.moments.clear();
  }
}
