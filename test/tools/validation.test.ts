/** Accuracy over the steps of a training: what it says, and that it changes nothing. */
import { existsSync, readFileSync } from "node:fs";
import { beforeAll, describe, expect, test, vi } from "vitest";
import { float32 } from "../../src/format/read.ts";
import { forward } from "../../src/tfjs/forward.ts";
import type { TF } from "../../src/tfjs/ops.ts";
import { evalPixels } from "../../tools/data/data.ts";
import { readModelFolder } from "../../tools/models/folders.ts";
import { accuracySummary } from "../../tools/models/history.ts";
import type { Variables } from "../../tools/models/variables.ts";
import { identity } from "../../tools/recipes/runRecipe.ts";
import { type Backend, openBackend } from "../../tools/training/backend.ts";
import type { TrainData } from "../../tools/training/batches.ts";
import { checkpointOf } from "../../tools/training/options.ts";
import type { Recipe } from "../../tools/training/recipe.ts";
import { type TrainReport, train } from "../../tools/training/train.ts";
import { openValidation, type Validation } from "../../tools/training/validation.ts";
import { CLASSES, makeDense, slimvit, slimvitJson, workplace, writePictures } from "./fixtures.ts";
import { arch, noiseData, noisePictures, recipe, taskOf, tinyVariables } from "./training.ts";

const at = workplace("validation");
type History = Record<string, number>[];

describe("measuring accuracy", () => {
  let backend: Backend;
  let tf: TF;
  let data: TrainData;
  let validation: Validation;
  const options = recipe({
    ...{ epochs: 3, batch: 4, lr: 1e-2, ema: 0.8, mixup: 0.5, dropPath: 0.1, randaugment: 5, checkpointSeconds: 0 },
  });

  beforeAll(async () => {
    backend = await openBackend("tfjs-node");
    tf = backend.tf;
    data = await noiseData(24); // 6 steps an epoch
    const { indices, preprocess } = data;
    validation = { pictures: await noisePictures(10, 100), indices, preprocess };
  });

  const run = async (name: string, changes: object, more: Partial<Recipe> = {}) => {
    const variables = tinyVariables(tf);
    const teacherWeights = tinyVariables(tf, 2);
    const task = taskOf(tf, name, variables, data, at(`.${name}.checkpoint.safetensors`));
    const teacher = (pixels: Parameters<typeof task.forward>[0]) => forward(tf, arch, teacherWeights, pixels).logits;
    const report = await train(backend, { ...task, teacher, ...changes }, { ...options, ...more });
    return { report, weights: weightsOf(variables) };
  };
  const weightsOf = (variables: Variables) => [...variables.values()].map((v) => v.dataSync());
  const measured = ({ history }: TrainReport) => history.filter((line) => "val.top1" in line);

  test("leaves the weights that are trained as they are, bit for bit", async () => {
    const [without, often] = [await run("without", {}), await run("often", { validation }, { valEvery: 1 / 6 })];
    expect(measured(often.report)).toHaveLength(19);
    expect(measured(without.report)).toHaveLength(0);
    expect(often.weights).toEqual(without.weights);
    for (const line of without.report.history)
      expect(often.report.history).toContainEqual(expect.objectContaining(line));
  });

  test("is done at the start, after every --val-every epochs, and at the end", async () => {
    const { report } = await run("when", { validation }, { valEvery: 1, epochs: 2.5 });
    expect(measured(report).map(({ step }) => step)).toEqual([0, 6, 12, 15]);
  });

  test("gives the shares of pictures whose best class is the right one, and the teacher's, with the averaged weights", async () => {
    const { report, weights } = await run("shares", { validation });
    const averaged = tinyVariables(tf);
    [...averaged.values()].forEach(
      (variable, k) => void variable.assign(tf.tensor(weights[k], variable.shape) as never),
    );
    const byHand = async (variables: Variables) => {
      const all = await Promise.all(validation.pictures.map((picture) => evalPixels(picture, validation.preprocess)));
      return all.map((pixels) => {
        const logits = forward(tf, arch, variables, tf.tensor4d(pixels, [1, 3, 32, 32])).logits.dataSync();
        return logits.indexOf(Math.max(...logits));
      });
    };
    const [before, after, teacher] = await Promise.all([tinyVariables(tf), averaged, tinyVariables(tf, 2)].map(byHand));
    const share = (of: number[], wanted: number[]) => of.filter((best, k) => best === wanted[k]).length / of.length;
    const right = validation.pictures.map(({ className }) => CLASSES.indexOf(className));
    const [first, last] = [measured(report)[0], measured(report).at(-1)!];
    const { "val.divergence": divergence, ...shares } = first;
    expect(shares).toEqual({ step: 0, "val.top1": share(before, right), "val.agreement": share(before, teacher) });
    expect(divergence).toBeGreaterThan(0);
    expect(last).toMatchObject({ "val.top1": share(after, right), "val.agreement": share(after, teacher) });
    expect(after).not.toEqual(before);
    expect(report).toMatchObject({
      ...{ valTop1: last["val.top1"], valAgreement: last["val.agreement"], valPictures: 10 },
    });
  });

  test("a run that is cut off and resumed writes the history of one that was not", async () => {
    const whole = await run("whole", { validation });
    let steps = 0;
    const stop = () => {
      if (++steps === 8) throw new Error("cut off");
    };
    await expect(run("cut", { validation, afterStep: stop })).rejects.toThrow("cut off");
    const path = at(".cut.checkpoint.safetensors");
    const checkpoint = { path, identity: { of: "this test" }, rates: "{}", start: "resume" as const };
    const rest = await run("cut", { validation, checkpoint });
    expect(rest.report.steps).toBeLessThan(18);
    expect(rest.report.history).toEqual(whole.report.history);
    expect(rest.weights).toEqual(whole.weights);
  });

  test("leaves no tensor behind", async () => {
    const counts: number[] = [];
    const afterStep = () => void counts.push(tf.memory().numTensors);
    await run("flat", { validation, afterStep }, { valEvery: 0.5 });
    expect(counts[17]).toBe(counts[1]);
  });

  test("of unlabelled pictures knows agreement alone; a picture that cannot be read is left out", async () => {
    const broken = { name: "broken", className: CLASSES[0], read: async () => Buffer.from("no picture") };
    const pictures = [broken, ...validation.pictures];
    const unlabelled = { ...validation, indices: undefined, pictures };
    const { report } = await run("unlabelled", { validation: unlabelled });
    const labelled = await run("labelled", { validation });
    const agreements = ({ history }: TrainReport) =>
      history.flatMap((line) => ("val.agreement" in line ? [line["val.agreement"]] : []));
    expect(agreements(report)).toEqual(agreements(labelled.report));
    expect(measured(report)).toHaveLength(0);
  });
});

