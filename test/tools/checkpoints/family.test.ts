/** Every family that import takes gives PyTorch's output, on the reference and on simd. */
import { expect, test } from "vitest";
import { openSimd } from "../../../src/engines/simd/engine.ts";
import { forward } from "../../../src/reference/forward.ts";
import { importModel } from "../../../tools/checkpoints/import.ts";
import { readModelFolder } from "../../../tools/models/folders.ts";
import { familyCases, familyPixels, writeFamilyCheckpoint } from "../../fixtures/family/numbers.ts";
import { expectClose } from "../../helpers.ts";
import { workplace } from "../fixtures.ts";

const at = workplace("family");

test.each(familyCases.map((of, k) => ({ of, k, name: of.name })))("$name", async ({ of, k }) => {
  await importModel(writeFamilyCheckpoint(at(`source-${k}`), of), { out: at(`model-${k}`) });
  const model = readModelFolder(at(`model-${k}`));
  expect(model.manifest.imageSize).toEqual(of.imageSize);
  const pixels = familyPixels(of);
  const outputOf = ({ logits, features }: { logits: Float32Array; features: Float32Array }) =>
    model.manifest.head ? logits : features;
  expectClose(outputOf(forward(model, pixels)), of.output, 1e-5);
  const engine = await openSimd(model, { threads: 1 });
  expectClose(outputOf(await engine.run(pixels)), of.output, 1e-4);
  engine.dispose();
});

const resizable = familyCases.filter(({ resized }) => resized);

test.each(resizable.map((of) => ({ of, name: of.name })))(
  "$name at another --image-size, as timm resamples it",
  async ({ of }) => {
    const { imageSize, output } = of.resized!;
    const id = of.name.replace(/\W+/g, "-");
    await importModel(writeFamilyCheckpoint(at(`resized-${id}`), of), { out: at(`resized-model-${id}`), imageSize });
    const model = readModelFolder(at(`resized-model-${id}`));
    expect(model.manifest.imageSize).toEqual(imageSize);
    expectClose(forward(model, familyPixels({ imageSize })).logits, output, 2e-5);
  },
);
