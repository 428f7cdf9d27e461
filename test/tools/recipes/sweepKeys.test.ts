/** What a sweep's point is kept under: a change of anything that its result depends on makes it again, nothing else does. */
import { cpSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { beforeAll, expect, test } from "vitest";
import { stringify } from "yaml";
import { readModelFolder, writeModelFolder } from "../../../tools/models/folders.ts";
import { keyOf } from "../../../tools/recipes/sweep.ts";
import { readSweep } from "../../../tools/recipes/sweepFile.ts";
import { CLASSES, makeDense, workplace, writePictures } from "../fixtures.ts";

const at = workplace("sweep-keys");

beforeAll(async () => {
  await makeDense(at, 5);
  cpSync(at("dense"), at("teacher"), { recursive: true });
  cpSync(at("dense"), at("moved", "elsewhere"), { recursive: true });
  const { manifest, tensors } = readModelFolder(at("dense"));
  const other = new Map(tensors);
  const { shape, data } = tensors.get("head.bias")!;
  other.set("head.bias", { dtype: "F32", shape, data: (data as Float32Array).map((v) => v + 1) });
  const { format: _, weights: __, ...draft } = manifest;
  writeModelFolder(at("other"), draft, other, ["f32"]);
  const blocks = draft.blocks.map((block, i) => ({ ...block, merge: i === 1 ? 2 : 0 }));
  writeModelFolder(at("merged"), { ...draft, blocks }, tensors, ["f32"]);
  await writePictures(at("more"), 6);
  for (const name of ["copied", "changed"]) cpSync(at("pictures"), at(name), { recursive: true });
  const [first, second] = readdirSync(at("changed", CLASSES[0])).map((name) => at("changed", CLASSES[0], name));
  writeFileSync(first, readFileSync(second));
});

const base = {
  ...{ model: "dense", teacher: "teacher", data: "pictures", out: "swept", batch: 3, epochs: 1 },
  ...{ retrain: { epochs: 1 }, export: { dtype: ["f32"] }, eval: { engine: "reference" } },
  sweep: { budgets: [0.7], seeds: [3] },
};

async function keys(changes: object = {}): Promise<string[]> {
  writeFileSync(at("sweep.yaml"), stringify({ ...base, ...changes }));
  return Promise.all(readSweep(at("sweep.yaml"), {}).points.map(({ recipe }) => keyOf(recipe)));
}

test.each<[string, object]>([
  ["the model's weights", { model: "other" }],
  ["the model's merges, with the same weights", { model: "merged" }],
  ["the teacher's weights", { teacher: "other" }],
  ["the teacher's merges", { teacher: "merged" }],
  ["no teacher", { teacher: "none" }],
  ["the pictures", { data: "more" }],
  ["one of the pictures", { data: "changed" }],
  ["a second source of pictures", { data: ["pictures", "more"] }],
  ["the budget", { sweep: { budgets: [0.6], seeds: [3] } }],
  ["the kind of budget", { sweep: { budgets: [{ params: 0.7 }], seeds: [3] } }],
  ["the seed", { sweep: { budgets: [0.7], seeds: [4] } }],
  ["a loss weight", { sweep: { budgets: [0.7], seeds: [3], weights: { "w-attn": [0.5] } } }],
  ["an option of all trainings", { batch: 4 }],
  ["an option of one stage", { retrain: { epochs: 2 } }],
  ["how it is measured", { eval: { engine: "simd" } }],
  ["what is exported", { export: { dtype: ["f32", "f16"] } }],
])("%s is part of a point's key", async (_, changes) => {
  const [[before], [after]] = [await keys(), await keys(changes)];
  expect(after).not.toBe(before);
});

test.each<[string, object]>([
  ["the model lies", { model: "moved/elsewhere" }],
  ["the same pictures lie", { data: "copied" }],
  ["the results go", { out: "somewhere-else" }],
])("where %s is not", async (_, changes) => {
  expect(await keys(changes)).toEqual(await keys());
});
