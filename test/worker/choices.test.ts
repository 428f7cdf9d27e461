/** Which classes an answer has: options of `classify` together, in Node on the public class. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type ClassifyOptions, SlimViT } from "../../src/index.ts";
import { writeModelFolder } from "../../tools/models/folders.ts";
import { randomModel } from "../helpers.ts";

/** Of these logits every picture gets the same. The last two labels have one text. */
const LOGITS = [1, 4, 3, 2, 0, -1];
const LABELS = ["ant", "bee", "cat", "dog", "owl", "owl"].map((label, k) => ({ id: `n${k}`, label }));
const total = LOGITS.reduce((sum, v) => sum + Math.exp(v), 0);
const score = (index: number) => Math.exp(LOGITS[index]) / total;

let folder: string;
let vit: SlimViT;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "slimvit-choices-"));
  const arch = { imageSize: [8, 8] as [number, number], patchSize: 4, embedDim: 8, headDim: 4, layerNormEps: 1e-6 };
  const blocks = [{ headDims: [4], mlpHidden: 8, keepIdx: [0, 1, 2, 3, 4] }];
  const { manifest, tensors } = randomModel({ ...arch, prefixTokens: 1, blocks } as never, 3, LOGITS.length);
  (tensors.get("head.weight")!.data as Float32Array).fill(0);
  (tensors.get("head.bias")!.data as Float32Array).set(LOGITS);
  writeModelFolder(folder, { ...manifest, labels: LABELS }, tensors, ["f32"]);
  vit = await SlimViT.load(folder, { engine: "reference" });
});
afterAll(() => {
  vit?.dispose();
  rmSync(folder, { recursive: true, force: true });
});

async function classes(options: ClassifyOptions) {
  const picture = { data: new Uint8Array(64 * 4).fill(99), width: 8, height: 8 };
  return (await vit.classify(picture, options)).classes;
}
const indices = async (options: ClassifyOptions) => (await classes(options)).map(({ index }) => index);

test("classes come best first, five of them unless topK says otherwise, each with its own id, label and score", async () => {
  const answer = await classes({});
  expect(answer.map(({ index }) => index)).toEqual([1, 2, 3, 0, 4]);
  for (const { id, label, index, score: found } of answer) {
    expect({ id, label }).toEqual(LABELS[index]);
    expect(found).toBeCloseTo(score(index), 6);
  }
  expect(await indices({ topK: 2 })).toEqual([1, 2]);
  expect(await indices({ topK: 99 })).toEqual([1, 2, 3, 0, 4, 5]);
});

describe("what is left out leaves room for the next", () => {
  test("denied, by label or by id", async () => {
    expect(await indices({ topK: 2, deny: ["bee"] })).toEqual([2, 3]);
    expect(await indices({ topK: 2, deny: ["n2", "bee"] })).toEqual([3, 0]);
  });

  test("not allowed", async () => {
    expect(await indices({ topK: 2, allow: ["dog", "n0", "n4"] })).toEqual([3, 0]);
  });

  test("allowed and denied", async () => {
    expect(await indices({ topK: 2, allow: ["bee", "cat", "dog"], deny: ["bee"] })).toEqual([2, 3]);
  });

  test("a text that two labels have means both", async () => {
    expect(await indices({ topK: 9, allow: ["owl"] })).toEqual([4, 5]);
    expect(await indices({ topK: 9, deny: ["owl"] })).toEqual([1, 2, 3, 0]);
  });

  test("scores stay those over all classes", async () => {
    const [first, second] = await classes({ allow: ["cat", "ant"] });
    expect(first.score).toBeCloseTo(score(2), 6);
    expect(second.score).toBeCloseTo(score(0), 6);
  });
});

test("a threshold leaves out what scores below it, and keeps what scores exactly that", async () => {
  const [, second] = await classes({});
  expect(await indices({ scoreThreshold: second.score })).toEqual([1, 2]);
  expect(await indices({ scoreThreshold: second.score + 1e-9 })).toEqual([1]);
  expect(await indices({ topK: 1, scoreThreshold: second.score })).toEqual([1]);
  expect(await indices({ scoreThreshold: 1 })).toEqual([]);
});
