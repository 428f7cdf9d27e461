/** One small training step's gradients in every form that training uses, on whatever backend. */

import { selfTestPixels } from "../../src/format/write.ts";
import { type ForwardOptions, forward } from "../../src/tfjs/forward.ts";
import type { Tensor, TF } from "../../src/tfjs/ops.ts";
import { cutTensors, slimArchitecture } from "../../tools/masks/masks.ts";
import { crossEntropy, smoothTargets } from "../../tools/training/losses.ts";
import { CLASSES, randomTensors, tinyArchitecture } from "./fixtures.ts";

const BATCH = 3;
const arch = tinyArchitecture({ prefixTokens: 2 });
const masks = arch.blocks.map((_, i) => ({
  attn: Array.from({ length: 16 }, (_, c) => c % (3 + i) !== 0), // heads of different widths
  mlp: Array.from({ length: 24 }, (_, c) => c % 4 !== i),
  tokens: Array.from({ length: 18 }, (_, token) => token < 2 || token > 3 + 3 * i),
}));
const slim = slimArchitecture(arch, masks);
const tensors = cutTensors(arch, randomTensors(arch, CLASSES.length, 2), masks);

/** Every op that training uses: gates, score gates and ghosts as well. */
export const FORMS: [string, (tf: TF) => ForwardOptions][] = [
  ["plain", () => ({})],
  ["token gates", (tf) => ({ tokenGates: slim.blocks.map((b) => tf.fill([b.keepIdx.length], 0.7)) })],
  ["score gates", (tf) => ({ scoreGates: slim.blocks.map((b) => tf.linspace(0, 1, b.keepIdx.length)) })],
  ["ghosts", () => ({ ghosts: slim.blocks.map((b) => 18 - b.keepIdx.length) })],
];

/** Read without blocking, which WebGPU cannot do otherwise. */
export async function gradients(tf: TF, options: (tf: TF) => ForwardOptions): Promise<Map<string, Float32Array>> {
  const names = [...tensors.keys()];
  const grads = tf.tidy(() => {
    const weights = names.map((name) => tf.tensor(tensors.get(name)!.data as Float32Array, tensors.get(name)!.shape));
    const single = [1, 2, 3].map((seed) => tf.tensor(selfTestPixels(slim, seed), [3, 32, 32]));
    const pixels = tf.stack(single) as Tensor;
    const targets = tf.tensor2d(smoothTargets([0, 1, 2], CLASSES.length, 0.1), [BATCH, CLASSES.length]);
    const loss = (...inputs: Tensor[]) => {
      const named = new Map(names.map((name, k) => [name, inputs[k]]));
      return crossEntropy(tf, forward(tf, slim, named, pixels, options(tf)).logits, targets);
    };
    return tf.grads(loss as never)(weights);
  });
  const out = new Map<string, Float32Array>();
  for (const [k, name] of names.entries()) out.set(name, (await grads[k].data()) as Float32Array);
  return out;
}
