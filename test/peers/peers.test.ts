/** What bench:peers makes of our weights for onnxruntime, held against the reference: the other forms need packages of theirs. */
import { InferenceSession, Tensor } from "onnxruntime-web";
import { expect, test } from "vitest";
import { cutModel, uniformBlocks } from "../../peers/cut.ts";
import { writeInt8Onnx, writeMaskedOnnx } from "../../peers/onnx-forms.ts";
import { type BlockShape, countMacs, type Model } from "../../src/format/model.ts";
import { encodeTensors } from "../../src/format/write.ts";
import { forward } from "../../src/reference/forward.ts";
import { expectClose, randomModel, randomPixels } from "../helpers.ts";

const range = (count: number) => [...Array(count).keys()];
const block = { headDims: [8, 8], mlpHidden: 40, keepIdx: range(13) };
const dense = randomModel(
  {
    imageSize: [16, 12],
    patchSize: 4,
    embedDim: 16,
    headDim: 8,
    layerNormEps: 1e-6,
    prefixTokens: 1,
    blocks: [block, block],
  },
  5,
);
const pixels = randomPixels(dense.manifest, 6);
const slim: BlockShape[] = [
  { headDims: [3, 8], mlpHidden: 17, keepIdx: range(13), merge: 0 },
  { headDims: [5, 1], mlpHidden: 40, keepIdx: range(13), merge: 0 },
];

async function run(onnx: Uint8Array): Promise<Float32Array> {
  const session = await InferenceSession.create(onnx, { logSeverityLevel: 3 });
  const { logits } = await session.run({ pixel_values: new Tensor("float32", pixels, [1, 3, 16, 12]) });
  await session.release();
  return logits.data as Float32Array;
}

test("masking channels and units by zero equals cutting them", async () => {
  expectClose(await run(writeMaskedOnnx(dense, slim)), forward(cutModel(dense, slim), pixels).logits, 1e-4);
});

test("the cut model is another network than the dense one", () => {
  const difference = forward(cutModel(dense, slim), pixels).logits.map((v, i) => v - forward(dense, pixels).logits[i]);
  expect(Math.max(...difference.map(Math.abs))).toBeGreaterThan(0.01);
});

test.each(["MatMulInteger", "DynamicQuantizeMatMul"] as const)(
  "int8 as %s is near the same weights in f32",
  async (form) => {
    const int8: Model = { ...dense, dtype: "int8", tensors: encodeTensors(dense.tensors, "int8") };
    const { logits } = forward(int8, pixels);
    expectClose(await run(writeInt8Onnx(int8, form)), logits, 0.1);
  },
);

test("the uniform cut is the largest that meets the MACs", () => {
  const half = countMacs(dense.manifest, 5) / 2;
  const blocks = uniformBlocks(dense, half);
  expect(new Set(blocks.map((b) => JSON.stringify([b.headDims, b.mlpHidden]))).size).toBe(1);
  const macs = countMacs({ ...dense.manifest, blocks }, 5);
  expect(macs).toBeLessThanOrEqual(half);
  expect(macs).toBeGreaterThan(0.9 * half);
});
