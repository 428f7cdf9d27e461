/** slimvit teach: a head for the data's classes, and what is written of it. */
import { existsSync, readFileSync } from "node:fs";
import { beforeAll, expect, test } from "vitest";
import { SlimViT } from "../../src/index.ts";
import { readManifestFile, readModelFolder } from "../../tools/models/folders.ts";
import type { TeachReport } from "../../tools/teach/teachModel.ts";
import { CLASSES, expectFailure, makeDense, slimvit, slimvitJson, workplace } from "./fixtures.ts";

const at = workplace("teach");
const teach = (...more: string[]) => ["teach", at("small"), "--data", at("pictures"), ...more];

let report: TeachReport;
beforeAll(async () => {
  await makeDense(at, 15);
  await slimvitJson("export", at("dense"), "-o", at("small"), "--dtype", "f16,int8");
  report = await slimvitJson("teach", at("small"), "--data", at("pictures"), "-o", at("taught"), "--embeddings");
});

test("learns the training pictures' classes, and measures on the validation pictures in every dtype of the source", () => {
  expect(report).toMatchObject({ classes: CLASSES, taught: { pictures: [9, 9, 9], n: 27, folds: 5 } });
  expect(report.taught.accuracy).toBeGreaterThan(0.7); // the pictures' hues are their classes
  expect(report.val).toEqual([
    { dtype: "f16", top1: expect.any(Number), top5: 1, n: 9 },
    { dtype: "int8", top1: expect.any(Number), top5: 1, n: 9 },
  ]);
  for (const { top1 } of report.val!) expect(top1).toBeGreaterThan(0.7);
});

test("the folder has the head in floats, the figures, the command, and a card", () => {
  const manifest = readManifestFile(at("taught"));
  expect(manifest.weights.map(({ dtype }) => dtype)).toEqual(["f16", "int8"]);
  expect(readModelFolder(at("taught"), "int8").tensors.get("head.weight")!.dtype).toBe("F32");
  expect(manifest.labels.map(({ id }) => id)).toEqual(CLASSES);
  expect(manifest.provenance.taught).toMatchObject({ n: 27, accuracy: report.taught.accuracy });
  expect((manifest.provenance.steps as object[]).at(-1)).toMatchObject({
    command: "teach",
    split: "train",
    pictures: 27,
  });
  expect(manifest.metrics).toMatchObject({ accuracy: [{ split: "val", n: 9 }, { split: "val", n: 9 }] }); // biome-ignore format: one line
  expect(readFileSync(at("taught", "card.md"), "utf8")).toMatch(/slimvit teach/);
});

test("the runtime reads it, knows what it was taught, says what is unknown, and can be taught more", async () => {
  const vit = await SlimViT.load(at("taught"), { engine: "reference", dtype: "f16" });
  const picture = (rgb: number[]) => {
    const data = new Uint8Array(36 * 36 * 4).map((_, i) => rgb[i % 4] ?? 255);
    return { data, width: 36, height: 36 };
  };
  expect(vit.info.taught).toMatchObject({ pictures: [9, 9, 9], accuracy: report.taught.accuracy });
  const { classes, unknown } = await vit.classify(picture([200, 30, 40]));
  expect([classes[0].label, typeof unknown]).toEqual(["cherries", "boolean"]);
  await vit.teach({ limes: [picture([90, 200, 60]), picture([100, 210, 70])] });
  expect(vit.info.labels.map(({ label }) => label)).toEqual([...CLASSES, "limes"]);
  expect(vit.info.taught!.pictures).toEqual([9, 9, 9, 2]);
  vit.dispose();
});

test("what trains or cuts the model drops the rule for unknown pictures, which holds for its features alone", async () => {
  await slimvitJson("export", at("taught"), "-o", at("again"), "--dtype", "f16");
  const { head, provenance } = readManifestFile(at("again"));
  expect(head).toEqual({ scores: "softmax" });
  expect(provenance.taught).toBeUndefined();
});

test("without --embeddings there is no such file; all pictures leave none to validate with", async () => {
  const { stdout, stderr, status } = await slimvit(...teach("-o", at("all"), "--split", "all", "--name", "fruit"));
  expect([status, stderr]).toEqual([0, expect.stringMatching(/cross-validated in 5 folds/)]);
  expect(stdout).toMatch(/^cross-validated top-1 \d+\.\d\d % {2}n 45\n$/);
  expect(existsSync(at("all", "taught.safetensors"))).toBe(false);
  expect(readManifestFile(at("all")).name).toBe("fruit");
});

test("bad calls fail in one sentence, before anything is written", async () => {
  await expectFailure(teach("-o", at("taught")), 2, /exists already/);
  await expectFailure(teach("-o", at("new"), "--false-rejection", "2"), 2, /expected a number from 0 to 1/);
  await expectFailure(
    ["teach", at("small"), "--data", at("pictures", "plums"), "-o", at("new")],
    1,
    /no pictures in class/,
  );
  expect(existsSync(at("new"))).toBe(false);
});
