/** dtype "auto": the rule, then a device on which the preferred weights compute wrong results. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import type { WeightsDtype } from "../../src/format/model.ts";
import { SlimViT } from "../../src/index.ts";
import { chooseWeights } from "../../src/loading/chooseWeights.ts";
import type { EngineName } from "../../src/protocol.ts";
import { writeModelFolder } from "../../tools/models/folders.ts";
import { manifestOf, randomModel } from "../helpers.ts";

const block = { headDims: [8], mlpHidden: 16, keepIdx: [0, 1, 2, 3, 4] };
const sizes = { imageSize: [8, 8] as [number, number], patchSize: 4, embedDim: 16, headDim: 8, layerNormEps: 1e-6 };
const arch = { ...sizes, prefixTokens: 1, blocks: [block] };

type Accuracies = Partial<Record<WeightsDtype, number>>;

function chosen(dtypes: WeightsDtype[], accuracies: Accuracies, engine: EngineName | "auto" = "auto") {
  const manifest = manifestOf(arch);
  manifest.weights = dtypes.map((dtype) => ({ dtype, file: dtype, bytes: 1, sha256: dtype }));
  const accuracy = Object.entries(accuracies).map(([dtype, top1]) => ({
    ...{ dtype, top1, n: 1300, data: "val.zip", split: "all", engine: "simd" },
  }));
  manifest.metrics = { accuracy };
  return chooseWeights(manifest, "auto", engine, "slimvit.json");
}

const order = (choices: { weights: { dtype: string } }[]) => choices.map(({ weights }) => weights.dtype);

describe("of weights whose accuracy is measured", () => {
  test.each<[Accuracies, WeightsDtype[]]>([
    [{ f16: 0.8, int8: 0.7992 }, ["int8", "f16"]],
    [{ f16: 0.8, int8: 0.795 }, ["int8", "f16"]], // exactly half a point
    [{ f16: 0.8, int8: 0.7949 }, ["f16", "int8"]],
    [{ f16: 0.795, int8: 0.8 }, ["int8", "f16"]],
    [{ f32: 0.8, int8: 0.798 }, ["int8", "f32"]],
    [{ f32: 0.8, int8: 0.7 }, ["f32", "int8"]],
  ])("%o are tried in the order %j", (accuracies, expected) => {
    expect(order(chosen(Object.keys(accuracies) as WeightsDtype[], accuracies))).toEqual(expected);
  });

  type Entry = [dtype: WeightsDtype, top1: number, n?: number, split?: string, data?: string];
  const orderBy = (...entries: Entry[]) => {
    const manifest = manifestOf(arch);
    manifest.weights = (["f16", "int8"] as const).map((dtype) => ({ dtype, file: dtype, bytes: 1, sha256: dtype }));
    const accuracy = entries.map(([dtype, top1, n = 1300, split = "val", data = "a.zip"]) => ({
      ...{ dtype, top1, n, split, data, engine: "simd" },
    }));
    return order(chooseWeights({ ...manifest, metrics: { accuracy } }, "auto", "auto", "slimvit.json"));
  };

  test("those pictures count on which most of them were measured", () => {
    for (const other of [
      ["int8", 0.99, 50],
      ["int8", 0.99, 1300, "train"],
      ["int8", 0.99, 1300, "val", "b.zip"],
    ] as Entry[]) {
      expect(orderBy(other, ["f16", 0.8], ["int8", 0.7])).toEqual(["f16", "int8"]);
      expect(orderBy(["f16", 0.8], ["int8", 0.7], other)).toEqual(["f16", "int8"]);
    }
  });

  test("of several figures for the same weights the best counts", () => {
    expect(orderBy(["f16", 0.8], ["int8", 0.7], ["int8", 0.799])).toEqual(["int8", "f16"]);
    expect(orderBy(["f16", 0.8], ["int8", 0.799], ["int8", 0.7])).toEqual(["int8", "f16"]);
  });

  test("the reason names the rule and both figures", () => {
    expect(chosen(["f16", "int8"], { f16: 0.8, int8: 0.7992 })[0].reason).toBe(
      "the fastest here of those within 0.5 points of the best measured accuracy (79.9 % of 80.0 % on 1300 pictures of val.zip)",
    );
  });

  test("int8 that nobody measured is not preferred; f16 has the accuracy of f32", () => {
    expect(order(chosen(["f32", "f16", "int8"], { f32: 0.8 }))).toEqual(["f16", "f32", "int8"]);
  });

  test("other engines than simd gain nothing by int8", () => {
    expect(order(chosen(["f16", "int8"], { f16: 0.8, int8: 0.8 }, "onnx-wasm"))).toEqual(["f16", "int8"]);
    expect(order(chosen(["f16", "int8"], { f16: 0.8, int8: 0.8 }, "simd"))).toEqual(["int8", "f16"]);
  });
});

test("without measured accuracy the fastest is taken, and the reason says that nothing is measured", () => {
  const choices = chosen(["f32", "int8"], {});
  expect(order(choices)).toEqual(["int8", "f32"]);
  expect(choices[0].reason).toMatch(/no measured accuracy/);
});

describe("a device on which int8 computes wrong results", () => {
  const folder = mkdtempSync(join(tmpdir(), "slimvit-dtype-"));
  afterAll(() => rmSync(folder, { recursive: true }));
  const { manifest, tensors } = randomModel(arch, 3);
  let intact: string;
  beforeAll(() => {
    writeModelFolder(folder, manifest, tensors, ["f32", "int8"], {}, true);
    intact = readFileSync(join(folder, "slimvit.json"), "utf8");
  });
  beforeEach(() => writeFileSync(join(folder, "slimvit.json"), intact));

  const breakSelfTests = (...dtypes: WeightsDtype[]) => {
    const json = JSON.parse(intact);
    for (const dtype of dtypes) {
      const test = json.variants[0].selfTest[dtype];
      test.logits = test.logits.map((v: number) => v + 5);
    }
    writeFileSync(join(folder, "slimvit.json"), JSON.stringify(json));
  };

  test("has int8 when nothing is wrong", async () => {
    const vit = await SlimViT.load(folder);
    expect(vit.info).toMatchObject({ dtype: "int8", engine: "simd", notes: [] });
    vit.dispose();
  });

  test.each(["auto", "simd"] as const)("takes the next weights on engine %s, and says why", async (engine) => {
    breakSelfTests("int8");
    const vit = await SlimViT.load(folder, { engine });
    expect(vit.info).toMatchObject({ dtype: "f32", engine: "simd" });
    expect(vit.info.notes).toEqual([expect.stringMatching(/^The int8 weights are not used .*computes wrong results/)]);
    vit.dispose();
  });

  test("keeps to a dtype that was asked for", async () => {
    breakSelfTests("int8");
    await expect(SlimViT.load(folder, { engine: "simd", dtype: "int8" })).rejects.toMatchObject({
      code: "unsupported",
    });
  });

  test("falls to another engine only when all weights are wrong", async () => {
    breakSelfTests("int8", "f32");
    const vit = await SlimViT.load(folder);
    expect(vit.info).toMatchObject({ dtype: "f32", engine: "reference" });
    expect(vit.info.tried[0]).toMatchObject({ engine: "simd", reason: expect.stringMatching(/wrong results/) });
    vit.dispose();
  });
});
