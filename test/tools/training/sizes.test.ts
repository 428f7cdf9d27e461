/** A network that is trained at several picture sizes: which size a step draws, and what each size computes and learns. */
import { beforeAll, expect, test } from "vitest";
import { forward } from "../../../src/tfjs/forward.ts";
import type { Tensor } from "../../../src/tfjs/ops.ts";
import { resizeModel } from "../../../tools/checkpoints/resize.ts";
import { readManifestFile } from "../../../tools/models/folders.ts";
import { type Backend, openBackend } from "../../../tools/training/backend.ts";
import { type FinetuneOptions, finetune } from "../../../tools/training/finetune.ts";
import { RECIPE_DEFAULTS } from "../../../tools/training/recipe.ts";
import { atSizes } from "../../../tools/training/sizes.ts";
import { adapted, weightsOnBackend } from "../../../tools/training/teacher.ts";
import { expectClose, randomModel, randomPixels } from "../../helpers.ts";
import { makeDense, tinyArchitecture, workplace } from "../fixtures.ts";

const model = randomModel({ ...tinyArchitecture({ imageSize: [32, 48] }), position: "learned" } as never, 3);
const { manifest } = model;
const SIZES: [number, number][] = [
  [16, 24],
  [24, 32],
];
let backend: Backend;

beforeAll(async () => {
  backend = await openBackend("tfjs-node");
});

function studentsOf(weights: Map<string, Tensor>) {
  const own = { name: "own", weight: 1, forward: () => ({}) as never };
  return { own, together: atSizes(backend.tf, manifest, weights, own, { sizes: SIZES, seed: 5 }) };
}

test("a step trains one size, each about as often, drawn by seed and step; val is measured at the model's own", () => {
  const { own, together } = studentsOf(weightsOnBackend(backend.tf, model));
  expect(together.all).toEqual([own]);
  const counts: Record<string, number> = {};
  for (let step = 0; step < 300; step++) {
    const drawn = together.ofStep(step);
    expect(drawn).toHaveLength(1);
    expect(together.ofStep(step)[0].name).toBe(drawn[0].name);
    counts[drawn[0].name] = (counts[drawn[0].name] ?? 0) + 1;
  }
  expect(Object.keys(counts).sort()).toEqual(["24×16", "32×24", "own"]);
  for (const count of Object.values(counts)) expect(count).toBeGreaterThan(70);
});

test("at another size it is the resized model on the same pictures, made smaller", async () => {
  const { tf } = backend;
  const { together } = studentsOf(weightsOnBackend(tf, model));
  const pixels = tf.tensor4d(randomPixels(manifest, 7), [1, 3, 32, 48]) as Tensor;
  for (const size of SIZES) {
    const name = size.toReversed().join("×");
    const step = Array.from({ length: 300 }, (_, k) => k).find((k) => together.ofStep(k)[0].name === name)!;
    const resized = resizeModel(model, size);
    const input = adapted(tf, pixels, manifest.preprocess, resized.manifest.preprocess);
    const wanted = forward(tf, resized.manifest, weightsOnBackend(tf, resized), input).logits;
    const given = together.ofStep(step)[0].forward(pixels, undefined, 0).logits;
    expect(given.shape).toEqual(wanted.shape);
    expectClose(await given.data(), await wanted.data(), 1e-5);
  }
});

test("every position of the model's own size learns from a smaller picture", async () => {
  const { tf } = backend;
  const weights = weightsOnBackend(tf, model);
  const { together } = studentsOf(weights);
  const pixels = tf.tensor4d(randomPixels(manifest, 8), [1, 3, 32, 48]) as Tensor;
  const step = Array.from({ length: 300 }, (_, k) => k).find((k) => together.ofStep(k)[0].name === "24×16")!;
  const position = weights.get("pos_embed")!;
  const lossAt = (values: Tensor) => {
    weights.set("pos_embed", values);
    const { logits } = together.ofStep(step)[0].forward(pixels, undefined, 0);
    return tf.sum(tf.square(logits)).asScalar();
  };
  const gradient = await tf
    .grad((values) => lossAt(values as Tensor))(position)
    .data();
  const { embedDim } = manifest;
  for (let token = 0; token < gradient.length / embedDim; token++)
    expect(gradient.subarray(token * embedDim, (token + 1) * embedDim).some((value) => value !== 0)).toBe(true);
  // One entry against a difference.
  const values = await position.data();
  const at = 3 * embedDim + 2;
  const moved = (by: number) =>
    tf.tensor(
      values.map((value, k) => value + (k === at ? by : 0)),
      position.shape,
    );
  const [more, less] = await Promise.all(
    [0.01, -0.01].map(async (by) => (await lossAt(moved(by) as Tensor).data())[0]),
  );
  expect(gradient[at]).toBeCloseTo((more - less) / 0.02, 2);
});

const at = workplace("sizes");

test("finetune at several sizes records them, stays at its own, and refuses what is no multiple of a patch", async () => {
  await makeDense(at, 4);
  const options = (out: string, sizes: [number, number][]): FinetuneOptions => ({
    ...{ ...RECIPE_DEFAULTS, epochs: 2, batch: 4, lr: 0.01, warmup: 0, precision: "f32", sizes },
    ...{ data: [at("pictures")], split: "train", out: at(out) },
  });
  const { imageSize } = readManifestFile(at("dense"));
  const half: [number, number] = [imageSize[0] / 2, imageSize[1] / 2];
  const { history } = await finetune(at("dense"), options("sized", [half]));
  const names = new Set(history.flatMap((line) => Object.keys(line).filter((key) => key.startsWith("loss."))));
  expect([...names].sort()).toEqual([half, imageSize].map((size) => `loss.${size.toReversed().join("×")}`).sort());
  const written = readManifestFile(at("sized"));
  expect(written.imageSize).toEqual(imageSize);
  expect((written.provenance as { steps: { sizes?: unknown }[] }).steps.at(-1)!.sizes).toEqual([half]);
  await expect(finetune(at("dense"), options("odd", [[15, 15]]))).rejects.toThrow(/does not divide into patches/);
});
