/** One small training step's gradients in every form that training uses, on whatever backend. */

import type { Architecture, Tensors } from "../../src/format/model.ts";
import { selfTestPixels } from "../../src/format/write.ts";
import { type ForwardOptions, forward } from "../../src/tfjs/forward.ts";
import type { Tensor, TF } from "../../src/tfjs/ops.ts";
import { cutTensors, slimArchitecture } from "../../tools/masks/masks.ts";
import { crossEntropy, smoothTargets } from "../../tools/training/losses.ts";
import { FAMILY } from "../family.ts";
import { randomModel } from "../helpers.ts";
import { CLASSES, randomTensors, tinyArchitecture } from "./fixtures.ts";

const BATCH = 3;
const arch = tinyArchitecture({ prefixTokens: 2 });
const masks = arch.blocks.map((_, i) => ({
  attn: Array.from({ length: 16 }, (_, c) => c % (3 + i) !== 0), // heads of different widths
  mlp: Array.from({ length: 24 }, (_, c) => c % 4 !== i),
  tokens: Array.from({ length: 18 }, (_, token) => token < 2 || token > 3 + 3 * i),
}));
const slim = slimArchitecture(arch, masks);

interface Network {
  arch: Architecture;
  tensors: Tensors;
}

const SLIM: Network = { arch: slim, tensors: cutTensors(arch, randomTensors(arch, CLASSES.length, 2), masks) };

const family = (name: string): Network => {
  const arch = FAMILY[name];
  return { arch, tensors: randomModel(arch, 5, CLASSES.length).tensors };
};

/** Every op that training uses: gates, score gates and ghosts, and what the family has beyond DeiT. */
export const FORMS: [string, (tf: TF) => ForwardOptions, Network?][] = [
  ["plain", () => ({})],
  ["token gates", (tf) => ({ tokenGates: slim.blocks.map((b) => tf.fill([b.keepIdx.length], 0.7)) })],
  ["score gates", (tf) => ({ scoreGates: slim.blocks.map((b) => tf.linspace(0, 1, b.keepIdx.length)) })],
  ["ghosts", () => ({ ghosts: slim.blocks.map((b) => 18 - b.keepIdx.length) })],
  ...["CLIP, zero-shot", "SigLIP", "EVA-02", "BEiT", "norms of queries and keys"].map((name): (typeof FORMS)[0] => [
    name,
    () => ({}),
    family(name),
  ]),
];

/** Read without blocking, which WebGPU cannot do otherwise. */
export async function gradients(
  tf: TF,
  options: (tf: TF) => ForwardOptions,
  { arch, tensors }: Network = SLIM,
): Promise<Map<string, Float32Array>> {
  const names = [...tensors.keys()];
  const grads = tf.tidy(() => {
    const weights = names.map((name) => tf.tensor(tensors.get(name)!.data as Float32Array, tensors.get(name)!.shape));
    const single = [1, 2, 3].map((seed) => tf.tensor(selfTestPixels(arch, seed), [3, ...arch.imageSize]));
    const pixels = tf.stack(single) as Tensor;
    const targets = tf.tensor2d(smoothTargets([0, 1, 2], CLASSES.length, 0.1), [BATCH, CLASSES.length]);
    const loss = (...inputs: Tensor[]) => {
      const named = new Map(names.map((name, k) => [name, inputs[k]]));
      const loss = crossEntropy(tf, forward(tf, arch, named, pixels, options(tf)).logits, targets);
      // A tensor that takes no part has no gradient, of which TensorFlow.js would complain: it is added with factor 0.
      return tf.add(
        loss,
        tf.mul(
          inputs.map((input) => tf.sum(input)).reduce((a, b) => tf.add(a, b)),
          0,
        ),
      );
    };
    return tf.grads(loss as never)(weights);
  });
  const out = new Map<string, Float32Array>();
  for (const [k, name] of names.entries()) out.set(name, (await grads[k].data()) as Float32Array);
  return out;
}
