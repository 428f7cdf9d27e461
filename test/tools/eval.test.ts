/** slimvit eval --against: two models on the same pictures. */
import { cpSync, readdirSync } from "node:fs";
import { beforeAll, expect, test } from "vitest";
import { type AgreementReport, paired } from "../../tools/evaluation/evaluate.ts";
import { CLASSES, expectFailure, makeDense, slimvitJson, workplace } from "./fixtures.ts";

const at = workplace("eval");

beforeAll(() => makeDense(at, 4));

interface Report {
  top1: number;
  n: number;
  against: { name: string; dtype: string; top1: number; difference: number; interval: [number, number] };
}

const against = (model: string, other: string) =>
  slimvitJson<Report>("eval", at(model), "--against", at(other), "--data", at("pictures"), "--engine", "reference");

/** As many pictures with each outcome: both right, only a, only b, neither. */
function ranks(
  both: number,
  onlyA: number,
  onlyB: number,
  neither: number,
): [Map<string, number>, Map<string, number>] {
  const a = new Map<string, number>();
  const b = new Map<string, number>();
  [both, onlyA, onlyB, neither].forEach((count, kind) => {
    for (let k = 0; k < count; k++) {
      a.set(`${kind}/${k}`, kind < 2 ? 0 : 3);
      b.set(`${kind}/${k}`, kind % 2 ? 1 : 0);
    }
  });
  return [a, b];
}

test("the difference and its interval are those of the pictures on which the models disagree", () => {
  const { top1, difference, interval } = paired(...ranks(80, 4, 10, 6));
  expect(top1).toBe(0.9);
  expect(difference).toBeCloseTo(-0.06, 12);
  // Bonett and Price by hand: p = 5/102, q = 11/102.
  const [p, q] = [5 / 102, 11 / 102];
  const half = 1.96 * Math.sqrt((p + q - (p - q) * (p - q)) / 102);
  expect(interval[0]).toBeCloseTo(p - q - half, 12);
  expect(interval[1]).toBeCloseTo(p - q + half, 12);
});

test("turned round, the difference and the interval change their signs", () => {
  const [a, b] = ranks(50, 9, 2, 3);
  const [one, other] = [paired(a, b), paired(b, a)];
  expect(one.difference).toBeCloseTo(-other.difference, 12);
  expect(one.interval[0]).toBeCloseTo(-other.interval[1], 12);
});

test("a picture that one of them could not read counts for neither", () => {
  const [a, b] = ranks(5, 1, 1, 1);
  a.set("only a", 0);
  b.set("only b", 0);
  expect(paired(a, b)).toEqual(paired(...ranks(5, 1, 1, 1)));
});

test("a model against itself differs by nothing, with an interval around it", () => {
  const { top1, n, against: other } = against("dense", "dense");
  expect(n).toBe(12);
  expect(other).toMatchObject({ name: "tiny", dtype: "f32", top1, difference: 0 });
  expect(other.interval[0]).toBeCloseTo(-other.interval[1], 12);
  expect(other.interval[1]).toBeGreaterThan(0);
});

test("the other model sees the pictures as its own manifest says", () => {
  slimvitJson(
    "finetune",
    at("dense"),
    "--data",
    at("pictures"),
    "--split",
    "all",
    "--image-size",
    "16",
    "--epochs",
    "2",
    "-o",
    at("small"),
    "--batch",
    "4",
  );
  const alone = slimvitJson<Report>("eval", at("small"), "--data", at("pictures"), "--engine", "reference");
  expect(against("dense", "small").against.top1).toBe(alone.top1);
});

test("--unlabelled: agreement and divergence on classes that the models do not have", () => {
  const args = ["--against", at("dense"), "--data", at("strangers"), "--engine", "reference"];
  cpSync(at("pictures", CLASSES[0]), at("strangers", "unheard-of"), { recursive: true });
  const n = readdirSync(at("strangers", "unheard-of")).length;
  const unlabelled = (model: string) => slimvitJson<AgreementReport>("eval", at(model), ...args, "--unlabelled");
  expect(unlabelled("dense")).toMatchObject({ against: "tiny", n, agreement: 1, divergence: 0 });
  slimvitJson("thin", at("dense"), "-o", at("thin"), "--keep", "1:4");
  const thin = unlabelled("thin");

  const images = readdirSync(at("strangers", "unheard-of")).map((file) => at("strangers", "unheard-of", file));
  const [p, q] = ["thin", "dense"].map((model) =>
    slimvitJson<{ logits: number[] }[]>("run", at(model), ...images, "--engine", "reference").map(({ logits }) => {
      const total = Math.log(logits.reduce((sum, v) => sum + Math.exp(v), 0));
      return logits.map((v) => v - total);
    }),
  );
  const divergences = q.map((row, i) => row.reduce((sum, v, k) => sum + Math.exp(v) * (v - p[i][k]), 0));
  expect(thin.divergence).toBeCloseTo(divergences.reduce((a, b) => a + b) / n, 6);
  expect(thin.divergence).toBeGreaterThan(0);
  const best = (row: number[]) => row.indexOf(Math.max(...row));
  expect(thin.agreement).toBe(q.filter((row, i) => best(row) === best(p[i])).length / n);

  expectFailure(["eval", at("dense"), ...args.slice(2), "--unlabelled"], 2, /--unlabelled compares with another model/);
  expectFailure(["eval", at("dense"), ...args], 1, /unheard-of/);
});
