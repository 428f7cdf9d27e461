/** Variants that are trained together: whose gradients a step sums, what stays shared, and what a variant has for itself. */
import { existsSync, readFileSync } from "node:fs";
import type * as tfjs from "@tensorflow/tfjs-core";
import { beforeAll, describe, expect, test } from "vitest";
import { openSimd } from "../../../src/engines/simd/engine.ts";
import { growthOf, nest, take } from "../../../src/format/nesting.ts";
import { float32 } from "../../../src/format/read.ts";
import { readSafetensors } from "../../../src/format/safetensors.ts";
import { encodeTensors } from "../../../src/format/write.ts";
import { forward } from "../../../src/tfjs/forward.ts";
import type { Tensor } from "../../../src/tfjs/ops.ts";
import { elastic } from "../../../tools/elastic/elastic.ts";
import { type NamedModel, sandwich, trainTogether } from "../../../tools/elastic/train.ts";
import { shareWeights } from "../../../tools/elastic/weights.ts";
import { readManifestFile, readModelFolder, readWeightsFile } from "../../../tools/models/folders.ts";
import { type Backend, openBackend } from "../../../tools/training/backend.ts";
import { checkpointPath } from "../../../tools/training/checkpoint.ts";
import { gradientsOf } from "../../../tools/training/gradients.ts";
import type { TrainOptions } from "../../../tools/training/options.ts";
import { RECIPE_DEFAULTS } from "../../../tools/training/recipe.ts";
import { openTeacher } from "../../../tools/training/teacher.ts";
import type { TrainTask } from "../../../tools/training/train.ts";
import { expectClose, randomPixels } from "../../helpers.ts";
import { makeDense, workplace } from "../fixtures.ts";
import { recipe } from "../training.ts";

const at = workplace("elastic-train");
const BUDGETS = [1, 0.75, 0.5, 0.3];

let backend: Backend;
const training = (out: string, more: Partial<TrainOptions> = {}): TrainOptions => ({
  ...{ ...RECIPE_DEFAULTS, epochs: 2, batch: 4, lr: 0.01, warmup: 0, valEvery: 1, precision: "f32" },
  ...{ data: [at("pictures")], split: "train", out: at(out), ...more },
});
const train = (source: string, out: string, more: Partial<TrainOptions> = {}) =>
  elastic(at(source), { out: at(out), dtype: ["f32"], data: [at("pictures")], training: training(out, more) });

beforeAll(async () => {
  await makeDense(at, 10); // per class 6 train, 2 val, 2 test
  backend = await openBackend("tfjs-node");
  await elastic(at("dense"), { budgets: BUDGETS, sizes: [32, 24, 16], dtype: ["f32"], out: at("untrained") });
  await train("untrained", "trained");
}, 240_000);

/** Of a folder, the largest first. */
const variantsOf = (folder: string): NamedModel[] =>
  readManifestFile(at(folder)).variants.map(({ name }) => {
    const { family: _, ...model } = readModelFolder(`${at(folder)}#${name}`, "f32");
    return { name, model: { ...model, tensors: encodeTensors(model.tensors, "f32") } };
  });

