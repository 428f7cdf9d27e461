import { readFileSync } from "node:fs";
import { beforeAll, expect, test } from "vitest";
import { float32 } from "../../../src/format/read.ts";
import { readManifestFile, readModelFolder } from "../../../tools/models/folders.ts";
import type { Accuracy } from "../../../tools/models/history.ts";
import { BestWeights } from "../../../tools/training/best.ts";
import { makeDense, slimvit, slimvitJson, workplace } from "../fixtures.ts";

const at = workplace("best");
const train = (from: string, out: string, ...more: string[]) =>
  ["retrain", at(from), "--data", at("pictures"), "--batch", "6", "--seed", "3", "-o", at(out), ...more] as const;

/** A rate at which a trained model forgets what it knows. */
const RUIN = ["--lr", "0.3", "--warmup", "0", "--schedule", "constant"];

beforeAll(async () => {
  await makeDense(at, 15);
  await slimvitJson(...train("dense", "good", "--epochs", "8", "--lr", "0.01"));
});

type History = Record<string, number>[];
const measuredOf = (out: string): number[] =>
  (JSON.parse(readFileSync(at(out, "history.json"), "utf8")) as History)
    .filter((line) => "val.top1" in line)
    .map((line) => line["val.top1"]);

test("a training that makes the model worse gives the weights that were best on val, those of the start", async () => {
  const { status, stderr } = await slimvit(...train("good", "kept", ...RUIN, "--epochs", "3", "--keep-best"));
  expect(stderr).toMatch(/retrain: ends with the weights of step \d+, which were best on val/);
  expect(status).toBe(0);
  const measured = measuredOf("kept");
  const best = Math.max(...measured);
  expect(measured.at(-1)).toBeLessThan(best);
  const options = ["--data", at("pictures"), "--split", "val", "--engine", "reference"];
  expect((await slimvitJson<{ top1: number }>("eval", at("kept"), ...options)).top1).toBeCloseTo(best, 9);
  const { steps } = readManifestFile(at("kept")).provenance as { steps: Record<string, unknown>[] };
  expect(steps.at(-1)).toMatchObject({ command: "retrain", keepBest: true, valTop1: best });
});

test("without --keep-best it ends with its last weights", async () => {
  await slimvitJson(...train("good", "last", ...RUIN, "--epochs", "3"));
  expect(measuredOf("last")).toEqual(measuredOf("kept"));
  const [kept, last] = ["kept", "last"].map((out) => readModelFolder(at(out)).tensors);
  expect(float32(last, "head.weight")).not.toEqual(float32(kept, "head.weight"));
});

test("weights whose divergence is no number are never the best", () => {
  const best = new BestWeights();
  const divergences = [0.3, Number.NaN, 0.2, 0.4];
  divergences.forEach(
    (divergence, step) => void best.offer({} as never, new Map(), { "val.divergence": divergence }, step),
  );
  expect(best.bestStep).toBe(2);
});

/** Offers the values of a single variable, one for each step. */
function offering(values: number[]) {
  const best = new BestWeights();
  const offer = (step: number, accuracy: Accuracy) => {
    const variable = { clone: () => ({ value: values[step], dispose() {} }) };
    best.offer({ keep: (tensor: unknown) => tensor } as never, new Map([["w", variable as never]]), accuracy, step);
  };
  const kept = () => (best.tensors.get("w") as unknown as { value: number }).value;
  return { best, offer, kept };
}

test("right classes count before the divergence from a teacher, and among equals the later weights", () => {
  const { best, offer, kept } = offering([10, 11, 12, 13]);
  offer(0, { "val.top1": 0.5, "val.agreement": 0.9, "val.divergence": 0.1 });
  offer(1, { "val.top1": 0.7, "val.agreement": 0.6, "val.divergence": 0.4 });
  offer(2, { "val.top1": 0.7, "val.agreement": 0.5, "val.divergence": 0.5 });
  offer(3, { "val.top1": 0.6, "val.agreement": 0.8, "val.divergence": 0.2 });
  expect([best.bestStep, kept()]).toEqual([2, 12]);
});

test("without labels the divergence counts before the agreement; of embeddings the cosine counts", () => {
  const taught = offering([10, 11, 12]);
  taught.offer(0, { "val.agreement": 0.9, "val.divergence": 0.3 });
  taught.offer(1, { "val.agreement": 0.8, "val.divergence": 0.2 });
  taught.offer(2, { "val.agreement": 1, "val.divergence": 0.4 });
  expect([taught.best.bestStep, taught.kept()]).toEqual([1, 11]);
  const embedding = offering([10, 11, 12]);
  [0.2, 0.9, 0.5].forEach((cosine, step) => void embedding.offer(step, { "val.cosine": cosine }));
  expect([embedding.best.bestStep, embedding.kept()]).toEqual([1, 11]);
});

test("after a resume, only weights that are at least as good as those of the checkpoint take their place", () => {
  const history: Record<string, number>[] = [
    { step: 0, "val.top1": 0.3 },
    { step: 2, loss: 1 },
    { step: 4, loss: 1, "val.top1": 0.8 },
    { step: 8, loss: 1, "val.top1": 0.6 },
  ];
  const { best, offer, kept } = offering(Array.from({ length: 13 }, (_, step) => step));
  best.restore(new Map([["w", { value: 4, dispose() {} } as never]]), history);
  expect(best.bestStep).toBe(4);
  offer(10, { "val.top1": 0.7 });
  expect([best.bestStep, kept()]).toEqual([4, 4]);
  offer(12, { "val.top1": 0.8 });
  expect([best.bestStep, kept()]).toEqual([12, 12]);
});
