import { readFileSync } from "node:fs";
import { beforeAll, expect, test } from "vitest";
import { float32 } from "../../../src/format/read.ts";
import { readManifestFile, readModelFolder } from "../../../tools/models/folders.ts";
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
