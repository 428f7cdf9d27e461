import fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import type { Architecture, Manifest, Model, Tensors } from "../../src/format/model.ts";
import { countMacs, denseTokens, innerDim } from "../../src/format/model.ts";
import { selfTestPixels } from "../../src/format/write.ts";
import { forward } from "../../src/reference/forward.ts";
import { forward as tfForward } from "../../src/tfjs/forward.ts";
import type { TF } from "../../src/tfjs/ops.ts";
import { allocate } from "../../tools/masks/allocate.ts";
import { type BlockMask, cutTensors, hardenMasks, slimArchitecture, threshold } from "../../tools/masks/masks.ts";
import { openBackend } from "../../tools/training/backend.ts";
import { expectClose } from "../helpers.ts";
import { randomTensors, tinyArchitecture } from "./fixtures.ts";

const CLASSES = 5;
let tf: TF;
beforeAll(async () => {
  ({ tf } = await openBackend("tfjs-node"));
});

const asModel = (arch: Architecture, tensors: Tensors): Model => ({
  manifest: arch as Manifest,
  dtype: "f32",
  tensors,
});

/** Masks of the tiny dense ViT: any channels and units, tokens nested and with the class token. */
const anyMasks = fc
  .array(
    fc.record({
      attn: fc.array(fc.boolean(), { minLength: 16, maxLength: 16 }),
      mlp: fc.array(fc.boolean(), { minLength: 24, maxLength: 24 }),
      tokens: fc.array(fc.boolean(), { minLength: 17, maxLength: 17 }),
    }),
    { minLength: 3, maxLength: 3 },
  )
  .map((blocks): BlockMask[] => {
    let alive: boolean[] = Array(17).fill(true);
    return blocks.map(({ attn, mlp, tokens }) => {
      alive = alive.map((kept, k) => kept && (tokens[k] || k === 0));
      return { attn, mlp, tokens: alive };
    });
  });

/** The same tensors with the masked channels and units multiplied by zero, nothing removed. */
function zeroed(arch: Architecture, tensors: Tensors, masks: BlockMask[]): Tensors {
  const out: Tensors = new Map(tensors);
  const keep = (name: string, kept: (row: number, column: number) => boolean) => {
    const { shape, data } = out.get(name)!;
    const columns = shape[1] ?? 1;
    out.set(name, {
      dtype: "F32",
      shape,
      data: (data as Float32Array).map((v, k) => (kept(Math.floor(k / columns), k % columns) ? v : 0)),
    });
  };
  arch.blocks.forEach((block, i) => {
    for (const part of ["weight", "bias"])
      keep(`blocks.${i}.attn.qkv.${part}`, (row) => masks[i].attn[row % innerDim(block)]);
    keep(`blocks.${i}.mlp.fc2.weight`, (_, column) => masks[i].mlp[column]);
  });
  return out;
}

describe("cutting equals multiplying by zero", () => {
  const arch = tinyArchitecture();
  const tensors = randomTensors(arch, CLASSES, 3);
  const pixels = selfTestPixels(arch, 5);

  test("for channels, whole heads and MLP units", () => {
    fc.assert(
      fc.property(anyMasks, (masks) => {
        const all = masks.map((mask) => ({ ...mask, tokens: mask.tokens.map(() => true) }));
        const slim = asModel(slimArchitecture(arch, all), cutTensors(arch, tensors, all));
        expectClose(
          forward(slim, pixels).logits,
          forward(asModel(arch, zeroed(arch, tensors, all)), pixels).logits,
          1e-4,
        );
      }),
      { numRuns: 60 },
    );
  });

  test("for tokens: a factor of zero on a token's exponentials is the token gone", () => {
    fc.assert(
      fc.property(anyMasks, (masks) => {
        const whole = masks.map(({ tokens }) => ({ attn: Array(16).fill(true), mlp: Array(24).fill(true), tokens }));
        const slim = forward(asModel(slimArchitecture(arch, whole), tensors), pixels).logits;
        const gated = tf.tidy(() => {
          const weights = new Map([...tensors].map(([name, t]) => [name, tf.tensor(t.data as Float32Array, t.shape)]));
          const scoreGates = masks.map(({ tokens }) => tf.tensor1d(tokens.map(Number)));
          return tfForward(tf, arch, weights, tf.tensor4d(pixels, [1, 3, 32, 32]), { scoreGates }).logits.dataSync();
        });
        expectClose(gated, slim, 1e-4);
      }),
      { numRuns: 40 },
    );
  });
});

