import { existsSync, mkdirSync } from "node:fs";
import { beforeAll, describe, expect, test } from "vitest";
import { forward } from "../../src/tfjs/forward.ts";
import type { TF } from "../../src/tfjs/ops.ts";
import type { Variables } from "../../tools/models/variables.ts";
import { random } from "../../tools/shared/random.ts";
import { AUGMENTATIONS, type Rgb } from "../../tools/training/augment.ts";
import { type Backend, openBackend } from "../../tools/training/backend.ts";
import { type Batch, type TrainData, trainBatches } from "../../tools/training/batches.ts";
import { type TrainTask, train } from "../../tools/training/train.ts";
import { expectClose } from "../helpers.ts";
import {
  CLASSES,
  randomTensors,
  slimvit,
  slimvitJson,
  tinyArchitecture,
  workplace,
  writeCheckpoint,
  writePictures,
} from "./fixtures.ts";
import { arch, noiseData, recipe, taskOf, tinyVariables } from "./training.ts";

const at = workplace("train");
let backend: Backend;
let tf: TF;
let data: TrainData;

beforeAll(async () => {
  backend = await openBackend("tfjs-node");
  tf = backend.tf;
  data = await noiseData(24);
});

const tiny = (seed?: number) => tinyVariables(tf, seed);
const taskNamed = (name: string, variables: Variables) =>
  taskOf(tf, name, variables, data, at(`.${name}.checkpoint.safetensors`));

describe("a training step", () => {
  test("leaves no tensor behind: as many after 32 steps as after 8", async () => {
    const teacherWeights = tiny(2);
    const counts: number[] = [];
    const task: TrainTask = {
      ...taskNamed("flat", tiny()),
      teacher: (pixels) => tf.tidy(() => forward(tf, arch, teacherWeights, pixels).logits),
      afterStep: () => void counts.push(tf.memory().numTensors),
    };
    await train(
      backend,
      task,
      recipe({ epochs: 8, batch: 3, accumulate: 2, ema: 0.9, mixup: 0.5, dropPath: 0.1, checkpointSeconds: 2 }),
    );
    expect(counts).toHaveLength(32);
    expect(counts[31]).toBe(counts[7]);
  });

  test("of accumulated batches is the step of one large batch", async () => {
    const results = await Promise.all(
      [
        { batch: 12, accumulate: 1 },
        { batch: 4, accumulate: 3 },
      ].map(async (sizes) => {
        const variables = tiny();
        const { history } = await train(
          backend,
          taskNamed(`of-${sizes.batch}`, variables),
          recipe({ epochs: 2, lr: 1e-3, ...sizes }),
        );
        return { losses: history.map(({ loss }) => loss), head: variables.get("head.weight")!.dataSync() };
      }),
    );
    expect(results[0].losses).toHaveLength(4);
    expectClose(results[1].losses, results[0].losses, 1e-5);
    expectClose(results[1].head, results[0].head, 1e-5);
  });

  test("that makes the loss NaN stops the run, naming step, pictures and the last good checkpoint", async () => {
    const variables = tiny();
    let steps = 0;
    const task: TrainTask = {
      ...taskNamed("poisoned", variables),
      afterStep: () => {
        const head = variables.get("head.weight")!;
        if (++steps === 4) head.assign(tf.fill(head.shape, Number.NaN) as never);
      },
    };
    const options = recipe({ epochs: 4, batch: 12, checkpointSeconds: 0 });
    const { path } = task.checkpoint;
    await expect(train(backend, task, options)).rejects.toThrow(
      new RegExp(`^poisoned: the loss became NaN at step 4 \\(pictures picture \\d+, .* …\\)\\. .*${path}.*lower --lr`),
    );
    // The checkpoint is of weights that gave a finite loss, and the run goes on from it.
    const resumed: TrainTask = {
      ...taskNamed("poisoned", tiny(5)),
      checkpoint: { ...task.checkpoint, rates: '{"lr":1e-5}', start: "resume" },
    };
    const report = await train(backend, resumed, options);
    expect(report.steps).toBe(5); // steps 3 to 7
    expect(report.history.map(({ step }) => step)).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    expect(report.history.every(({ loss }) => Number.isFinite(loss))).toBe(true);
  });

  test("whose update ruins the weights is no result either", async () => {
    const task = taskNamed("ruined", tiny());
    await expect(train(backend, task, recipe({ epochs: 0.5, batch: 12, lr: 1e39 }))).rejects.toThrow(
      /ruined: the weights became NaN \(".*"\) in step 0\. There is no checkpoint yet/,
    );
    expect(existsSync(task.checkpoint.path)).toBe(false);
  });
});

