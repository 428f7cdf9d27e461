/** Compensation of heads: keys that follow from others, channels whose scores do not vary, and the weight of the class token. */
import { beforeAll, expect, test } from "vitest";
import type { Model, Tensors } from "../../../src/format/model.ts";
import { float32 } from "../../../src/format/read.ts";
import { forward } from "../../../src/reference/forward.ts";
import type { TF } from "../../../src/tfjs/ops.ts";
import { evalPixels, openDataset, type Picture } from "../../../tools/data/data.ts";
import { disposeStreams, embedPictures, momentsOf } from "../../../tools/masks/calibration.ts";
import { compensate } from "../../../tools/masks/compensate.ts";
import { type BlockMask, cutTensors, slimArchitecture } from "../../../tools/masks/masks.ts";
import { openBackend } from "../../../tools/training/backend.ts";
import { randomModel } from "../../helpers.ts";
import { tinyArchitecture, workplace, writePictures } from "../fixtures.ts";

const at = workplace("lost-keys");
const [DIM, INNER, HEAD] = [16, 16, 8];
let tf: TF;
let pictures: Picture[];
beforeAll(async () => {
  ({ tf } = await openBackend("tfjs-node"));
  await writePictures(at("pictures"), 4);
  ({ pictures } = await openDataset([at("pictures")], "all"));
});

/** A random network whose rows of q, k and v `change` sets; each row is its weights and its bias. */
function modelWith(change: (rows: Row[]) => void): Model {
  const model = randomModel(tinyArchitecture(), 7, 3);
  const tensors: Tensors = new Map([...model.tensors].map(([key, t]) => [key, { ...t, data: t.data.slice() }]));
  model.manifest.blocks.forEach((_, i) => {
    const [weight, bias] = ["weight", "bias"].map((part) => float32(tensors, `blocks.${i}.attn.qkv.${part}`));
    change(
      Array.from({ length: 3 * INNER }, (_, row) => ({
        set: (from: number, factor: number, shift = 0) => {
          for (let d = 0; d < DIM; d++) weight[row * DIM + d] = factor * weight[from * DIM + d];
          bias[row] = factor * bias[from] + shift;
        },
      })),
    );
  });
  return { ...model, tensors };
}
interface Row {
  /** takes `factor` times another row, plus `shift` in the bias */
  set(from: number, factor: number, shift?: number): void;
}

test("a lost key that follows from a kept one is made up for by the queries, weights and biases", async () => {
  const lost = [2, HEAD + 5];
  const model = modelWith((rows) => {
    for (const channel of lost) {
      rows[INNER + channel].set(INNER + channel + 1, 1.5);
      rows[channel].set(channel, 2, 3); // a query that counts, whose mean is not 0
      rows[2 * INNER + channel].set(0, 0); // a value that says nothing
    }
  });
  const { manifest, tensors } = model;
  const masks: BlockMask[] = manifest.blocks.map((block) => ({
    attn: Array.from({ length: INNER }, (_, c) => !lost.includes(c)),
    mlp: Array(block.mlpHidden).fill(true),
    tokens: block.keepIdx.map(() => true),
  }));
  const compensated = await compensate(tf, model, masks, pictures);
  const slim = slimArchitecture(manifest, masks);
  const pixels = await evalPixels(pictures[0], manifest.preprocess);
  const wanted = forward(model, pixels).logits;
  const off = (own: Tensors) => {
    const { logits } = forward({ manifest: slim, dtype: "f32", tensors: own }, pixels);
    return Math.hypot(...logits.map((v, k) => v - wanted[k]));
  };
  expect(off(compensated.tensors)).toBeLessThan(0.05 * off(cutTensors(manifest, tensors, masks)));
});

test("of channels that say as much, those leave whose keys do not vary, however much their queries do", async () => {
  const still = (c: number) => c % 2 === 0;
  const model = modelWith((rows) => {
    for (let c = 0; c < INNER; c++) {
      rows[2 * INNER + c].set(2 * INNER + c - (c % 2), 1); // two channels with one value
      if (!still(c)) continue;
      rows[INNER + c].set(0, 0, 2);
      rows[c].set(c, 20);
    }
  });
  const { masks } = await compensate(tf, model, { attn: 0.5, mlp: 1 }, pictures);
  for (const { attn } of masks) expect(attn).toEqual(Array.from({ length: INNER }, (_, c) => !still(c)));
});

test("the class token counts as twenty patches where it alone is read, and as one where the mean is", async () => {
  for (const [pooling, weight] of [
    ["class", 20],
    ["mean", 1],
  ] as const) {
    const model = randomModel(tinyArchitecture({ pooling }), 7, 3);
    const { manifest, tensors } = model;
    const streams = await embedPictures(tf, manifest, tensors, pictures, manifest.preprocess);
    const found = await momentsOf(tf, manifest, tensors, 0, streams, { "mlp.fc2": undefined });
    const { inputs, size } = found["mlp.fc2"]!;
    expect(size).toBe(24);
    expect(inputs[25 * 25 - 1] / (pictures.length * (weight + 16))).toBeCloseTo(1, 5); // Σ weights
    disposeStreams(tf, streams);
  }
});
