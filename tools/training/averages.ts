/** Exponential moving averages of the trained variables. */
import type * as tfjs from "@tensorflow/tfjs-core";
import type { Tensor, TF } from "../../src/tfjs/ops.ts";
import type { Variables } from "../models/variables.ts";

/** Updates the averages. In the first steps they follow faster: the decay is capped by (1 + step) / (10 + step). */
export function updateAverages(
  tf: TF,
  variables: Variables,
  ema: Map<string, Tensor>,
  decay: number,
  step: number,
): void {
  const d = Math.min(decay, (1 + step) / (10 + step));
  for (const [name, variable] of variables) {
    const before = ema.get(name);
    ema.set(
      name,
      tf.keep(tf.tidy(() => (before ? tf.add(tf.mul(before, d), tf.mul(variable, 1 - d)) : variable.clone()))),
    );
    before?.dispose();
  }
}

/** @returns what `use` gives with the averages in the variables' place; after it these are as before, bit for bit */
export async function withAverages<T>(
  tf: TF,
  variables: Variables,
  averages: Map<string, Tensor>,
  use: () => Promise<T>,
): Promise<T> {
  const own = new Map<string, Tensor>();
  for (const [name, average] of averages) {
    const variable = variables.get(name)!;
    own.set(name, tf.keep(variable.clone()));
    variable.assign(average as tfjs.Tensor);
  }
  try {
    return await use();
  } finally {
    for (const [name, value] of own) {
      variables.get(name)!.assign(value as tfjs.Tensor);
      value.dispose();
    }
  }
}
