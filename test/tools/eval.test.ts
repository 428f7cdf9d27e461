/** slimvit eval --against: two models on the same pictures. */
import { cpSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { beforeAll, expect, test } from "vitest";
import type { Tensors } from "../../src/format/model.ts";
import { type AgreementReport, paired } from "../../tools/evaluation/evaluate.ts";
import type { RunReport } from "../../tools/evaluation/run.ts";
import { readModelFolder, writeModelFolder } from "../../tools/models/folders.ts";
import { bestClass, rankOf } from "../../tools/shared/ranks.ts";
import { CLASSES, expectFailure, makeDense, onAllPictures, slimvit, slimvitJson, workplace } from "./fixtures.ts";

const at = workplace("eval");

beforeAll(() => makeDense(at, 4));

interface Report {
  top1: number;
  n: number;
  against: { name: string; dtype: string; top1: number; difference: number; interval: [number, number] };
}

const against = (model: string, other: string) =>
  slimvitJson<Report>("eval", at(model), "--against", at(other), ...onAllPictures(at));

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

test("a model against itself differs by nothing, with an interval around it", async () => {
  const { top1, n, against: other } = await against("dense", "dense");
  expect(n).toBe(12);
  expect(other).toMatchObject({ name: "tiny", dtype: "f32", top1, difference: 0 });
  expect(other.interval[0]).toBeCloseTo(-other.interval[1], 12);
  expect(other.interval[1]).toBeGreaterThan(0);
});

test("the other model sees the pictures as its own manifest says", async () => {
  await slimvitJson(
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
  const alone = await slimvitJson<Report>("eval", at("small"), ...onAllPictures(at));
  expect((await against("dense", "small")).against.top1).toBe(alone.top1);
});

test("--unlabelled: agreement and divergence on classes that the models do not have", async () => {
  const args = ["--against", at("dense"), "--data", at("strangers"), "--engine", "reference"];
  cpSync(at("pictures", CLASSES[0]), at("strangers", "unheard-of"), { recursive: true });
  const n = readdirSync(at("strangers", "unheard-of")).length;
  const unlabelled = (model: string) => slimvitJson<AgreementReport>("eval", at(model), ...args, "--unlabelled");
  expect(await unlabelled("dense")).toMatchObject({ against: "tiny", n, agreement: 1, divergence: 0 });
  await slimvitJson("thin", at("dense"), "-o", at("thin"), "--keep", "1:4");
  const thin = await unlabelled("thin");

  const images = readdirSync(at("strangers", "unheard-of")).map((file) => at("strangers", "unheard-of", file));
  const logarithmsOf = async (model: string) => {
    const seen = await slimvitJson<{ logits: number[] }[]>("run", at(model), ...images, "--engine", "reference");
    return seen.map(({ logits }) => {
      const total = Math.log(logits.reduce((sum, v) => sum + Math.exp(v), 0));
      return logits.map((v) => v - total);
    });
  };
  const p = await logarithmsOf("thin");
  const q = await logarithmsOf("dense");
  const divergences = q.map((row, i) => row.reduce((sum, v, k) => sum + Math.exp(v) * (v - p[i][k]), 0));
  expect(thin.divergence).toBeCloseTo(divergences.reduce((a, b) => a + b) / n, 6);
  expect(thin.divergence).toBeGreaterThan(0);
  const best = (row: number[]) => row.indexOf(Math.max(...row));
  expect(thin.agreement).toBe(q.filter((row, i) => best(row) === best(p[i])).length / n);

  await expectFailure(
    ["eval", at("dense"), ...args.slice(2), "--unlabelled"],
    2,
    /--unlabelled compares with another model/,
  );
  await expectFailure(["eval", at("dense"), ...args, "--split", "all"], 1, /unheard-of/);
});

test("embedding models are compared by the cosine of their features, and have no accuracy", async () => {
  const { manifest, tensors } = readModelFolder(at("dense"));
  const { format: _, weights: __, head: ___, ...draft } = manifest;
  const headless = (name: string, change: (tensors: Tensors) => void) => {
    const own = new Map([...tensors].filter(([key]) => !key.startsWith("head")));
    change(own);
    writeModelFolder(at(name), { ...draft, name, labels: [] }, own, ["f32"]);
  };
  headless("embedder", () => {});
  headless("turned", (own) => {
    for (const key of ["norm.weight", "norm.bias"]) {
      const tensor = own.get(key)!;
      own.set(key, { ...tensor, data: (tensor.data as Float32Array).map((v, i) => (i % 3 ? v : -v)) });
    }
  });
  const args = ["--data", at("pictures"), "--engine", "reference"];
  const compare = (model: string) =>
    slimvitJson<AgreementReport>("eval", at(model), "--against", at("embedder"), "--unlabelled", ...args);
  expect((await slimvit("run", at("embedder"), at("pictures", CLASSES[0], "00.png"))).stdout).toMatch(
    / {2}\d+ features, /,
  );
  expect((await compare("embedder")).cosine).toBeCloseTo(1, 6);
  expect(await compare("embedder")).not.toHaveProperty("agreement");
  expect(await compare("dense")).not.toHaveProperty("divergence");

  const files = CLASSES.flatMap((name) => readdirSync(at("pictures", name)).map((file) => at("pictures", name, file)));
  const featuresOf = async (model: string) =>
    (await slimvitJson<RunReport[]>("run", at(model), ...files, "--engine", "reference")).map(
      ({ features, classes }) => {
        expect(classes).toEqual([]);
        return features!;
      },
    );
  const turned = await featuresOf("turned");
  const embedded = await featuresOf("embedder");
  const cosines = turned.map((a, i) => {
    const b = embedded[i];
    const dot = (x: number[], y: number[]) => x.reduce((sum, v, i) => sum + v * y[i], 0);
    return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
  });
  const { cosine, n } = await compare("turned");
  expect(n).toBe(files.length);
  expect(cosine).toBeCloseTo(cosines.reduce((sum, v) => sum + v) / n, 6);

  await expectFailure(["eval", at("embedder"), ...args], 1, /embedder: gives features and has no classes.*--against/);
});

test("ties never count as right, and NaN never does", () => {
  expect(rankOf([0, 0, 0], 1)).toBe(2);
  expect(rankOf([1, 3, 3], 1)).toBe(1);
  expect(rankOf([1, 3, 2], 1)).toBe(0);
  expect(rankOf([1, Number.NaN, 0], 0)).toBe(Number.POSITIVE_INFINITY);
  expect(bestClass([1, 3, 2])).toBe(1);
  expect(bestClass([3, 3, 2])).toBeUndefined();
  expect(bestClass([Number.NaN, 3, 2])).toBeUndefined();
  expect(bestClass([0, Number.NaN, 2])).toBeUndefined();
});

test("eval takes the test split, and says so where the model was trained on what it is measured on", async () => {
  const args = ["eval", at("small"), "--data", at("bigger"), "--engine", "reference"];
  cpSync(at("pictures"), at("bigger"), { recursive: true });
  for (const name of CLASSES) cpSync(at("pictures", name, "00.png"), at("bigger", name, "04.png"));
  const { stdout, stderr } = await slimvit(...args, "--json");
  expect(JSON.parse(stdout).n).toBe(3); // every fifth
  expect(stderr).not.toMatch(/warning/);
  const onTrained = await slimvit(
    ...args.map((word) => (word === at("bigger") ? at("pictures") : word)),
    "--split",
    "all",
  );
  expect(onTrained.stderr).toMatch(
    /eval: warning: the model was trained on pictures of this split \("finetune" took split all/,
  );
});

test("run takes folders, goes on after a bad file, and says which it was", async () => {
  mkdirSync(at("shots"));
  cpSync(at("pictures", CLASSES[0], "00.png"), at("shots", "b.png"));
  writeFileSync(at("shots", "a.png"), "no picture");
  writeFileSync(at("shots", "._b.png"), "of the system's own");
  const { status, stdout, stderr } = await slimvit("run", at("dense"), at("shots"), "--engine", "reference", "--json");
  const reports = JSON.parse(stdout) as { file: string; error?: string; classes?: object[] }[];
  expect(reports.map(({ file }) => file)).toEqual([at("shots", "a.png"), at("shots", "b.png")]);
  expect(reports[0].error).toMatch(/a\.png: is no picture/);
  expect(reports[1].classes).toHaveLength(3);
  expect(stderr).toMatch(/run: 1 of 2 files could not be classified/);
  expect(status).toBe(1);
});

test("run scores each class on its own where a picture may have several", async () => {
  const { manifest, tensors } = readModelFolder(at("dense"));
  const { format: _, weights: __, ...draft } = manifest;
  writeModelFolder(at("several"), { ...draft, name: "several", head: { scores: "sigmoid" } }, tensors, ["f32"]);
  const file = at("pictures", CLASSES[0], "00.png");
  const [{ classes, logits }] = await slimvitJson<RunReport[]>("run", at("several"), file, "--engine", "reference");
  expect(classes).toHaveLength(CLASSES.length);
  for (const { index, score } of classes) expect(score).toBeCloseTo(1 / (1 + Math.exp(-logits[index])), 6);
});

test("inspect of several models is one table", async () => {
  const { stdout } = await slimvit("inspect", at("dense"), at("small"));
  const lines = stdout.trimEnd().split("\n");
  expect(lines[0]).toMatch(/^folder +name +pixels +parameters +MACs +weights +top-1$/);
  expect(lines.slice(1).map((line) => line.split(/ {2,}/)[2])).toEqual(["32×32", "16×16"]);
});
