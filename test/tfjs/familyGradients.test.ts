/** Gradients of each kind of network in the family against finite differences of the plain forward pass. */
import { beforeAll, describe, expect, test } from "vitest";
import type { Architecture, Model, Tensors } from "../../src/format/model.ts";
import { forward as plainForward } from "../../src/reference/forward.ts";
import { forward } from "../../src/tfjs/forward.ts";
import { activate } from "../../src/tfjs/mlp.ts";
import { normalise, type Tensor, type TF } from "../../src/tfjs/ops.ts";
import { preciseTurns } from "../../src/tfjs/positions.ts";
import { openBackend } from "../../tools/training/backend.ts";
import { FAMILY } from "../family.ts";
import { expectClose, randomModel, randomPixels, randomValues } from "../helpers.ts";

let tf: TF;
beforeAll(async () => {
  ({ tf } = await openBackend("tfjs-node"));
});

/** ReLU's kink lies between the points of a finite difference now and then, so its slope is tested alone. */
const smooth = (arch: Architecture): Architecture =>
  arch.activation === "relu" ? { ...arch, activation: "gelu_tanh" } : arch;

/** Every feature that has a gradient of its own, some in company that FAMILY does not have. */
const NETWORKS: Record<string, Architecture> = {
  ...FAMILY,
  "relative positions with a slim list and lost tokens": {
    ...FAMILY.BEiT,
    pooling: "class+mean",
    finalNorm: "both",
    preNorm: true,
  },
  "a gated GELU with an inner norm": { ...FAMILY["EVA-02"], activation: "gelu", qkNorm: true },
};

describe.each(Object.entries(NETWORKS))("%s", (_, given) => {
  const arch = smooth(given);
  const model = randomModel(arch, 11);
  const pixels = randomPixels(arch, 12).map((v) => v / 2);
  // What merges is a constant for gradients: the pairs are those of the unmoved network.
  const { pairs, features, logits } = plainForward(model, pixels, { explain: true });
  const weightOf = { features: randomValues(features.length, 1), logits: randomValues(logits.length, 2) };

  const lossOf = (tensors: Tensors): number => {
    const output = plainForward({ ...model, tensors }, pixels, { forcedPairs: pairs });
    const dot = (values: Float32Array, weights: Float32Array) => values.reduce((sum, v, k) => sum + v * weights[k], 0);
    return dot(output.features, weightOf.features) + dot(output.logits, weightOf.logits);
  };

  /** The loss's slope when a tensor moves along `direction`. */
  function slopeOf(name: string, direction: Float32Array): number {
    const h = 4e-3 / Math.max(1, Math.sqrt(direction.length) / 4);
    const at = (step: number) => {
      const { shape, data } = model.tensors.get(name)!;
      const moved = (data as Float32Array).map((v, k) => v + step * direction[k]);
      return lossOf(new Map(model.tensors).set(name, { dtype: "F32", shape, data: moved }));
    };
    return (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h);
  }

  function gradients(): Map<string, Float32Array> {
    const names = [...model.tensors.keys()];
    const values = tf.tidy(() => {
      const inputs = names.map((name) => {
        const { shape, data } = model.tensors.get(name)!;
        return tf.tensor(data as Float32Array, shape);
      });
      const loss = (...weights: Tensor[]) => {
        const named = new Map(names.map((name, k) => [name, weights[k]]));
        const batch = tf.tensor4d(pixels, [1, 3, ...arch.imageSize]);
        const output = forward(tf, arch, named, batch, { forcedPairs: pairs });
        const ofFeatures = tf.sum(tf.mul(output.features, tf.tensor(weightOf.features)));
        const ofLogits = logits.length ? tf.sum(tf.mul(output.logits, tf.tensor(weightOf.logits))) : tf.scalar(0);
        // A tensor that takes no part has no gradient, of which TensorFlow.js would complain: it is added with factor 0.
        const all = tf.addN(weights.map((weight) => tf.sum(weight)));
        return tf.addN([ofFeatures, ofLogits, tf.mul(all, 0)] as Tensor[]).asScalar();
      };
      return tf
        .grads(loss as never)(inputs)
        .map((gradient) => gradient.dataSync() as Float32Array);
    });
    return new Map(names.map((name, k) => [name, values[k]]));
  }

  test("every tensor's gradient is the loss's slope along it", () => {
    const found = gradients();
    let moving = 0;
    for (const [name, { data }] of model.tensors) {
      if (!data.length) continue;
      const direction = randomValues(data.length, 3);
      const along = found.get(name)!.reduce((sum, g, k) => sum + g * direction[k], 0);
      const size = Math.sqrt(found.get(name)!.reduce((sum, g) => sum + g * g, 0));
      if (size > 1e-3) moving++;
      expectClose([along], [slopeOf(name, direction)], 3e-3 * size + 1e-3, name);
    }
    expect(moving).toBeGreaterThan(0.8 * model.tensors.size);
  });
});

