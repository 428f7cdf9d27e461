import { expect, test } from "vitest";
import type { Manifest, Tensors } from "../../../src/format/model.ts";
import { float32 } from "../../../src/format/read.ts";
import { random } from "../../../tools/shared/random.ts";
import { type Answer, canRefit, refitHead } from "../../../tools/slim/refit.ts";
import { randomTensors, tinyArchitecture } from "../fixtures.ts";

const CLASSES = 3;
const arch = tinyArchitecture();
const labels = [0, 1, 2].map((k) => ({ id: String(k), label: `class ${k}` }));
const manifest = { ...arch, labels } as unknown as Manifest;
const tensors = randomTensors(arch, CLASSES, 4);

/** Logits of a head. */
function logitsOf(head: Tensors, features: Float32Array): Float32Array {
  const [weight, bias] = ["head.weight", "head.bias"].map((name) => float32(head, name));
  return bias.map((b, c) => features.reduce((sum, v, d) => sum + v * weight[c * features.length + d], b));
}

/** Features that the slim network bends: scaled, shifted, and with noise of their own. */
function pictures(count: number, seed: number, noise = 0.02): { slim: Answer[]; wanted: Float32Array[] } {
  const rng = random(seed);
  const dense = Array.from({ length: count }, () => Float32Array.from({ length: arch.embedDim }, () => rng() - 0.5));
  const slim = dense.map((features) => {
    const bent = features.map(
      (v, d) => 0.7 * v + 0.3 * features[(d + 1) % features.length] + 0.2 + noise * (rng() - 0.5),
    );
    return { features: bent, logits: logitsOf(tensors, bent) };
  });
  return { slim, wanted: dense.map((features) => logitsOf(tensors, features)) };
}

const distance = (a: Float32Array[], b: Float32Array[]) =>
  a.reduce((sum, row, k) => sum + row.reduce((part, v, c) => part + (v - b[k][c]) ** 2, 0), 0) / a.length;

test("on pictures that were not calibrated by, logits come several times closer to the dense model's", () => {
  const { slim, wanted } = pictures(300, 1);
  const refitted = refitHead(manifest, tensors, slim, wanted);
  const other = pictures(100, 2);
  const before = distance(
    other.slim.map(({ logits }) => logits),
    other.wanted,
  );
  const after = distance(
    other.slim.map(({ features }) => logitsOf(refitted, features)),
    other.wanted,
  );
  expect(after).toBeLessThan(before / 4);
});

test("the more the features tell, the closer it fits: the ridge is that of pictures which are held back", () => {
  const error = (count: number, noise: number) => {
    const { slim, wanted } = pictures(count, 1, noise);
    const refitted = refitHead(manifest, tensors, slim, wanted);
    const other = pictures(200, 2, noise);
    const after = other.slim.map(({ features }) => logitsOf(refitted, features));
    return (
      distance(after, other.wanted) /
      distance(
        other.slim.map(({ logits }) => logits),
        other.wanted,
      )
    );
  };
  expect(error(400, 0)).toBeLessThan(0.002); // a ridge of 0.3 leaves 0.05
  expect(error(120, 3)).toBeLessThan(0.15); // 0.17 with a ridge of 0.3;
});

test("where nothing is missing the head stays as it is", () => {
  const { slim } = pictures(50, 3);
  const same = refitHead(
    manifest,
    tensors,
    slim,
    slim.map(({ logits }) => logits),
  );
  for (const name of ["head.weight", "head.bias"]) {
    const [a, b] = [float32(same, name), float32(tensors, name)];
    a.forEach((value, k) => void expect(value).toBeCloseTo(b[k], 5));
  }
});

test("only a plain linear head is solved again", () => {
  expect(canRefit(manifest)).toBe(true);
  expect(canRefit({ ...manifest, head: undefined })).toBe(false);
  expect(canRefit({ ...manifest, head: { scores: "softmax", cosine: true } })).toBe(false);
  expect(canRefit({ ...manifest, distilled: true })).toBe(false);
});
