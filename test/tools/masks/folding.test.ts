/** Masks in the weights against masks on the activations: what a search trains and what compress writes, bias and sign included. */
import { beforeAll, describe, expect, test } from "vitest";
import type { Architecture, Tensors } from "../../../src/format/model.ts";
import { writeSafetensors } from "../../../src/format/safetensors.ts";
import { selfTestPixels } from "../../../src/format/write.ts";
import { forward as referenceForward } from "../../../src/reference/forward.ts";
import { forward } from "../../../src/tfjs/forward.ts";
import type { Tensor, TF } from "../../../src/tfjs/ops.ts";
import { type CompressOptions, compress } from "../../../tools/masks/compress.ts";
import {
  type BlockZeta,
  blockZetas,
  foldZeta,
  MASK_MODES,
  type MaskMode,
  patchGates,
  patchOptions,
  zetaShapes,
} from "../../../tools/masks/masks.ts";
import { SEARCH_FILE, ZETA_FILE } from "../../../tools/masks/searched.ts";
import { readModelFolder, writeModelFolder } from "../../../tools/models/folders.ts";
import { random } from "../../../tools/shared/random.ts";
import { openBackend } from "../../../tools/training/backend.ts";
import { expectClose, manifestOf } from "../../helpers.ts";
import { randomTensors, tinyArchitecture, workplace } from "../fixtures.ts";
import { maskedLogits } from "./plain.ts";

const CLASSES = 5;
const at = workplace("folding");
let tf: TF;
beforeAll(async () => {
  ({ tf } = await openBackend("tfjs-node"));
});

/** From −1 to 2, with a few zeros; the patches' raw, from −1 to 2 as well. */
function drawnZetas(arch: Architecture, mode: MaskMode): Map<string, { shape: number[]; data: Float32Array }> {
  const rng = random(17);
  return new Map(
    [...zetaShapes(arch, mode)].map(([name, shape]) => {
      const length = shape.reduce((a, b) => a * b, 1);
      return [name, { shape, data: Float32Array.from({ length }, () => (rng() < 0.1 ? 0 : 3 * rng() - 1)) }];
    }),
  );
}

/** The rule by hand: a ζ of `head` covers a head's channels, one of `uniform` the same channel of every head. */
function spreadOver(arch: Architecture, mode: MaskMode, raw: Float32Array): number[] {
  const heads = arch.blocks[0].headDims.length;
  return Array.from({ length: heads * arch.headDim }, (_, c) =>
    mode === "channel" ? raw[c] : mode === "head" ? raw[Math.floor(c / arch.headDim)] : raw[c % arch.headDim],
  );
}

