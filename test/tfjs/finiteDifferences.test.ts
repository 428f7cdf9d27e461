/**
 * Gradients of a network that drops tokens against finite differences of the plain forward pass. The backends that are
 * compared elsewhere share their formulas, so they would share a wrong one.
 */
import { beforeAll, describe, expect, test } from "vitest";
import type { Architecture, Manifest, Tensors } from "../../src/format/model.ts";
import { selfTestPixels } from "../../src/format/write.ts";
import { forward as plainForward } from "../../src/reference/forward.ts";
import { forward } from "../../src/tfjs/forward.ts";
import { gatherTokens, type Tensor, type TF } from "../../src/tfjs/ops.ts";
import { cutTensors, slimArchitecture } from "../../tools/masks/masks.ts";
import { openBackend } from "../../tools/training/backend.ts";
import { expectClose, manifestOf, randomValues } from "../helpers.ts";
import { randomTensors, tinyArchitecture } from "../tools/fixtures.ts";

const CLASSES = 3;
const LABEL = 1;
let tf: TF;
beforeAll(async () => {
  ({ tf } = await openBackend("tfjs-node"));
});

describe.each([1, 2] as const)("with %d prefix tokens", (prefixTokens) => {
  const dense = tinyArchitecture({ prefixTokens });
  const tokens = 16 + prefixTokens;
  // Tokens leave before the first block and again before each other one, never the last ones first.
  const masks = dense.blocks.map((_, i) => ({
    attn: Array.from({ length: 16 }, (_, c) => c % (3 + i) !== 0),
    mlp: Array.from({ length: 24 }, (_, unit) => unit % 4 !== i),
    tokens: Array.from({ length: tokens }, (_, token) => token < prefixTokens || (token * 7) % 11 > 1 + 3 * i),
  }));
  const arch: Architecture = slimArchitecture(dense, masks);
  const tensors = cutTensors(dense, randomTensors(dense, CLASSES, 2), masks);
  const pixels = selfTestPixels(arch, 4);

  const lossOf = (changed: Tensors) => {
    const manifest: Manifest = { ...manifestOf(arch, CLASSES) };
    const logits = [...plainForward({ manifest, dtype: "f32", tensors: changed }, pixels).logits];
    const max = Math.max(...logits);
    return Math.log(logits.reduce((sum, v) => sum + Math.exp(v - max), 0)) + max - logits[LABEL];
  };

  /** The loss's slope when a tensor moves along `direction`. */
  function slopeOf(name: string, direction: Float32Array): number {
    const h = 2e-3;
    const at = (step: number) => {
      const { shape, data } = tensors.get(name)!;
      const moved = (data as Float32Array).map((v, k) => v + step * direction[k]);
      return lossOf(new Map(tensors).set(name, { dtype: "F32", shape, data: moved }));
    };
    return (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h);
  }

  function gradients(): Map<string, Float32Array> {
    const names = [...tensors.keys()];
    const values = tf.tidy(() => {
      const inputs = names.map((name) => tf.tensor(tensors.get(name)!.data as Float32Array, tensors.get(name)!.shape));
      const loss = (...weights: Tensor[]) => {
        const named = new Map(names.map((name, k) => [name, weights[k]]));
        const { logits } = forward(tf, arch, named, tf.tensor4d(pixels, [1, 3, ...arch.imageSize]));
        return tf.neg(tf.slice(tf.logSoftmax(logits), [0, LABEL], [1, 1])).asScalar();
      };
      const grads = tf.grads(loss as never)(inputs);
      return grads.map((gradient) => gradient.dataSync() as Float32Array);
    });
    return new Map(names.map((name, k) => [name, values[k]]));
  }

  test("tokens do leave, before the first block and between blocks", () => {
    const counts = [tokens, ...arch.blocks.map(({ keepIdx }) => keepIdx.length)];
    for (let i = 1; i < counts.length; i++) expect(counts[i]).toBeLessThan(counts[i - 1]);
  });

  test("every tensor's gradient is the loss's slope along it", () => {
    const found = gradients();
    for (const [name, { data }] of tensors) {
      for (const seed of [1, 2]) {
        const direction = randomValues(data.length, seed);
        const along = found.get(name)!.reduce((sum, g, k) => sum + g * direction[k], 0);
        const size = Math.sqrt(found.get(name)!.reduce((sum, g) => sum + g * g, 0));
        expectClose([along], [slopeOf(name, direction)], 2e-3 * size + 2e-4, name);
      }
    }
  });

  test("each token's embedding has its own gradient, and one that no block keeps has none", () => {
    const found = gradients().get("pos_embed")!;
    const dim = arch.embedDim;
    for (let token = 0; token < tokens; token++) {
      const direction = new Float32Array(found.length);
      direction.set(randomValues(dim, token), token * dim);
      const along = found.reduce((sum, g, k) => sum + g * direction[k], 0);
      expectClose([along], [slopeOf("pos_embed", direction)], 1e-3, `token ${token}`);
      const own = found.subarray(token * dim, (token + 1) * dim);
      expect(own.some((g) => g !== 0)).toBe(arch.blocks[0].keepIdx.includes(token));
    }
  });
});

