import { beforeAll, describe, expect, test } from "vitest";
import { type ForwardOptions, forward } from "../../src/engines/tfjs/forward.ts";
import type { Tensor, TF } from "../../src/engines/tfjs/ops.ts";
import { selfTestPixels } from "../../src/format/write.ts";
import { compareGradients, vit } from "../../tools/bench-train.ts";
import { openBackend } from "../../tools/lib/backend.ts";
import { crossEntropy, smoothTargets } from "../../tools/lib/losses.ts";
import { cutTensors, slimArchitecture } from "../../tools/lib/masks.ts";
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
const FORMS: [string, (tf: TF) => ForwardOptions][] = [
  ["plain", () => ({})],
  ["token gates", (tf) => ({ tokenGates: slim.blocks.map((b) => tf.fill([b.keepIdx.length], 0.7)) })],
  ["score gates", (tf) => ({ scoreGates: slim.blocks.map((b) => tf.linspace(0, 1, b.keepIdx.length)) })],
  ["ghosts", () => ({ ghosts: slim.blocks.map((b) => 18 - b.keepIdx.length) })],
];

function gradients(tf: TF, options: (tf: TF) => ForwardOptions): Map<string, Float32Array> {
  const out = new Map<string, Float32Array>();
  tf.tidy(() => {
    const names = [...tensors.keys()];
    const weights = names.map((name) => tf.tensor(tensors.get(name)!.data as Float32Array, tensors.get(name)!.shape));
    const single = [1, 2, 3].map((seed) => tf.tensor(selfTestPixels(slim, seed), [3, 32, 32]));
    const pixels = tf.stack(single) as Tensor;
    const targets = tf.tensor2d(smoothTargets([0, 1, 2], CLASSES.length, 0.1), [BATCH, CLASSES.length]);
    const loss = (...inputs: Tensor[]) => {
      const named = new Map(names.map((name, k) => [name, inputs[k]]));
      return crossEntropy(tf, forward(tf, slim, named, pixels, options(tf)).logits, targets);
    };
    const grads = tf.grads(loss as never)(weights);
    grads.forEach((grad, k) => {
      out.set(names[k], grad.dataSync() as Float32Array);
    });
  });
  return out;
}

describe("gradients on two backends", () => {
  let onNode: Map<string, Float32Array>[];
  let onWasm: Map<string, Float32Array>[];
  beforeAll(async () => {
    const node = await openBackend("tfjs-node");
    onNode = FORMS.map(([, options]) => gradients(node.tf, options));
    const wasm = await openBackend("wasm");
    expect(wasm.tf.getBackend()).toBe("wasm");
    onWasm = FORMS.map(([, options]) => gradients(wasm.tf, options));
  }, 120_000);

  test.each(FORMS.map(([name], k) => [name, k] as const))("%s: tfjs-node and wasm agree on a slim ViT", (_, k) => {
    expect([...onWasm[k].keys()]).toEqual([...onNode[k].keys()]);
    for (const [name, expected] of onNode[k]) {
      const largest = expected.reduce((max, v) => Math.max(max, Math.abs(v)), 1e-4);
      const actual = onWasm[k].get(name)!;
      expect(actual).toHaveLength(expected.length);
      const worst = expected.reduce((max, v, i) => Math.max(max, Math.abs(v - actual[i])), 0);
      if (!(worst / largest <= 1e-4)) throw new Error(`${name}: off by ${worst / largest} of its largest value`);
    }
  });

  test("the forms differ from one another, so each was really computed", () => {
    const heads = onNode.map((grads) => grads.get("head.weight")!.join());
    expect(new Set(heads).size).toBe(FORMS.length);
  });
});

test("gradients written by hand are those of automatic differentiation", async () => {
  const { tf } = await openBackend("tfjs-node");
  expect(compareGradients(tf, vit(16, 4, 128, 2))).toBeLessThan(1e-4);
});
