/** What a training command makes of its options: augmentation, and the identity of a checkpoint. */
import { beforeAll, describe, expect, test } from "vitest";
import type { Manifest } from "../../../src/format/model.ts";
import { readManifestFile, readModelFolder, writeModelFolder } from "../../../tools/models/folders.ts";
import { checkpointOf, openTrainData, type TrainOptions } from "../../../tools/training/options.ts";
import { RECIPE_DEFAULTS } from "../../../tools/training/recipe.ts";
import { manifestOf } from "../../helpers.ts";
import { randomTensors, slimvitJson, tinyArchitecture, workplace, writePictures } from "../fixtures.ts";

const at = workplace("training-options");

function writeModel(name: string, seed: number): Manifest {
  const arch = tinyArchitecture();
  const { weights: _, variants: __, variant: ___, ...draft } = manifestOf(arch);
  const labels = ["0", "1", "2"].map((id) => ({ id, label: id }));
  writeModelFolder(at(name), { ...draft, labels }, randomTensors(arch, labels.length, seed), ["f32"]);
  return readManifestFile(at(name));
}

const optionsOf = (more: Partial<TrainOptions> = {}): TrainOptions => ({
  ...{ ...RECIPE_DEFAULTS, data: [at("pictures")], split: "train", out: at("out"), precision: "f32", ...more },
});

let one: Manifest;
let other: Manifest;
beforeAll(async () => {
  await writePictures(at("pictures"), 5, ["0", "1", "2"]);
  [one, other] = [writeModel("one", 1), writeModel("other", 2)];
});

test("pictures are augmented as the recipe says", async () => {
  const { data } = await openTrainData(optionsOf({ minScale: 0.6, randaugment: 7, erase: 0.2 }), one);
  expect(data.augmentation).toEqual({ minScale: 0.6, flip: true, randaugment: 7, erase: 0.2 });
});

describe("a checkpoint", () => {
  const planOf = (model: Manifest, more: Partial<TrainOptions> & { lrHead?: number } = {}, command = "retrain") =>
    checkpointOf(command, model, optionsOf(more));

  test("is of one command, one model and one teacher", async () => {
    const plans = await Promise.all([
      planOf(one),
      planOf(other),
      planOf(one, {}, "finetune"),
      planOf(one, { teacher: at("one") }),
      planOf(one, { teacher: at("other") }),
    ]);
    expect(new Set(plans.map(({ identity }) => JSON.stringify(identity))).size).toBe(plans.length);
  });

  test.each(["lr", "lrHead", "lrOwn", "lrMask", "lrMaskPatch"])(
    "goes on at another %s, which it says",
    async (rate) => {
      const [slow, fast] = [await planOf(one, { [rate]: 1e-5 }), await planOf(one, { [rate]: 1e-3 })];
      expect(fast.identity).toEqual(slow.identity);
      expect([slow, fast].map(({ rates }) => JSON.parse(rates)[rate])).toEqual([1e-5, 1e-3]);
    },
  );

  test("is looked for unless the training is to begin anew", async () => {
    const starts = [{}, { resume: true }, { restart: true }, { resume: true, restart: true }];
    const plans = await Promise.all(starts.map((more) => planOf(one, more)));
    expect(plans.map(({ start }) => start)).toEqual(["either", "resume", "anew", "anew"]);
  });
});

test("a new head, and that of a distillation token, learn ten times as fast as the rest unless a rate is given", async () => {
  const arch = tinyArchitecture({ prefixTokens: 2 });
  const { weights: _, variants: __, variant: ___, ...draft } = manifestOf({ ...arch, distilled: true });
  writeModelFolder(at("two"), draft, randomTensors({ ...arch, distilled: true }, 5, 3), ["f32"]);
  const args = ["--data", at("pictures"), "--batch", "9", "--epochs", "1", "--warmup", "0", "--weight-decay", "0"];
  await slimvitJson("finetune", at("two"), "-o", at("tuned"), ...args, "--lr", "1e-3", "--val-pictures", "0");
  const [before, after] = ["two", "tuned"].map((name) => readModelFolder(at(name)).tensors);
  const moved = (name: string, from: ArrayLike<number> | undefined) => {
    const values = after.get(name)!.data as Float32Array;
    return values.reduce((most, value, k) => Math.max(most, Math.abs(value - (from?.[k] ?? 0))), 0);
  };
  // One step: Adam's first is as long as its rate.
  for (const head of ["head", "head_dist"]) expect(moved(`${head}.weight`, undefined)).toBeCloseTo(1e-2, 5);
  const rest = "blocks.2.mlp.fc2.bias";
  expect(moved(rest, before.get(rest)!.data as Float32Array)).toBeLessThan(1.01e-3);
});