describe("a step", () => {
  test("sums the gradients that the largest, the smallest and one between have by themselves", async () => {
    const { tf } = backend;
    const models = variantsOf("untrained");
    const [{ model: largest }] = models;
    const shared = shareWeights(tf, models);
    const teacher = openTeacher(tf, at("dense"), largest.manifest)!;
    const students = models.map(({ name, model: { manifest } }, i) => ({
      ...{ name, weight: 1 },
      forward: (pixels: Tensor) => {
        const side = manifest.imageSize[0];
        const input = tf.slice(pixels, [0, 0, 0, 0], [2, 3, side, side]);
        return forward(tf, manifest, shared.weightsOf(i), input);
      },
    }));
    const pixels = Float32Array.from([0, 1].flatMap((seed) => [...randomPixels(largest.manifest, seed)]));
    const batch = { pixels, size: 2, labels: [-1, -1], names: ["a", "b"], last: true };
    const gradients = async (of: typeof students) => {
      const task = {
        ...{ variables: shared.variables, teacher: teacher.outputs, classes: 3, depth: 3 },
        ...{ forward: students[0].forward, together: { all: students, ofStep: () => of } },
        data: { pictures: [], preprocess: largest.manifest.preprocess, augmentation: { minScale: 1, flip: false } },
      } as unknown as TrainTask;
      const { byName, terms } = await gradientsOf(tf, task, recipe({}), batch, Math.random, { step: 0, progress: 0 });
      expect([...byName.keys()].sort()).toEqual([...shared.variables.keys()].sort());
      return { terms, values: new Map([...byName].map(([name, gradient]) => [name, gradient.dataSync()])) };
    };
    const some = [students[0], students[2], students[3]];
    const together = await gradients(some);
    const apart: Awaited<ReturnType<typeof gradients>>[] = [];
    for (const one of some) apart.push(await gradients([one]));
    let [changed, left] = [0, 0];
    for (const [name, values] of together.values) {
      const wanted = values.map((_, k) => apart.reduce((sum, one) => sum + one.values.get(name)![k], 0));
      expectClose(values, wanted, 1e-6);
      changed += Number(values.some((v) => v !== 0));
      if (!name.endsWith(`#${models[1].name}`)) continue;
      expect([name, values.every((v) => v === 0)]).toEqual([name, true]);
      left++;
    }
    expect(left).toBeGreaterThan(0);
    expect(changed).toBeGreaterThan(30);
    expect(together.terms.loss).toBeCloseTo(
      apart.reduce((sum, { terms }) => sum + terms.loss, 0),
      5,
    );
    expect(together.terms[`loss.${models[3].name}`]).toBeGreaterThan(0);
    teacher.dispose();
    tf.dispose([...shared.variables.values()] as tfjs.Tensor[]);
  });

  test("moves what a variant has of its own ten times as far as what all share, or by the rate that is given", async () => {
    const models = variantsOf("untrained");
    const one = { batch: 18, epochs: 1, lr: 1e-3, weightDecay: 0, valPictures: 0, teacher: at("dense"), restart: true };
    const moved = async (more: { lrOwn?: number }) => {
      const { models: trained, task } = await trainTogether(models, { ...training("one-step", one), ...more });
      const variants = models.map(({ name, model: { manifest } }) => [name, manifest.imageSize, manifest.blocks]);
      expect(task.checkpoint.identity.variants).toEqual(variants);
      expect(task.data.preprocess.crop).toEqual([32, 32]); // as the largest pictures are cropped
      const most = (i: number, key: string) => {
        const [from, to] = [models[i], trained[i]].map(({ model }) => float32(model.tensors, key));
        return to.reduce((max, value, k) => Math.max(max, Math.abs(value - from[k])), 0);
      };
      // One step: Adam's first is as long as its rate.
      return [most(0, "blocks.1.norm2.weight"), most(0, "blocks.1.mlp.fc2.weight"), most(1, "blocks.1.norm2.weight")];
    };
    expectClose(await moved({}), [1e-3, 1e-3, 1e-2], 2e-5);
    expectClose(await moved({ lrOwn: 5e-3 }), [1e-3, 1e-3, 5e-3], 2e-5);
  });

  test("trains the largest and the smallest always, and each one between as often", () => {
    const drawn = Array.from({ length: 300 }, (_, step) => sandwich(["a", "b", "c", "d", "e"], 1, step));
    const counts = new Map<string, number>();
    for (const [first, between, last] of drawn) {
      expect([first, last]).toEqual(["a", "e"]);
      counts.set(between, (counts.get(between) ?? 0) + 1);
    }
    expect([...counts.keys()].sort()).toEqual(["b", "c", "d"]);
    for (const count of counts.values()) expect(Math.abs(count - 100)).toBeLessThan(4 * Math.sqrt(300 * (2 / 9)));
    expect(sandwich(["a", "b"], 1, 0)).toEqual(["a", "b"]);
    expect(sandwich(["a", "b", "c"], 1, 0)).toEqual(["a", "b", "c"]);
  });
});

