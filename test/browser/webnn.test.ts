/** The engine on WebNN, held against the reference in a Chromium that has it. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { RunOutput } from "../../src/engines/engine.ts";
import { forward } from "../../src/reference/forward.ts";
import { architectureOf, readManifestFile, readModelFolder } from "../../tools/models/folders.ts";
import { FAMILY, familyModel } from "../family.ts";
import { cut, expectClose, randomModel, randomPixels, readGolden, slimArchitecture } from "../helpers.ts";
import type { Stage } from "./page.ts";
import { openWebnnStage, runEngine, writeModel } from "./webnnStage.ts";

const golden = readGolden();
const random = fc.sample(slimArchitecture(), { numRuns: 25, seed: 27 }).map((arch, seed) => randomModel(arch, seed));

/** All that is shipped, on one picture, and what the reference makes of it, which takes seconds. */
const shipped = (JSON.parse(readFileSync("models/index.json", "utf8")) as { folder: string }[]).map(({ folder }) => {
  const path = join("models", folder);
  const dtypes = readManifestFile(path).weights.map(({ dtype }) => dtype);
  return { name: folder, path, dtype: dtypes.find((dtype) => dtype !== "int8") };
});

let stage: Stage;
beforeAll(async () => {
  stage = await openWebnnStage();
});
afterAll(() => stage?.close());

/** Largest difference of an element, and whether it is what the arithmetic allows. */
const TOLERANCE = { f32: 1e-4, f16: 2e-2 };

describe.each(["f32", "f16"] as const)("webnn with %s weights", (dtype) => {
  test("gives PyTorch's logits for the golden network after every cut", async () => {
    for (const [k, { name, cuts, logits }] of golden.cases.entries()) {
      const folder = writeModel(stage, `golden${k}-${dtype}`, cut(golden.model, cuts), [dtype]);
      const outputs = await runEngine(stage, { folder, dtype, images: golden.images });
      outputs.forEach((output, i) => void expectClose(output.logits, logits[i], TOLERANCE[dtype], name));
    }
  });

  test("gives the reference's logits and features for random ragged networks", async () => {
    for (const [k, model] of random.entries()) {
      const folder = writeModel(stage, `random${k}-${dtype}`, model, [dtype]);
      const pixels = randomPixels(model.manifest, k);
      const expected = forward(readModelFolder(join(stage.models, `random${k}-${dtype}`), dtype), pixels);
      const [{ logits, features }] = await runEngine(stage, { folder, dtype, images: [pixels] });
      const what = JSON.stringify(model.manifest.blocks);
      expectClose(logits, expected.logits, TOLERANCE[dtype], what);
      expectClose(features, expected.features, TOLERANCE[dtype], what);
    }
  });
});

describe.each(Object.entries(FAMILY))("%s", (name, arch) => {
  test("gives the reference's logits and features, attention and merged pairs", async () => {
    const model = randomModel(arch, 3);
    const folder = writeModel(stage, `family ${name}`.replaceAll(/\W+/g, "-"), model, ["f32"]);
    const images = [1, 2].map((seed) => randomPixels(arch, seed));
    const outputs = await runEngine(stage, { folder, dtype: "f32", images, explain: true });
    const plain = await runEngine(stage, { folder, dtype: "f32", images });
    for (const [i, pixels] of images.entries()) expectSame(outputs[i], forward(model, pixels, { explain: true }));
    for (const [i, { logits, features }] of plain.entries()) {
      expectClose(logits, outputs[i].logits, 1e-5);
      expectClose(features, outputs[i].features, 1e-5);
    }
  });
});

test("gives the reference's outputs for random networks of the whole family", async () => {
  for (const [k, model] of fc.sample(familyModel(), { numRuns: 60, seed: 27 }).entries()) {
    const folder = writeModel(stage, `drawn${k}`, model, ["f32"]);
    const pixels = randomPixels(model.manifest, k);
    const [output] = await runEngine(stage, { folder, dtype: "f32", images: [pixels], explain: true });
    // Equally alike pairs may merge in another order: then the reference merges what the engine did.
    const expected = forward(model, pixels, { explain: true, forcedPairs: output.pairs });
    try {
      expectSame(output, expected);
    } catch (error) {
      throw new Error(`network ${k}: ${(error as Error).message}\n${JSON.stringify(architectureOf(model.manifest))}`);
    }
  }
});

function expectSame(output: RunOutput, expected: RunOutput): void {
  expectClose(output.logits, expected.logits, 1e-4, "logits");
  expectClose(output.features, expected.features, 1e-4, "features");
  for (const [i, map] of expected.attention!.entries()) expectClose(output.attention![i], map, 1e-5, `attention ${i}`);
  expect(output.pairs).toEqual(expected.pairs);
  expected.groups?.forEach((group, i) => void expectClose(output.groups![i], group, 0, `groups ${i}`));
}

test.each(shipped.filter(({ dtype }) => dtype))(
  "gives the reference's logits for the shipped $name",
  async ({ name, path, dtype }) => {
    const model = readModelFolder(path, dtype!);
    const pixels = randomPixels(model.manifest, 1);
    const [{ logits }] = await runEngine(stage, { folder: `/shipped/${name}/`, dtype: dtype!, images: [pixels] });
    expectClose(logits, forward(model, pixels).logits, dtype === "f16" ? TOLERANCE.f16 : TOLERANCE.f32);
  },
);

test("a device type of each kind is asked for, and info says which", async () => {
  for (const deviceType of ["cpu", "gpu", "npu"]) {
    const info = await stage.page.evaluate(async (deviceType) => {
      const vit = await load({ engine: "webnn", webnn: { deviceType } });
      vit.dispose();
      return vit.info;
    }, deviceType);
    expect(info).toMatchObject({ engine: "webnn", deviceType });
  }
});
