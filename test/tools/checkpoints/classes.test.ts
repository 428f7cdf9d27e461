/** Zero-shot classifiers out of text vectors. */
import { writeFileSync } from "node:fs";
import { beforeAll, describe, expect, test } from "vitest";
import type { Tensors } from "../../../src/format/model.ts";
import { writeSafetensors } from "../../../src/format/safetensors.ts";
import { forward } from "../../../src/reference/forward.ts";
import { classPicker } from "../../../src/worker/classes.ts";
import { makeClasses } from "../../../tools/checkpoints/classes.ts";
import { importModel } from "../../../tools/checkpoints/import.ts";
import { readModelFolder } from "../../../tools/models/folders.ts";
import { familyCase, familyPixels, writeFamilyCheckpoint } from "../../fixtures/family/numbers.ts";
import { expectClose } from "../../helpers.ts";
import { workplace } from "../fixtures.ts";

const at = workplace("classes");
const NAMES = ["a red mug", "a blue cup", "a plate"];
const rowsOf = (vectors: number[][]): Float32Array => Float32Array.from(vectors.flat());

function writeRows(file: string, vectors: number[][], metadata?: Record<string, string>): string {
  const tensors: Tensors = new Map([
    ["embeddings", { dtype: "F32", shape: [vectors.length, vectors[0].length], data: rowsOf(vectors) }],
  ]);
  writeFileSync(at(file), writeSafetensors(tensors, metadata));
  return at(file);
}

function writeNamed(file: string, vectors: number[][]): string {
  const tensors: Tensors = new Map(
    vectors.map((vector, k) => [NAMES[k], { dtype: "F32", shape: [vector.length], data: Float32Array.from(vector) }]),
  );
  writeFileSync(at(file), writeSafetensors(tensors));
  return at(file);
}

describe.each([
  ["transformers: CLIP", "softmax"],
  ["transformers: SigLIP", "sigmoid"],
])("%s", (name, scores) => {
  const of = familyCase(name);
  const { vectors, scores: wanted } = of.zeroShot!;
  const id = name.replace(/\W+/g, "-");
  beforeAll(async () => {
    await importModel(writeFamilyCheckpoint(at(`source-${id}`), of), { out: at(`model-${id}`) });
  });

  test(`gives PyTorch's zero-shot probabilities, by ${scores}`, async () => {
    const embeddings = writeNamed(`${id}.safetensors`, vectors);
    const report = await makeClasses(at(`model-${id}`), { embeddings, out: at(`out-${id}`) });
    expect(report).toMatchObject({ classes: 3, scores });
    const model = readModelFolder(at(`out-${id}`));
    expect(model.manifest.head).toEqual({ scores, cosine: true });
    const { classes: picked } = (await classPicker(model.manifest, { topK: 3 }))(forward(model, familyPixels(of)));
    const byName = Object.fromEntries(picked.map(({ label, score }) => [label, score]));
    expectClose(
      Float32Array.from(NAMES, (label) => byName[label]),
      wanted,
      2e-5,
    );
  });

  test("gives them at run time too, from the vectors alone", async () => {
    const model = readModelFolder(at(`model-${id}`));
    const classes = Object.fromEntries(NAMES.map((label, k) => [label, vectors[k]]));
    const { classes: picked } = (await classPicker(model.manifest, { classes }))(forward(model, familyPixels(of)));
    const byName = Object.fromEntries(picked.map(({ label, score }) => [label, score]));
    expectClose(
      Float32Array.from(NAMES, (label) => byName[label]),
      wanted,
      2e-5,
    );
  });

  test("takes rows with the names in the file's metadata or in a list", async () => {
    const metadata = { labels: JSON.stringify(NAMES) };
    writeFileSync(at("names.txt"), NAMES.join("\n"));
    const sources = [
      { embeddings: writeRows(`${id}-rows.safetensors`, vectors, metadata), out: at(`rows-${id}`) },
      { embeddings: writeRows(`${id}-bare.safetensors`, vectors), labels: at("names.txt"), out: at(`list-${id}`) },
    ];
    for (const options of sources) await makeClasses(at(`model-${id}`), options);
    const [a, b] = sources.map(({ out }) => readModelFolder(out));
    expect(a.manifest.labels.map(({ label }) => label)).toEqual(NAMES);
    expect(b.manifest.labels).toEqual(a.manifest.labels);
    expect(b.tensors.get("head.weight")).toEqual(a.tensors.get("head.weight"));
  });
});

test("scale and bias are the caller's, else the file's, else the checkpoint's", async () => {
  const { vectors } = familyCase("transformers: SigLIP").zeroShot!;
  const model = at("model-transformers-SigLIP");
  const { scale, bias } = readModelFolder(model).manifest.provenance.zeroShot!;
  const labels = JSON.stringify(NAMES);
  let count = 0;
  const made = async (metadata: Record<string, string>, options: { scale?: number; bias?: number } = {}) => {
    const [embeddings, out] = [
      writeRows(`scaled-${count}.safetensors`, vectors, { labels, ...metadata }),
      at(`s-${count++}`),
    ];
    const report = await makeClasses(model, { embeddings, out, ...options });
    const { tensors } = readModelFolder(out);
    const row = (tensors.get("head.weight")!.data as Float32Array).subarray(0, vectors[0].length);
    expect(Math.hypot(...row)).toBeCloseTo(report.scale, 4); // a row is a direction times the scale
    expect((tensors.get("head.bias")!.data as Float32Array)[0]).toBeCloseTo(report.bias, 5);
    return [report.scale, report.bias];
  };
  expect(await made({})).toEqual([scale, bias]);
  expect(await made({ scale: "5", bias: "-2" })).toEqual([5, -2]);
  expect(await made({ scale: "5", bias: "-2" }, { scale: 7, bias: -3 })).toEqual([7, -3]);
  expect(await made({ scale: "5" }, { bias: 0 })).toEqual([5, 0]);
});

test("what does not fit is one sentence", async () => {
  const model = at("model-transformers-CLIP");
  const attempt = (embeddings: string, options = {}) =>
    makeClasses(model, { embeddings, out: at("never"), ...options });
  const { vectors } = familyCase("transformers: CLIP").zeroShot!;
  await expect(attempt(writeRows("unnamed.safetensors", vectors))).rejects.toThrow(
    /has 3 rows and no names; give --labels FILE/,
  );
  await expect(
    attempt(
      writeRows("narrow.safetensors", [
        [1, 2],
        [3, 4],
      ]),
    ),
  ).rejects.toThrow(/"embeddings" has 2 numbers a class; the model's embeddings have 12/);
  await expect(attempt(writeNamed("zeros.safetensors", [Array(12).fill(0)]))).rejects.toThrow(
    /The vector of "a red mug" is all zeros/,
  );
  await expect(attempt(at("missing.safetensors"))).rejects.toThrow(/no such file/);
});