describe("after the training", () => {
  test("a variant's linears are parts of the largest one's, and its norms are its own", () => {
    const [largest, ...others] = variantsOf("trained");
    const before = variantsOf("untrained");
    const nested = new Set<string>();
    expect(others.length).toBeGreaterThan(1);
    for (const { name, model } of others) {
      for (const [key, tensor] of model.tensors) {
        const [small, large] = [growthOf(model.manifest, key), growthOf(largest.model.manifest, key)];
        const nesting = small && large && nest(small, large);
        const whole = largest.model.tensors.get(key)!;
        if (nesting) {
          expect(tensor.data, `${name} ${key}`).toEqual(take(whole, nesting.axis, nesting.kept).data);
          nested.add(key);
        }
        if (/norm\d?\.weight$/.test(key)) expect(tensor.data, `${name} ${key}`).not.toEqual(whole.data);
        if (/^head\.|^cls_token$|patch_embed/.test(key)) expect(tensor.data).toEqual(whole.data);
      }
    }
    expect([...nested]).toContain("blocks.1.mlp.fc1.weight");
    const old = before[0].model.tensors;
    expect(float32(largest.model.tensors, "blocks.1.mlp.fc1.weight")).not.toEqual(
      float32(old, "blocks.1.mlp.fc1.weight"),
    );
  });

  test("a further slab holds what is added, not the shared tensors again", () => {
    const manifest = readManifestFile(at("trained"));
    const { slabs } = readWeightsFile(at("trained"), manifest.weights[0]);
    expect(slabs).toHaveLength(BUDGETS.length);
    for (const slab of slabs.slice(1)) {
      const keys = [...readSafetensors(slab, "slab").keys()];
      expect(keys.filter((key) => /fc[12]\.weight$|qkv|patch_embed|^head/.test(key))).toEqual([]);
      expect(keys).toContain("blocks.0.norm1.weight");
    }
  });

  test("simd answers as the forward pass that was trained", async () => {
    const { tf } = backend;
    const models = variantsOf("trained");
    const shared = shareWeights(tf, models);
    expect(new Set(models.map(({ model }) => model.manifest.imageSize[0])).size).toBeGreaterThan(1);
    expect([...shared.variables.keys()].filter((name) => name.includes("pos_embed"))).toEqual(["pos_embed"]);
    for (const [i, { name, model }] of models.entries()) {
      const pixels = randomPixels(model.manifest, 3);
      const input = tf.tensor(pixels, [1, 3, ...model.manifest.imageSize]) as Tensor;
      const wanted = tf.tidy(() => forward(tf, model.manifest, shared.weightsOf(i), input).logits.dataSync());
      const engine = await openSimd(readModelFolder(`${at("trained")}#${name}`, "f32"), { threads: 1 });
      expectClose((await engine.run(pixels)).logits, wanted as Float32Array, 1e-4);
      engine.dispose();
    }
  });

  test("the history has each variant's divergence from the teacher on val, and their mean", () => {
    const history: Record<string, number>[] = JSON.parse(readFileSync(at("trained", "history.json"), "utf8"));
    const names = readManifestFile(at("trained")).variants.map(({ name }) => name);
    for (const line of [history[0], history.at(-1)!])
      for (const name of names) expect(line).toHaveProperty([`val.divergence.${name}`]);
    const mean = names.reduce((sum, name) => sum + history[0][`val.divergence.${name}`], 0) / names.length;
    expect(history[0]["val.divergence"]).toBeCloseTo(mean, 6);
    const { steps } = readManifestFile(at("trained")).provenance as { steps: Record<string, unknown>[] };
    expect(steps.at(-1)).toMatchObject({ command: "elastic", epochs: 2, batch: 4 });
  });
});

test("a training that is interrupted and resumed ends with the same weights", async () => {
  const often = { epochs: 3, checkpointSeconds: 0 };
  await train("untrained", "whole", often);
  const checkpoint = checkpointPath(at("resumed"));
  const watching = setInterval(() => {
    if (!existsSync(checkpoint)) return;
    clearInterval(watching);
    process.emit("SIGINT");
  }, 5);
  try {
    await expect(train("untrained", "resumed", often)).rejects.toMatchObject({ code: "aborted" });
  } finally {
    clearInterval(watching);
  }
  await train("untrained", "resumed", { ...often, resume: true });
  const [whole, resumed] = ["whole", "resumed"].map((folder) => readManifestFile(at(folder)).weights[0].sha256);
  expect(resumed).toBe(whole);
  const { steps } = readManifestFile(at("resumed")).provenance as { steps: { steps: number }[] };
  expect(steps.at(-1)!.steps).toBeLessThan(12);
  expect(existsSync(checkpoint)).toBe(false);
});

test("unlabelled pictures teach all variants by the model as it was, and need no classes of its own", async () => {
  const out = at("unlabelled");
  const options = training("unlabelled", { unlabelled: true, epochs: 1 });
  const { variants } = await elastic(at("untrained"), {
    ...{ out, dtype: ["f32", "int8"], data: [at("pictures")], unlabelled: true, training: options },
  });
  expect(variants).toHaveLength(BUDGETS.length);
  expect(variants.every(({ top1 }) => top1 === undefined)).toBe(true);
  const { provenance } = readManifestFile(out);
  expect((provenance as { steps: Record<string, unknown>[] }).steps.at(-1)).toMatchObject({ teacher: "untrained" });
});

test("a single network without budgets is refused", async () => {
  await expect(train("dense", "nothing")).rejects.toMatchObject({
    code: "bad-option",
    message: /dense: is a single network. Give --budgets/,
  });
});
