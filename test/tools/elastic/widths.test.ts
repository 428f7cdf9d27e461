/** The order in which the variants of a folder lose head channels and MLP units. */
import { beforeAll, describe, expect, test } from "vitest";
import { type Architecture, innerDim, type Model, plainArchitecture, type Tensors } from "../../../src/format/model.ts";
import { growthOf, nest, take } from "../../../src/format/nesting.ts";
import { float32 } from "../../../src/format/read.ts";
import { forward } from "../../../src/reference/forward.ts";
import { evalPixels, openDataset, type Picture } from "../../../tools/data/data.ts";
import { candidatesOf } from "../../../tools/elastic/candidates.ts";
import { elastic } from "../../../tools/elastic/elastic.ts";
import {
  type BlockStatistics,
  keptWidths,
  ordered,
  statisticsOfPictures,
  statisticsOfWeights,
} from "../../../tools/elastic/widths.ts";
import { readManifestFile, readModelFolder, writeModelFolder } from "../../../tools/models/folders.ts";
import { openBackend } from "../../../tools/training/backend.ts";
import { RECIPE_DEFAULTS } from "../../../tools/training/recipe.ts";
import { CLASSES, expectClose, manifestOf, randomPixels, randomValues } from "../../helpers.ts";
import { randomTensors, workplace, writePictures } from "../fixtures.ts";

const at = workplace("widths");
let pictures: Picture[];
beforeAll(async () => {
  await writePictures(at("pictures"), 4);
  ({ pictures } = await openDataset([at("pictures")], "train"));
});

const DIM = 32;
const HEADS = 2;
const HEAD = 16;
const INNER = HEADS * HEAD;
const HIDDEN = 48;

function modelOf(more: Partial<Parameters<typeof plainArchitecture>[0]> = {}, seed = 1): Model {
  const keepIdx = Array.from({ length: 17 }, (_, token) => token);
  const block = { headDims: [HEAD, HEAD], mlpHidden: HIDDEN, keepIdx, merge: 0 };
  const manifest = manifestOf(
    plainArchitecture({
      ...{ imageSize: [32, 32], patchSize: 8, embedDim: DIM, headDim: HEAD, layerNormEps: 1e-6, prefixTokens: 1 },
      blocks: [block, block, block],
      ...more,
    }),
  );
  return { manifest, dtype: "f32", tensors: randomTensors(manifest, CLASSES, seed) };
}

const statisticsBy = async (of: "weights" | "pictures", model: Model): Promise<BlockStatistics[]> => {
  if (of === "weights") return statisticsOfWeights(model);
  const { tf } = await openBackend();
  return statisticsOfPictures(tf, model.manifest, model.tensors, pictures, model.manifest.preprocess);
};

const SIZES: [number, number] = [32, 32];

describe("in the order in which channels and units stay, a network computes the same", () => {
  test.each<[string, Parameters<typeof modelOf>[0]]>([
    ["plain", {}],
    ["normalised queries and keys", { qkNorm: true }],
    ["RoPE", { position: "rope", rope: { rows: [-0.5, 0.3], columns: [0.2, 0.4] } }],
    ["relative positions", { position: "relative" }],
    ["SwiGLU with a norm inside", { mlp: "swiglu", hiddenNorm: HIDDEN, activation: "silu" }],
    ["RoPE and normalised", { qkNorm: true, position: "rope", rope: { rows: [0, 1], columns: [0, 1] } }],
  ])("%s", async (_, more) => {
    const model = modelOf(more);
    const pixels = randomPixels(model.manifest, 2);
    const { logits } = forward(model, pixels);
    for (const of of ["weights", "pictures"] as const) {
      const { tensors, statistics } = ordered(model, await statisticsBy(of, model));
      expectClose(forward({ ...model, tensors }, pixels).logits, logits, 1e-4, of);
      for (const key of ["blocks.1.attn.qkv.weight", "blocks.1.attn.proj.weight", "blocks.1.mlp.fc1.weight"])
        expect(float32(tensors, key), key).not.toEqual(float32(model.tensors, key));
      for (const { units, values } of statistics) {
        expect([...units.importance]).toEqual([...units.importance].sort((a, b) => b - a));
        const second = values!.importance.slice(HEAD);
        expect([...second]).toEqual([...second].sort((a, b) => b - a));
      }
    }
  });
});