describe.each(MASK_MODES)("%s masks", (mode) => {
  describe.each([1, 2] as const)("on a network of %d prefix tokens with biases", (prefixTokens) => {
    const arch = tinyArchitecture({ prefixTokens });
    const tensors = randomTensors(arch, CLASSES, 3);
    const zetas = drawnZetas(arch, mode);
    const pixels = selfTestPixels(arch, 5);
    const ofBlock = (i: number, name: string) => zetas.get(`blocks.${i}.${name}`)!.data;
    const gates = arch.blocks.map((_, i) => ({
      attn: spreadOver(arch, mode, ofBlock(i, "attn.zeta")),
      mlp: ofBlock(i, "mlp.zeta"),
    }));
    const tanh = (i: number) => [...ofBlock(i, "attn.patch_zeta")].map(Math.tanh);

    /** As a search runs it. */
    function searchLogits(form: "gate" | "score", rule: "union" | "intersect", drawn = zetas): Float32Array {
      return tf.tidy(() => {
        const asTensors = (of: Map<string, { shape: number[]; data: unknown }>) =>
          new Map([...of].map(([name, { shape, data }]) => [name, tf.tensor(data as Float32Array, shape) as Tensor]));
        const masks = asTensors(drawn);
        const patch = patchOptions(tf, arch, patchGates(tf, arch, masks), form, rule);
        const weights = foldZeta(tf, arch, asTensors(tensors), masks);
        const { logits } = forward(tf, arch, weights, tf.tensor4d(pixels, [1, 3, ...arch.imageSize]), patch);
        return logits.dataSync() as Float32Array;
      });
    }

    test("act on q, k and v after their bias, after GELU, and on the norms' outputs", () => {
      const wanted = maskedLogits(
        arch,
        tensors,
        gates.map((gate, i) => ({ ...gate, norms: tanh(i) })),
        pixels,
      );
      expectClose(searchLogits("gate", "union"), wanted, 2e-5);
    });

    test.each(["union", "intersect"] as const)(
      "in the score form, %s, act on the softmax, nested over depth",
      (rule) => {
        const own = arch.blocks.map((_, i) =>
          tanh(i).map((v, token) => (token < prefixTokens ? Math.max(v, 1) : Math.max(v, 0))),
        );
        const nested = own.map((values, i) =>
          values.map((_, token) => {
            const blocks = rule === "union" ? own.slice(i) : own.slice(0, i + 1);
            const factors = blocks.map((block) => block[token]);
            return rule === "union" ? Math.max(...factors) : factors.reduce((a, b) => a * b);
          }),
        );
        // A search holds the raw masks of tokens at 0 or above in this form.
        const positive = new Map(
          [...zetas].map(([name, { shape, data }]) => {
            return [
              name,
              { shape, data: name.endsWith("patch_zeta") ? data.map((v) => Math.max(0, v)) : data },
            ] as const;
          }),
        );
        const wanted = maskedLogits(
          arch,
          tensors,
          gates.map((gate, i) => ({ ...gate, keys: nested[i] })),
          pixels,
        );
        expectClose(searchLogits("score", rule, positive), wanted, 2e-5);
      },
    );

    /** Compresses a folder as `search` leaves it. @returns the slim model's logits */
    async function compressed(options: Partial<CompressOptions>): Promise<Float32Array> {
      const name = `${mode}-${prefixTokens}`;
      writeModelFolder(
        at(name),
        { ...manifestOf(arch, CLASSES), name },
        tensors,
        ["f32"],
        {
          [ZETA_FILE]: writeSafetensors(new Map([...zetas].map(([key, z]) => [key, { dtype: "F32" as const, ...z }])), {
            masks: mode,
          }),
          [SEARCH_FILE]: JSON.stringify({
            masks: mode,
            patchForm: "gate",
            tokens: "union",
            wAttn: 1,
            wMlp: 1,
            wPatch: 1,
          }),
        },
        true,
      );
      await compress(at(name), { out: at(`${name}-slim`), force: true, tokens: "union", ...options });
      return referenceForward(readModelFolder(at(`${name}-slim`)), pixels).logits;
    }

    test("are folded by compress once, with their sign and into the biases", async () => {
      expectClose(await compressed({ attn: 1, mlp: 1, patch: 1 }), maskedLogits(arch, tensors, gates, pixels), 2e-5);
    });

    test("leave, where they are cut, what is left when the lowest of them are zero", async () => {
      const plain: BlockZeta[] = blockZetas(arch, mode, (name) => zetas.get(name)!.data);
      const limit = (family: "attn" | "mlp", share: number) => {
        // One value for each ζ that there is; those of a head or a channel of all heads are repeated in `plain`.
        const raw = [...zetas].filter(([name]) => name.endsWith(`${family}.zeta`)).flatMap(([, { data }]) => [...data]);
        return raw.sort((a, b) => a - b)[Math.trunc((1 - share) * raw.length)];
      };
      const limits = { attn: limit("attn", 0.6), mlp: limit("mlp", 0.5) };
      const cut = plain.map(({ attn, mlp }) => ({
        attn: [...attn].map((v) => (v >= limits.attn ? v : 0)),
        mlp: [...mlp].map((v) => (v >= limits.mlp ? v : 0)),
      }));
      expect(cut.flatMap(({ mlp }) => mlp).filter((v) => v === 0).length).toBeGreaterThan(30);
      expectClose(await compressed({ attn: 0.6, mlp: 0.5, patch: 1 }), maskedLogits(arch, tensors, cut, pixels), 2e-5);
    });
  });
});

test("the biases that masks act on are not zero, or the tests above would not see them left out", () => {
  const tensors: Tensors = randomTensors(tinyArchitecture(), CLASSES, 3);
  for (const name of ["attn.qkv.bias", "mlp.fc1.bias", "attn.proj.bias", "mlp.fc2.bias"]) {
    const { data } = tensors.get(`blocks.1.${name}`)!;
    expect((data as Float32Array).every((v) => v !== 0)).toBe(true);
  }
});
