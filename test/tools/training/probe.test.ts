import { expect, test } from "vitest";
import type { Model } from "../../../src/format/model.ts";
import { openBackend } from "../../../tools/training/backend.ts";
import { batchFor, secondsAPicture, trainingBytes } from "../../../tools/training/probe.ts";
import { randomTensors, tinyArchitecture } from "../fixtures.ts";

const tiny = tinyArchitecture();
const labels = [0, 1, 2].map((k) => ({ id: String(k), label: `class ${k}` }));
const model = { manifest: { ...tiny, labels }, dtype: "f32", tensors: randomTensors(tiny, 3, 1) } as unknown as Model;

/** DeiT-Ti's sizes; of the weights nothing is asked. */
const keepIdx = Array.from({ length: 197 }, (_, token) => token);
const block = { headDims: [64, 64, 64], mlpHidden: 768, keepIdx, merge: 0 };
const deit = {
  manifest: {
    ...tiny,
    imageSize: [224, 224],
    patchSize: 16,
    embedDim: 192,
    headDim: 64,
    blocks: Array(12).fill(block),
    labels,
  },
} as unknown as Model;

test("memory is what DeiT-Ti was measured to take, within a fifth", () => {
  expect(trainingBytes(deit, 16) / 3.7e9).toBeCloseTo(1, 0.7);
  expect(trainingBytes(deit, 32) / 6.8e9).toBeCloseTo(1, 0.7);
});

test("the batch is the largest that fits into free memory, and never none", () => {
  expect(batchFor(deit, 16e9)).toBe(32);
  expect(batchFor(deit, 8e9)).toBe(16);
  expect(batchFor(deit, 1e9)).toBe(4);
});

test("a step is timed on the backend that will train", async () => {
  const { tf } = await openBackend("tfjs-node");
  const before = tf.memory().numTensors;
  const began = performance.now();
  const each = await secondsAPicture(tf, model, 4);
  const seconds = (performance.now() - began) / 1000;
  expect(each).toBeGreaterThan(0);
  expect(each * 4 * 2).toBeLessThan(seconds); // steps of four pictures, more than one of them
  expect(tf.memory().numTensors).toBe(before);
});