/** Of each head, every second value channel that says the same for all pictures, and other channels whose keys never vary. */
function withIdle(model: Model): Model {
  const tensors: Tensors = new Map([...model.tensors].map(([key, t]) => [key, { ...t, data: t.data.slice() }]));
  model.manifest.blocks.forEach((_, i) => {
    const weight = float32(tensors, `blocks.${i}.attn.qkv.weight`);
    const zeroRow = (row: number) => void weight.fill(0, row * DIM, (row + 1) * DIM);
    for (let c = 0; c < INNER; c++) {
      if (c % 2) zeroRow(2 * INNER + c);
      if (c % HEAD < HEAD / 2) zeroRow(INNER + c);
    }
    const fc1 = float32(tensors, `blocks.${i}.mlp.fc1.weight`);
    for (let unit = 0; unit < HIDDEN; unit += 2) fc1.fill(0, unit * DIM, (unit + 1) * DIM);
  });
  return { ...model, tensors };
}

test("channels and units that only ever say the same leave first, and what they said goes into the biases", async () => {
  const model = withIdle(modelOf());
  const { tensors, statistics } = ordered(model, await statisticsBy("pictures", model));
  const shares = { channels: 0.5, units: 0.5 };
  const [{ model: half }] = candidatesOf({ ...model, tensors }, statistics, { imageSize: SIZES, widths: shares }, 1e12);
  for (const { headDims, mlpHidden } of half.manifest.blocks) {
    expect(headDims).toEqual([HEAD / 2, HEAD / 2]);
    expect(mlpHidden).toBe(HIDDEN / 2);
  }
  const pixels = randomValues(3 * 32 * 32, 3); // unlike the pictures
  expectClose(forward(half, pixels).logits, forward(model, pixels).logits, 1e-4);
});

test("elastic cuts heads where that costs least, and the variant is read from the prefix of the file", async () => {
  const model = withIdle(modelOf());
  const rng = randomValues(10_000, 4);
  let next = 0;
  // What is idle varies a little after all, in the last block least.
  for (const [i, noise] of [1e-2, 1e-3, 1e-4].entries())
    for (const name of ["attn.qkv", "mlp.fc1"]) {
      const weight = float32(model.tensors, `blocks.${i}.${name}.weight`);
      weight.forEach((value, k) => void (weight[k] = value || noise * rng[next++ % rng.length]));
    }
  const { weights: _, variants: __, variant: ___, ...draft } = model.manifest;
  writeModelFolder(at("idle"), draft, model.tensors, ["f32"]);
  const options = {
    budgets: [1, 0.75],
    sizes: [32],
    dtype: ["f32" as const],
    data: [at("pictures")],
    unlabelled: true,
  };
  const { variants } = await elastic(at("idle"), { ...options, out: at("nested") });
  expect(variants[1].channels).toBeLessThan(1);
  expect(variants[1].units).toBeLessThan(1);
  const nested = readModelFolder(`${at("nested")}#${variants[1].name}`, "f32");
  const channels = nested.manifest.blocks.reduce((sum, block) => sum + innerDim(block), 0);
  expect(variants[1].channels).toBe(channels / (3 * INNER));
  expect(nested.manifest.blocks[2].headDims).toEqual([8, 8]);
  const pixels = await evalPixels(pictures[0], model.manifest.preprocess);
  expectClose(forward(nested, pixels).logits, forward(model, pixels).logits, 0.02);
});

test("variants of other head widths train on the same weights, each with its own bias after them", async () => {
  const out = at("together");
  const training = {
    ...{ ...RECIPE_DEFAULTS, epochs: 1, batch: 3, lr: 0.01, warmup: 0, precision: "f32" as const, valPictures: 0 },
    ...{ data: [at("pictures")], split: "train" as const, unlabelled: true, out },
  };
  await elastic(at("nested"), { out, dtype: ["f32"], data: training.data, unlabelled: true, training });
  const [large, small] = readManifestFile(out).variants.map(({ name }) => readModelFolder(`${out}#${name}`, "f32"));
  const before = readModelFolder(at("nested"), "f32");
  for (const part of ["qkv.weight", "qkv.bias", "proj.weight"]) {
    const key = `blocks.2.attn.${part}`;
    const [from, to] = [large, small].map(({ manifest }) => growthOf(manifest, key)!);
    const { axis, kept, added } = nest(to, from)!;
    expect(added.length).toBeGreaterThan(0);
    expect(small.tensors.get(key)!.data).toEqual(take(large.tensors.get(key)!, axis, kept).data);
    expect(float32(large.tensors, key)).not.toEqual(float32(before.tensors, key));
  }
  const bias = "blocks.2.attn.proj.bias";
  expect(float32(small.tensors, bias)).not.toEqual(float32(large.tensors, bias));
});

