/** Another image size: position embeddings, keep-lists and a teacher's pictures as timm and PyTorch resample them. */
import { beforeAll, describe, expect, test } from "vitest";
import type { Preprocess } from "../../../src/format/model.ts";
import { float32 } from "../../../src/format/read.ts";
import { forward } from "../../../src/reference/forward.ts";
import type { TF } from "../../../src/tfjs/ops.ts";
import { importModel } from "../../../tools/checkpoints/import.ts";
import { resampleKeepIdx, resizedManifest, resizeModel } from "../../../tools/checkpoints/resize.ts";
import { readModelFolder } from "../../../tools/models/folders.ts";
import { openBackend } from "../../../tools/training/backend.ts";
import { adapted } from "../../../tools/training/teacher.ts";
import { familyCase, familyPixels, writeFamilyCheckpoint } from "../../fixtures/family/numbers.ts";
import { positionNumbers } from "../../fixtures/oracle/numbers.ts";
import { expectClose, manifestOf, randomModel } from "../../helpers.ts";
import { workplace } from "../fixtures.ts";

const PATCH = 2;
const at = workplace("resample");
const { cases, pictures } = positionNumbers();
let tf: TF;
beforeAll(async () => {
  ({ tf } = await openBackend("tfjs-node"));
});

describe.each(cases)("a grid of $from made $to, $prefixTokens prefix tokens", (c) => {
  const { prefixTokens, from, to, dim } = c;
  const keepIdx = [...Array(prefixTokens + from[0] * from[1]).keys()];
  const blocks = [
    { headDims: [1], mlpHidden: 1, keepIdx },
    { headDims: [1], mlpHidden: 1, keepIdx: c.keepIdx },
  ];
  const imageSize: [number, number] = [PATCH * from[0], PATCH * from[1]];
  const arch = { imageSize, patchSize: PATCH, embedDim: dim, headDim: 1, layerNormEps: 1e-6, prefixTokens, blocks };
  const model = randomModel({ ...manifestOf(arch as never) }, 1);
  model.tensors.set("pos_embed", {
    dtype: "F32",
    shape: [1, keepIdx.length, dim],
    data: Float32Array.from(c.embedding),
  });
  const resized = resizeModel(model, [PATCH * to[0], PATCH * to[1]]);

  test("has timm's position embeddings", () => {
    expect(resized.tensors.get("pos_embed")!.shape).toEqual([1, prefixTokens + to[0] * to[1], dim]);
    expectClose(float32(resized.tensors, "pos_embed"), c.resampled, 2e-6);
  });

  test("keeps a patch where the one under its centre was kept, as PyTorch's nearest neighbour has it", () => {
    expect(resampleKeepIdx(c.keepIdx, from, to, prefixTokens)).toEqual(c.resampledKeepIdx);
    expect(resized.manifest.blocks[1].keepIdx).toEqual(c.resampledKeepIdx);
    expect(resized.manifest.blocks[0].keepIdx).toEqual([...Array(prefixTokens + to[0] * to[1]).keys()]);
  });

  test("leaves the model that it is made of as it was", () => {
    expectClose(float32(model.tensors, "pos_embed"), c.embedding, 1e-6);
    expect(model.manifest.blocks[1].keepIdx).toEqual(c.keepIdx);
  });
});

describe("positions inside attention", () => {
  const family = async (name: string, id: string) => {
    await importModel(writeFamilyCheckpoint(at(`source-${id}`), familyCase(name)), { out: at(id) });
    return readModelFolder(at(id));
  };

  test("rotary coordinates of DINOv3 at another size give timm's output", async () => {
    const { imageSize, output } = familyCase("timm: DINOv3").resized!;
    const resized = resizeModel(await family("timm: DINOv3", "rope"), imageSize);
    expectClose(forward(resized, familyPixels({ imageSize })).logits, output, 2e-5);
  });

  test("relative biases follow the grid, and those of the class token stay", async () => {
    const model = await family("timm: BEiT", "relative");
    const resized = resizeModel(model, [40, 48]);
    const [before, after] = [model, resized].map(({ tensors }) => float32(tensors, "blocks.0.attn.rel_bias"));
    expect(resized.tensors.get("blocks.0.attn.rel_bias")!.shape).toEqual([2, 9 * 11 + 3]);
    expect([...after.subarray(99, 102)]).toEqual([...before.subarray(49, 52)]);
    expect(after[4 * 11 + 5]).toBeCloseTo(before[3 * 7 + 3], 5); // no difference stays the middle
    const { features } = forward(resized, familyPixels({ imageSize: [40, 48] }));
    expect(features.every(Number.isFinite)).toBe(true);
  });
});