test("the TensorFlow.js forward gives the reference's logits for any slim shape, one or two prefix tokens", () => {
  fc.assert(
    fc.property(anyMasks, fc.constantFrom(1 as const, 2 as const), (masks, prefixTokens) => {
      // Two prefix tokens make 18; the extra one is kept like the class token.
      const arch = tinyArchitecture({ prefixTokens });
      const fitted = masks.map((m) => ({ ...m, tokens: prefixTokens === 2 ? [true, ...m.tokens] : m.tokens }));
      const slim = slimArchitecture(arch, fitted);
      const tensors = cutTensors(arch, randomTensors(arch, CLASSES, 9), fitted);
      const pixels = selfTestPixels(arch, 11);
      const logits = tf.tidy(() => {
        const weights = new Map([...tensors].map(([name, t]) => [name, tf.tensor(t.data as Float32Array, t.shape)]));
        return tfForward(tf, slim, weights, tf.tensor4d(pixels, [1, 3, 32, 32])).logits.dataSync();
      });
      expectClose(logits, forward(asModel(slim, tensors), pixels).logits, 1e-4);
    }),
    { numRuns: 60 },
  );
});

describe("hardening", () => {
  const arch = tinyArchitecture();
  const zetas = arch.blocks.map((_, i) => ({
    attn: Float32Array.from({ length: 16 }, (_, c) => Math.sin(c * 7 + i)),
    mlp: Float32Array.from({ length: 24 }, (_, c) => Math.cos(c * 5 + i)),
    patch: Float32Array.from({ length: denseTokens(arch) }, (_, c) => 3 * Math.sin(c * 3 + i)),
  }));
  const mode = "channel" as const;

  test.each(["union", "intersect"] as const)(
    "%s keep-lists are nested and keep the class token, whatever the budget",
    (rule) => {
      for (const patch of [0, 0.1, 0.5, 0.9, 1]) {
        const { blocks } = slimArchitecture(
          arch,
          hardenMasks(arch, zetas, { attn: 0.5, mlp: 0.5, patch }, { mode, rule }).blocks,
        );
        blocks.forEach(({ keepIdx }, i) => {
          expect(keepIdx[0]).toBe(0);
          if (i > 0) expect(keepIdx.every((token) => blocks[i - 1].keepIdx.includes(token))).toBe(true);
        });
      }
    },
  );

  test("budget 0 keeps no channel and no unit, budget 1 all of them", () => {
    const none = slimArchitecture(
      arch,
      hardenMasks(arch, zetas, { attn: 0, mlp: 0, patch: 0 }, { mode, rule: "union" }).blocks,
    );
    expect(none.blocks.map((b) => [b.headDims, b.mlpHidden, b.keepIdx])).toEqual(arch.blocks.map(() => [[], 0, [0]]));
    const all = slimArchitecture(
      arch,
      hardenMasks(arch, zetas, { attn: 1, mlp: 1, patch: 1 }, { mode, rule: "union" }).blocks,
    );
    expect(all.blocks).toEqual(arch.blocks);
  });

  test("ties at the threshold all survive", () => {
    expect(threshold([1, 2, 2, 2, 3], 0.4)).toBe(2);
  });
});

describe("one target for three families", () => {
  const arch = tinyArchitecture();
  const importance = arch.blocks.map((_, i) => ({
    attn: Float32Array.from({ length: 16 }, (_, c) => Math.abs(Math.sin(c * 7 + i))),
    mlp: Float32Array.from({ length: 24 }, (_, c) => Math.abs(Math.cos(c * 5 + i)) / 2),
    patch: Float32Array.from({ length: 17 }, (_, c) => Math.abs(Math.sin(c * 3 + i)) * 2),
  }));
  const none = { attn: false, mlp: false, patch: false };
  const dense = countMacs(arch, CLASSES);
  const at = (share: number, frozen = none) => allocate(arch, "channel", importance, frozen, dense, share);

  test("ends at or just under the target, whatever it is", () => {
    for (const share of [1, 0.9, 0.7, 0.5, 0.3, 0.1]) {
      const left = countMacs(slimArchitecture(arch, at(share)), CLASSES) / dense;
      expect(left).toBeLessThanOrEqual(share);
      expect(left).toBeGreaterThan(share - 0.05);
    }
  });

  test("a smaller target's model lies inside a larger one's, and keep-lists are nested", () => {
    const [small, large] = [at(0.4), at(0.7)];
    small.forEach((mask, i) => {
      for (const family of ["attn", "mlp", "tokens"] as const) {
        expect(mask[family].every((kept, k) => !kept || large[i][family][k])).toBe(true);
      }
      if (i > 0) expect(mask.tokens.every((kept, k) => !kept || small[i - 1].tokens[k])).toBe(true);
      expect(mask.tokens[0]).toBe(true);
    });
  });

  test("a frozen family stays whole", () => {
    const masks = at(0.6, { ...none, patch: true });
    expect(masks.every(({ tokens }) => tokens.every(Boolean))).toBe(true);
  });

  test("in head mode whole heads go", () => {
    const masks = allocate(arch, "head", importance, none, dense, 0.5);
    for (const { attn } of masks) {
      for (const head of [attn.slice(0, 8), attn.slice(8)]) expect(new Set(head).size).toBe(1);
    }
  });
});