test("a query's mean counts: keys that vary matter where queries hardly do", async () => {
  const model = modelOf();
  const [weight, bias] = ["weight", "bias"].map((part) => float32(model.tensors, `blocks.0.attn.qkv.${part}`));
  const [still, lively] = [3, 5]; // channels of the first head
  weight.fill(0, still * DIM, (still + 1) * DIM);
  bias[still] = 4;
  weight.set(weight.subarray((INNER + still) * DIM, (INNER + still + 1) * DIM), (INNER + lively) * DIM);
  weight.fill(0.01, lively * DIM, (lively + 1) * DIM);
  bias[lively] = 0;
  const [{ keys }] = await statisticsBy("pictures", model);
  expect(keys![still]).toBeGreaterThan(10 * keys![lively]);
});

test("parts in the scores sum to one for each head, and RoPE's pairs have one part", async () => {
  const model = modelOf({ position: "rope", rope: { rows: [-0.5, 0.3], columns: [0.2, 0.4] } });
  for (const of of ["weights", "pictures"] as const)
    for (const { keys } of await statisticsBy(of, model)) {
      for (let first = 0; first < INNER; first += HEAD)
        expect(keys!.slice(first, first + HEAD).reduce((a, b) => a + b, 0)).toBeCloseTo(1, 9);
      for (let c = 0; c < INNER; c += 2) expect(keys![c]).toBe(keys![c + 1]);
    }
});

describe("kept widths", () => {
  const model = modelOf();
  const { statistics } = ordered(model, statisticsOfWeights(model));
  const kept = (channels: number, units: number) => keptWidths(model.manifest, statistics, { channels, units });

  test("grow with the shares everywhere, in whole panels", () => {
    let before = kept(0.05, 0.05);
    for (let share = 0.1; share < 1; share += 0.05) {
      const now = kept(share, share);
      now.forEach(({ headDims, mlpHidden }, i) => {
        expect(mlpHidden).toBeGreaterThanOrEqual(before[i].mlpHidden);
        headDims.forEach((width, h) => void expect(width).toBeGreaterThanOrEqual(before[i].headDims[h]));
        for (const width of [mlpHidden, ...headDims]) expect(width % 8).toBe(0);
      });
      before = now;
    }
    expect(kept(1, 1)).toEqual(model.manifest.blocks.map(({ headDims, mlpHidden }) => ({ headDims, mlpHidden })));
  });

  test("follow each share by itself", () => {
    for (const { headDims, mlpHidden } of kept(0.05, 1)) {
      expect(headDims).toEqual([8, 8]);
      expect(mlpHidden).toBe(HIDDEN);
    }
    for (const { headDims, mlpHidden } of kept(1, 0.05)) {
      expect(headDims).toEqual([HEAD, HEAD]);
      expect(mlpHidden).toBe(8);
    }
  });

  test("of heads that are cut already stay as they are", async () => {
    const keepIdx = Array.from({ length: 17 }, (_, token) => token);
    const blocks = [[9, 16], [], [3]].map((headDims) => ({ headDims, mlpHidden: HIDDEN, keepIdx, merge: 0 }));
    const ragged = modelOf({ blocks });
    for (const of of ["weights", "pictures"] as const) {
      const { tensors, statistics: own } = ordered(ragged, await statisticsBy(of, ragged));
      const widths = keptWidths(ragged.manifest as Architecture, own, { channels: 0.5, units: 0.5 });
      expect(widths.map(({ headDims }) => headDims)).toEqual([[9, 16], [], [3]]);
      const pixels = randomPixels(ragged.manifest, 2);
      expectClose(forward({ ...ragged, tensors }, pixels).logits, forward(ragged, pixels).logits, 1e-4);
    }
    expect(innerDim(ragged.manifest.blocks[0])).toBe(25);
  });
});