type Side = [number, number];
test.each<[Preprocess["resize"], Side, Side, Preprocess["resize"]]>([
  [250, [224, 224], [308, 308], 344], // 250 × 308 / 224 = 343.75
  [256, [224, 224], [112, 224], 224], // 128 of the shorter side, but the crop has to fit
  [
    [256, 320],
    [224, 280],
    [112, 140],
    [128, 160],
  ],
  [
    [240, 300],
    [224, 280],
    [280, 224],
    [300, 240],
  ],
])("pictures that were resized to %j for %j px are for %j px resized to %j", (resize, from, to, expected) => {
  const arch = { imageSize: from, patchSize: 28, embedDim: 4, headDim: 1, layerNormEps: 1e-6, prefixTokens: 1 };
  const plain = manifestOf({ ...arch, blocks: [] } as never);
  const manifest = { ...plain, preprocess: { ...plain.preprocess, resize, crop: from } };
  expect(resizedManifest(manifest, to).preprocess).toMatchObject({ resize: expected, crop: to });
});

describe("a network that merges", () => {
  const SIDE = 4;
  const keepIdx = [...Array(1 + SIDE ** 2).keys()];
  const blocks = [7, 3, 0].map((merge) => ({ headDims: [1], mlpHidden: 1, keepIdx, merge }));
  const imageSize: [number, number] = [SIDE * PATCH, SIDE * PATCH];
  const arch = { imageSize, patchSize: PATCH, embedDim: 4, headDim: 1, layerNormEps: 1e-6, prefixTokens: 1, blocks };
  const model = randomModel({ ...manifestOf(arch as never) }, 1);

  test.each([
    [2, [2, 1, 0]], // of 4 patches, then of 2
    [6, [16, 7, 0]],
    [1, [0, 0, 0]],
  ])("merges the same share of %i × %i patches", (side, merges) => {
    const { manifest } = resizeModel(model, [side * PATCH, side * PATCH]);
    expect(manifest.blocks.map(({ merge }) => merge)).toEqual(merges);
  });

  test("never merges more pairs than there are", () => {
    const half = { ...model.manifest, blocks: blocks.map((block, i) => ({ ...block, merge: i ? 0 : 8 })) };
    const { blocks: resized } = resizedManifest(half as typeof model.manifest, [PATCH, 3 * PATCH]);
    expect(resized.map(({ merge }) => merge)).toEqual([1, 0, 0]); // half of three patches would be 1.5
  });

  test("a size beyond the format's bounds is refused before anything is computed", () => {
    expect(() => resizeModel(model, [100_000, 100_000])).toThrow(
      /100000×100000 px is too large; expected at most 4096 px/,
    );
    expect(() => resizeModel(model, [4096, 4096])).toThrow(/has 4194304 patches of 2 px; expected at most 65520/);
  });
});

test.each(pictures)("a teacher sees a student's picture of $from at $to as PyTorch resizes and normalises it", (c) => {
  const how = (crop: [number, number], { mean, std }: typeof c.student): Preprocess => ({
    ...{ resize: crop, crop, interpolation: "bicubic", mean, std },
  });
  const seen = adapted(tf, tf.tensor4d(c.pixels, [1, 3, ...c.from]), how(c.from, c.student), how(c.to, c.teacher));
  expect(seen.shape).toEqual([1, 3, ...c.to]);
  expectClose(seen.dataSync(), c.seen, 1e-5);
});