describe("the operations' gradients are the slopes of their values", () => {
  const x = Float32Array.of(-3, -1.2, -0.4, 0.3, 0.9, 2.5);
  /** Of Σ w · op(x), at each x. */
  function expectSlopes(op: (x: Tensor) => Tensor): void {
    const weights = tf.tensor1d(randomValues(x.length, 5));
    const loss = (values: Tensor) => tf.sum(tf.mul(tf.reshape(op(values), [-1]), weights)) as Tensor;
    tf.tidy(() => {
      const found = tf
        .grad(loss as never)(tf.tensor1d(x) as never)
        .dataSync();
      const h = 1e-2;
      const slopes = Array.from(x, (_, k) => {
        const at = (step: number) => loss(tf.tensor1d(x.map((v, j) => (j === k ? v + step : v)))).dataSync()[0];
        return (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h);
      });
      expectClose(found, slopes, 2e-4);
    });
  }

  test.each(["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"] as const)("%s", (kind) => {
    expectSlopes((values) => activate(tf, values, kind));
  });

  test("a norm of what is left of a row, which counts the zeros that are not there", () => {
    expectSlopes((values) => normalise(tf, tf.reshape(values, [2, 3]), 1e-3, 5));
    expectSlopes((values) => normalise(tf, tf.reshape(values, [2, 3]), 1e-3));
  });
});

test("sine and cosine for WebGPU are exact to 1e-6, and so are their slopes", () => {
  const angles = Float32Array.from({ length: 400 }, (_, k) => (k - 200) / 7);
  tf.tidy(() => {
    const { sin, cos } = preciseTurns(tf, tf.tensor1d(angles));
    expectClose(sin.dataSync(), angles.map(Math.sin), 2e-6);
    expectClose(cos.dataSync(), angles.map(Math.cos), 2e-6);
    const slope = (of: "sin" | "cos") =>
      tf
        .grad(((x: Tensor) => tf.sum(preciseTurns(tf, x)[of])) as never)(tf.tensor1d(angles) as never)
        .dataSync();
    expectClose(slope("sin"), angles.map(Math.cos), 2e-6);
    expectClose(
      slope("cos"),
      angles.map((v) => -Math.sin(v)),
      2e-6,
    );
  });
});

test("a key bias that the softmax does not see has no gradient at all, also where tokens merge", () => {
  for (const name of ["DeiT, merging", "norms of queries and keys"]) {
    const model: Model = randomModel(FAMILY[name], 3);
    const { manifest } = model;
    const key = name.startsWith("DeiT") ? "blocks.1.attn.qkv.bias" : "blocks.1.attn.k_norm.bias";
    const inner = manifest.blocks[1].headDims.reduce((a, b) => a + b, 0);
    const gradient = tf.tidy(() => {
      const { shape, data } = model.tensors.get(key)!;
      const loss = (bias: Tensor) => {
        const weights = new Map(
          [...model.tensors].map(([at, t]) => [at, tf.tensor(t.data as Float32Array, t.shape) as Tensor]),
        );
        const batch = tf.tensor4d(randomPixels(manifest, 1), [1, 3, ...manifest.imageSize]);
        const { logits } = forward(tf, manifest, weights.set(key, bias), batch);
        return tf.add(tf.sum(logits), tf.mul(tf.sum(bias), 0)); // what takes no part would be complained of
      };
      return tf
        .grad(loss as never)(tf.tensor(data as Float32Array, shape) as never)
        .dataSync();
    });
    const ofKeys = name.startsWith("DeiT") ? gradient.slice(inner, 2 * inner) : gradient;
    expect([...ofKeys].every((g) => g === 0)).toBe(true);
  }
});