test("the summary says the last, the best and the first value", () => {
  const history: History = [
    { step: 0, "val.top1": 0.1 },
    { step: 5, loss: 1 },
    { step: 10, loss: 0.5, "val.top1": 0.8 },
    { step: 20, loss: 0.4, "val.top1": 0.75 },
  ];
  expect(accuracySummary(history)).toEqual(["top-1 75.0 % at the end, 80.0 % at best (step 10), 10.0 % at the start"]);
  expect(accuracySummary([{ step: 5, loss: 1 }])).toEqual([]);
});

describe("on the command line", () => {
  beforeAll(() => makeDense(at, 10)); // per class 6 train, 2 val, 2 test
  const train = (...args: string[]) => ["--data", at("pictures"), "--batch", "6", "--epochs", "2", ...args];
  const historyOf = (name: string): History => JSON.parse(readFileSync(at(name, "history.json"), "utf8"));

  test("every training measures val, says so, draws it; what it says is what eval finds", async () => {
    const args = ["--ema", "0.5", "--lr", "1e-3", "--teacher", at("dense")];
    const { status, stderr } = await slimvit("retrain", at("dense"), "-o", at("retrained"), ...train(...args));
    expect(status).toBe(0);
    expect(stderr).toMatch(
      /retrain: accuracy on 6 val pictures, now and after every 3 of 6 steps, takes \d+\.\d s each/,
    );
    const history = historyOf("retrained");
    const measured = history.filter((line) => "val.top1" in line);
    expect(measured.map(({ step }) => step)).toEqual([0, 3, 6]);
    expect(measured[0]["val.agreement"]).toBe(1); // with itself
    const { top1 } = await slimvitJson<{ top1: number }>(
      ...["eval", at("retrained"), "--data", at("pictures"), "--split", "val", "--engine", "reference"],
    );
    expect(measured.at(-1)!["val.top1"]).toBe(top1);
    const line = accuracySummary(history).join("; ");
    expect(line).toMatch(/^top-1 .*; agreement with the teacher .* at best .*, 100\.0 % at the start$/);
    expect(stderr).toContain(`retrain: on val ${line}; measuring took `);
    expect(readFileSync(at("retrained", "report.html"), "utf8")).toContain(`On val pictures: ${line}`);
    expect(readModelFolder(at("retrained")).manifest.provenance.steps).toContainEqual(
      expect.objectContaining({ command: "retrain", valTop1: top1, valPictures: 6 }),
    );

    await slimvitJson("search", at("dense"), "-o", at("search"), ...train());
    expect(historyOf("search").filter((line) => "val.top1" in line)).toHaveLength(3);
    await slimvitJson("finetune", at("dense"), "-o", at("tuned"), ...train("--val-every", "0.5"));
    expect(historyOf("tuned").flatMap((line) => ("val.top1" in line ? [line.step] : []))).toEqual([0, 2, 4, 6]);
  });

  test("--val-pictures 0 leaves it out, for the same weights; fewer are spread over the classes", async () => {
    const args = ["--ema", "0.5", "--lr", "1e-3", "--teacher", at("dense")];
    const none = await slimvit("retrain", at("dense"), "-o", at("silent"), ...train(...args, "--val-pictures", "0"));
    expect(none.stderr).not.toMatch(/accuracy|on val|top-1/);
    const steps = historyOf("retrained").flatMap(({ step }) => (step > 0 ? [step] : []));
    expect(historyOf("silent").map(({ step }) => step)).toEqual(steps);
    expect(historyOf("silent").filter((line) => "val.top1" in line)).toEqual([]);
    const [with_, without] = [readModelFolder(at("retrained")), readModelFolder(at("silent"))];
    for (const name of with_.tensors.keys())
      expect(float32(without.tensors, name)).toEqual(float32(with_.tensors, name));
    const few = await slimvit("retrain", at("dense"), "-o", at("few"), ...train("--val-pictures", "3"));
    expect(few.stderr).toMatch(/accuracy on 3 val pictures/);
  });

  test.each<[string, string[], RegExp]>([
    ["a split that trains on val", ["--split", "all"], /not measured: --split all trains on the val pictures/],
    ["data without val", ["--data", "small"], /not measured: the data has no val pictures/],
  ])("%s is trained on without accuracy, and said so", async (what, changes, message) => {
    await writePictures(at("small"), 3);
    const out = at(what.replaceAll(" ", "-"));
    const args = changes[0] === "--data" ? ["--data", at("small"), "--batch", "6"] : train(...changes);
    const { status, stderr } = await slimvit("retrain", at("dense"), "-o", out, ...args, "--epochs", "1");
    expect([status, stderr]).toEqual([0, expect.stringMatching(message)]);
    expect(existsSync(out)).toBe(true);
  });

  test("a checkpoint is gone on from under another --val-pictures, and a stage of slim is the same one", async () => {
    const options = {
      ...recipe({}),
      data: [at("pictures")],
      split: "train" as const,
      out: at("x"),
      precision: "f32" as const,
    };
    const { manifest } = readModelFolder(at("dense"));
    const ownIdentity = async (more: object) =>
      (await checkpointOf("retrain", manifest, { ...options, ...more })).identity;
    const stage = (more: object) => identity({ ...options, ...more });
    for (const of of [ownIdentity, stage]) {
      expect(await of({ valPictures: 5, valEvery: 2 })).toEqual(await of({}));
      expect(await of({ epochs: 4 })).not.toEqual(await of({}));
    }
  });
});

test("val pictures of a class without train pictures are left out and named", async () => {
  await writePictures(at("split", "val"), 2, ["New_York", "plums", "cherries"]);
  const { preprocess } = await noiseData(2);
  const indices = new Map(["New York", "cherries"].map((name, k) => [name, k]));
  const said: string[] = [];
  const write = vi.spyOn(process.stderr, "write").mockImplementation((text) => said.push(String(text)) > 0);
  const options = { data: [at("split")], split: "train" as const, valPictures: 100 };
  const found = await openValidation(options, { indices, preprocess } as TrainData);
  write.mockRestore();
  expect(said.join("")).toMatch(/leaves out val pictures of classes without train pictures: plums\n/);
  expect(found!.pictures.map(({ className }) => className).sort()).toEqual([
    "New York",
    "New York",
    "cherries",
    "cherries",
  ]);
});
