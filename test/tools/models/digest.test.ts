/** Models that share their weights are not the same model: not for a checkpoint, nor for the stages of a recipe. */
import { expect, test } from "vitest";
import { withVariant } from "../../../src/format/variants.ts";
import { modelDigest, readManifestFile } from "../../../tools/models/folders.ts";
import { identity } from "../../../tools/recipes/runRecipe.ts";
import { checkpointOf, type TrainOptions } from "../../../tools/training/options.ts";
import { NAMES, writeElastic } from "../../elasticFolder.ts";
import { workplace } from "../fixtures.ts";

const at = workplace("digest");

test("each variant of a folder is another model, whatever the folder is called and however well it was measured", async () => {
  await writeElastic(at("elastic"));
  const manifest = readManifestFile(at("elastic"));
  const digests = NAMES.map((name) => modelDigest(withVariant(manifest, name)));
  expect(new Set(digests).size).toBe(NAMES.length);
  expect(modelDigest({ ...manifest, name: "other", metrics: { accuracy: [] } })).toBe(modelDigest(manifest));
  const [first, ...rest] = manifest.labels;
  expect(modelDigest({ ...manifest, labels: [...rest, first] })).not.toBe(modelDigest(manifest));
  const preprocess = { ...manifest.preprocess, mean: [0.4, 0.5, 0.5] as [number, number, number] };
  expect(modelDigest({ ...manifest, preprocess })).not.toBe(modelDigest(manifest));
});

test("a checkpoint and a stage belong to one variant, as model and as teacher", async () => {
  await writeElastic(at("taught"));
  const sources = NAMES.map((name) => `${at("taught")}#${name}`);
  const options = { out: at("out"), data: [] as string[] } as TrainOptions;
  const plans = await Promise.all(sources.map((one) => checkpointOf("retrain", readManifestFile(one), options)));
  expect(new Set(plans.map((plan) => plan.identity.model)).size).toBe(NAMES.length);
  const manifest = readManifestFile(at("taught"));
  const taught = await Promise.all(
    sources.map((teacher) => checkpointOf("retrain", manifest, { ...options, teacher })),
  );
  expect(new Set(taught.map((plan) => plan.identity.teacher)).size).toBe(NAMES.length);
  const stages = await Promise.all(sources.map((teacher) => identity({ teacher })));
  expect(new Set(stages.map((stage) => JSON.stringify(stage))).size).toBe(NAMES.length);
});
