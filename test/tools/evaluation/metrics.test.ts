/** Top-1 and top-5 as timm counts them; what ties and NaN are worth; what eval reports of a model whose answers are known. */
import sharp from "sharp";
import { beforeAll, describe, expect, test } from "vitest";
import type { Tensor, TF } from "../../../src/tfjs/ops.ts";
import { type EvalReport, evaluate } from "../../../tools/evaluation/evaluate.ts";
import { writeModelFolder } from "../../../tools/models/folders.ts";
import { bestClass, rankOf } from "../../../tools/shared/ranks.ts";
import { openBackend } from "../../../tools/training/backend.ts";
import { accuracyMeter } from "../../../tools/training/validation.ts";
import { trainingNumbers } from "../../fixtures/oracle/numbers.ts";
import { manifestOf } from "../../helpers.ts";
import { randomTensors, tinyArchitecture, workplace, writePictures } from "../fixtures.ts";

const at = workplace("metrics");
const { topk } = trainingNumbers();
const rowsOf = (values: number[], classes: number) =>
  Array.from({ length: values.length / classes }, (_, k) => values.slice(k * classes, (k + 1) * classes));

describe("ranks", () => {
  test("give timm's top-1 and top-5", () => {
    const ranks = rowsOf(topk.logits, topk.classes).map((row, k) => rankOf(row, topk.labels[k]));
    const within = (limit: number) => ranks.filter((rank) => rank < limit).length / ranks.length;
    expect(within(1)).toBeCloseTo(topk.top1, 6);
    expect(within(5)).toBeCloseTo(topk.top5, 6);
  });

  test.each<[string, number[], number, number]>([
    ["the highest", [1, 5, 3], 1, 0],
    ["the lowest", [1, 5, 3], 0, 2],
    ["a tie for the first place", [5, 5, 3], 0, 1],
    ["a tie of all", [0, 0, 0, 0, 0, 0], 2, 5],
    ["a tie below it", [9, 5, 5], 0, 0],
    ["infinity above it", [Infinity, 5, 3], 1, 1],
    ["NaN beside it", [Number.NaN, 5, 3], 1, Infinity],
    ["NaN itself", [1, Number.NaN], 1, Infinity],
    ["nothing but NaN", [Number.NaN, Number.NaN], 0, Infinity],
  ])("%s", (_, logits, right, rank) => {
    expect(rankOf(Float32Array.from(logits), right)).toBe(rank);
  });

  test("the best class is the one above all others, or none", () => {
    expect([[1, 5, 3], [5, 5, 3], [Number.NaN, 1], [-Infinity, -1], []].map(bestClass)).toEqual([
      1,
      undefined,
      undefined,
      1,
      undefined,
    ]);
  });
});

describe("accuracy while training", () => {
  let tf: TF;
  beforeAll(async () => {
    ({ tf } = await openBackend("tfjs-node"));
  });

  /** @param logits rows of what the network answers, and its teacher */
  async function measured(logits: number[][], labels: number[], teacher: number[][]) {
    const png = await sharp({ create: { width: 2, height: 2, channels: 3, background: "red" } })
      .png()
      .toBuffer();
    const classes = logits[0].length;
    const pictures = labels.map((label, k) => ({ name: String(k), className: String(label), read: async () => png }));
    const indices = new Map(Array.from({ length: classes }, (_, k) => [String(k), k]));
    const preprocess = { resize: 2, crop: [2, 2], interpolation: "bicubic", mean: [0, 0, 0], std: [1, 1, 1] } as never;
    const answers = (rows: number[][]) => {
      let next = 0;
      return (pixels: Tensor) =>
        tf.tensor2d(rows.slice(next, (next += pixels.shape[0]!)), undefined, "float32") as Tensor;
    };
    return accuracyMeter(tf, { pictures, indices, preprocess }, 3, answers(teacher))(answers(logits));
  }

  test("is timm's top-1, and the share of pictures with the teacher's best class", async () => {
    const rows = rowsOf(topk.logits, topk.classes);
    const teacher = rows.map((row, k) => (k % 4 ? row : row.toReversed()));
    const best = (row: number[]) => row.indexOf(Math.max(...row));
    const agreement = rows.filter((row, k) => best(row) === best(teacher[k])).length / rows.length;
    expect(agreement).toBeLessThan(1);
    const accuracy = await measured(rows, topk.labels, teacher);
    expect(accuracy["val.top1"]).toBeCloseTo(topk.top1, 6);
    expect(accuracy["val.agreement"]).toBe(agreement);
  });

  test("counts neither ties nor NaN, and knows no divergence of NaN", async () => {
    const rows = [
      [0, 0],
      [Number.NaN, Number.NaN],
      [1, 0],
      [0, 1],
    ];
    const accuracy = await measured(rows, [0, 0, 0, 1], rows);
    expect(accuracy).toEqual({ "val.top1": 0.5, "val.agreement": 0.5, "val.divergence": Number.NaN });
  });
});

describe("eval", () => {
  const names = "abcdefghi".split("");
  beforeAll(() => writePictures(at("pictures"), 2, names.slice(0, 3)));
  /** A model whose logits are these whatever the picture. */
  async function evaluated(logits: number[], folders: string): Promise<EvalReport> {
    const arch = tinyArchitecture();
    const tensors = randomTensors(arch, logits.length, 1);
    (tensors.get("head.weight")!.data as Float32Array).fill(0);
    (tensors.get("head.bias")!.data as Float32Array).set(logits);
    const labels = names.slice(0, logits.length).map((id) => ({ id, label: `class ${id}` }));
    writeModelFolder(at("model"), { ...manifestOf(arch, logits.length), labels }, tensors, ["f32"], {}, true);
    const options = { data: [at(folders)], split: "all", engine: "reference", threads: 1 } as const;
    return evaluate(at("model"), { ...options, data: [...options.data] });
  }

  test("top-5 is the share whose class is among the best five, top-1 among the best one", async () => {
    // The folders are a, b and c: of rank 0, 4 and 5.
    const report = await evaluated([9, 5, 4, 8, 7, 6, 3, 2, 1], "pictures");
    expect(report).toMatchObject({ n: 6, top1: 2 / 6, top5: 4 / 6 });
  });

  test("a head of zeros knows nothing", async () => {
    expect(await evaluated([0, 0, 0, 0, 0, 0, 0], "pictures")).toMatchObject({ n: 6, top1: 0, top5: 0 });
  });
});