test("gatherTokens takes the named rows, and gives each its gradient back", () => {
  const rows = [0, 2, 5];
  const x = tf.tensor3d(
    Float32Array.from({ length: 2 * 6 * 2 }, (_, k) => k),
    [2, 6, 2],
  );
  const weights = tf.tensor3d(
    Float32Array.from({ length: 2 * 3 * 2 }, (_, k) => 10 + k),
    [2, 3, 2],
  );
  expect([...gatherTokens(tf, x, rows).dataSync()]).toEqual([0, 1, 4, 5, 10, 11, 12, 13, 16, 17, 22, 23]);
  const gradient = tf.grad(((x: Tensor) => tf.sum(tf.mul(gatherTokens(tf, x, rows), weights))) as never)(x as never);
  expect([...gradient.dataSync()]).toEqual([
    10, 11, 0, 0, 12, 13, 0, 0, 0, 0, 14, 15, 16, 17, 0, 0, 18, 19, 0, 0, 0, 0, 20, 21,
  ]);
});

test("a branch's gate multiplies what the branch adds: 0 leaves it out", () => {
  const arch = tinyArchitecture();
  const tensors = randomTensors(arch, CLASSES, 6);
  const pixels = selfTestPixels(arch, 4);
  const factors = [
    { attn: 0, mlp: 1.25 },
    { attn: 2, mlp: 0 },
    { attn: 0.5, mlp: 3 },
  ];
  const scaled: Tensors = new Map(tensors);
  factors.forEach(({ attn, mlp }, i) => {
    for (const [layer, factor] of [
      ["attn.proj", attn],
      ["mlp.fc2", mlp],
    ] as const)
      for (const part of ["weight", "bias"]) {
        const { shape, data } = tensors.get(`blocks.${i}.${layer}.${part}`)!;
        scaled.set(`blocks.${i}.${layer}.${part}`, {
          dtype: "F32",
          shape,
          data: (data as Float32Array).map((v) => v * factor),
        });
      }
  });
  const wanted = plainForward({ manifest: manifestOf(arch, CLASSES), dtype: "f32", tensors: scaled }, pixels).logits;
  const gated = tf.tidy(() => {
    const weights = new Map(
      [...tensors].map(([name, t]) => [name, tf.tensor(t.data as Float32Array, t.shape) as Tensor]),
    );
    const branchGates = factors.map(({ attn, mlp }) => ({
      attn: tf.tensor3d([attn], [1, 1, 1]) as Tensor,
      mlp: tf.tensor3d([mlp], [1, 1, 1]) as Tensor,
    }));
    return forward(tf, arch, weights, tf.tensor4d(pixels, [1, 3, 32, 32]), { branchGates }).logits.dataSync();
  });
  expectClose(gated, wanted, 1e-4);
});