describe("a distilled network's two heads", () => {
  test("are trained by the command line, with every option of the recipe", async () => {
    const net = tinyArchitecture({ prefixTokens: 2 });
    writeCheckpoint(at("two.safetensors"), randomTensors(net, CLASSES.length, 4));
    await slimvitJson("import", at("two.safetensors"), "-o", at("two"), "--heads", "2");
    await writePictures(at("numbered"), 4, ["0", "1", "2"]);
    const args = ["--data", at("numbered"), "--split", "all", "--epochs", "1", "--batch", "3", "--accumulate", "2"];
    args.push("--randaugment", "--erase", "--repeats", "2", "--mixup", "0.8");
    await slimvitJson("finetune", at("two"), "-o", at("tuned"), ...args);
    const taught = ["--teacher", at("tuned"), "--distillation", "hard", ...args];
    const { steps } = await slimvitJson<{ steps: number }>("retrain", at("tuned"), "-o", at("taught"), ...taught);
    expect(steps).toBe(2); // 12 pictures, six a step
  });
});

describe("augmentation", () => {
  const image = (seed = 1): Rgb => {
    const rng = random(seed);
    return { data: Uint8Array.from({ length: 3 * 20 * 16 }, () => 40 + 150 * rng()), width: 20, height: 16 };
  };
  const fill = [1, 2, 3];

  test.each(Object.keys(AUGMENTATIONS))("%s keeps the size, depends on its seed alone, leaves its input", (name) => {
    const before = image();
    const once = AUGMENTATIONS[name](before, 0.9, random(7), fill);
    expect(once.data).toHaveLength(before.data.length);
    expect(AUGMENTATIONS[name](image(), 0.9, random(7), fill).data).toEqual(once.data);
    expect(before.data).toEqual(image().data);
    expect(once.data).not.toEqual(before.data);
  });

  test.each(["brightness", "contrast", "color", "sharpness", "rotate", "shearX", "shearY", "translateX", "translateY"])(
    "%s of strength 0 changes nothing",
    (name) => {
      expect(AUGMENTATIONS[name](image(), 0, random(7), fill).data).toEqual(image().data);
    },
  );

  test("known cases: a shift uncovers the fill, equalize spreads, autoContrast stretches", () => {
    const shifted = AUGMENTATIONS.translateX(image(), 1, () => 0.9, fill).data; // 9 of 20 columns to the left
    expect([...shifted.subarray(3 * 11, 3 * 12)]).toEqual(fill);
    expect([...shifted.subarray(0, 3)]).toEqual([...image().data.subarray(27, 30)]);
    const stretched = AUGMENTATIONS.autoContrast(image(), 0, random(1), fill).data;
    expect([Math.min(...stretched), Math.max(...stretched)]).toEqual([0, 255]);
    const equal = AUGMENTATIONS.equalize(image(), 0, random(1), fill).data;
    const dark = equal.filter((v, k) => k % 3 === 0 && v < 128).length;
    expect(Math.abs(dark - 160)).toBeLessThan(8); // half of the pixels
  });

  test("repeats give a picture several times in a row, each time cropped anew", async () => {
    const batches: Batch[] = [];
    for await (const batch of trainBatches(data, { batch: 6, repeats: 3, seed: 1, from: 0, to: 4 }))
      batches.push(batch);
    const names = batches.flatMap((batch) => batch.names);
    expect(names).toHaveLength(24);
    expect(new Set(names).size).toBe(8);
    expect(names[0]).toBe(names[2]);
    const each = 3 * 32 * 32;
    expect(batches[0].pixels.subarray(0, each)).not.toEqual(batches[0].pixels.subarray(each, 2 * each));
  });
});

describe("data that cannot be learnt from is one sentence", () => {
  const retrain = (folder: string) =>
    slimvit("retrain", at("one"), "--data", folder, "-o", at("never"), "--epochs", "1");

  beforeAll(async () => {
    writeCheckpoint(at("one.safetensors"), randomTensors(arch, CLASSES.length, 1));
    await slimvitJson("import", at("one.safetensors"), "-o", at("one"), "--heads", "2");
  });

  test("an empty class folder", async () => {
    await writePictures(at("gap", "train"), 2, ["0", "1"]);
    mkdirSync(at("gap", "train", "2"));
    const { status, stderr } = await retrain(at("gap"));
    expect(stderr).toMatch(/gap: class folder "train\/2" holds no picture\. Fill it or remove it\./);
    expect(status).toBe(1);
  });

  test("a single class", async () => {
    await writePictures(at("single"), 2, ["0"]);
    const { status, stderr } = await retrain(at("single"));
    expect(stderr).toMatch(/single class, "0"; a classifier learns from two or more/);
    expect(status).toBe(1);
  });

  test("a rate so high that the loss becomes NaN", async () => {
    await writePictures(at("fine"), 4, ["0", "1", "2"]);
    const args = ["--data", at("fine"), "-o", at("never"), "--batch", "3", "--lr", "1e30", "--warmup", "0"];
    const { status, stderr } = await slimvit("retrain", at("one"), ...args);
    expect(stderr).toMatch(/slimvit: retrain: the loss became (NaN|Infinity) at step 1 \(pictures .*fine:\d\/\d+\.png/);
    expect(stderr).toMatch(/There is no checkpoint yet: start again with a lower --lr\./);
    expect(status).toBe(1);
    expect(existsSync(at("never"))).toBe(false);
  });
});
