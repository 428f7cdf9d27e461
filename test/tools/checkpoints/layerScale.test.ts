/** A checkpoint of timm's with LayerScale: what import folds gives timm's logits. */
import { copyFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { forward } from "../../../src/reference/forward.ts";
import { importModel } from "../../../tools/checkpoints/import.ts";
import { readModelFolder } from "../../../tools/models/folders.ts";
import { layerScaleNumbers } from "../../fixtures/oracle/numbers.ts";
import { expectClose } from "../../helpers.ts";
import { workplace } from "../fixtures.ts";

const at = workplace("layer-scale");

test("an imported checkpoint with LayerScale gives timm's logits", async () => {
  const { imageSize, heads, logits } = layerScaleNumbers();
  copyFileSync(
    fileURLToPath(new URL("../../fixtures/oracle/layerscale.safetensors", import.meta.url)),
    at("ls.safetensors"),
  );
  await importModel(at("ls.safetensors"), { out: at("model"), heads, imageSize });
  const model = readModelFolder(at("model"));
  expect([...model.tensors.keys()].filter((name) => /ls\d|gamma/.test(name))).toEqual([]);
  const pixels = Float32Array.from({ length: 3 * imageSize[0] * imageSize[1] }, (_, k) => Math.sin(0.37 * k));
  expectClose(forward(model, pixels).logits, logits, 1e-4);
});
