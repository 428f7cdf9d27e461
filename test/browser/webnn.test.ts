/** The engine on WebNN, held against the reference in a Chromium that has it. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { forward } from "../../src/reference/forward.ts";
import { readManifestFile, readModelFolder } from "../../tools/models/folders.ts";
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
