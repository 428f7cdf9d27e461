/** Our WebGPU engine, in Node on SwiftShader: each kernel against the reference's operation, then whole networks. */
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { adapterName, isSoftwareAdapter } from "../../src/engines/adapter.ts";
import type { RunOutput } from "../../src/engines/engine.ts";
import { attentionShader, attentionUniform, explainShader, headTable } from "../../src/engines/webgpu/attention.ts";
import { SUPPORTED } from "../../src/engines/webgpu/plan.ts";
import {
  type ProductKind,
  productShader,
  productUniform,
  qkvLayout,
  type Tile,
} from "../../src/engines/webgpu/product.ts";
import { align4 } from "../../src/engines/webgpu/shader.ts";
import { chooseTile } from "../../src/engines/webgpu/tiles.ts";
import { packLinear } from "../../src/engines/webgpu/weights.ts";
import { unsupportedFeature } from "../../src/format/features.ts";
import {
  type Architecture,
  type BlockShape,
  type Model,
  plainArchitecture,
  type Tensors,
  type WeightsDtype,
} from "../../src/format/model.ts";
import { float32 } from "../../src/format/read.ts";
import { encodeTensors } from "../../src/format/write.ts";
import { forward } from "../../src/reference/forward.ts";
import { attention, gelu, layerNorm, linear } from "../../src/reference/ops.ts";
import { FAMILY, familyArchitecture } from "../family.ts";
import { cut, expectClose, randomModel, randomPixels, randomValues, readGolden, slimArchitecture } from "../helpers.ts";
import { GpuProcess } from "./gpuProcess.ts";

let gpu: GpuProcess;
beforeAll(async () => {
  gpu = await GpuProcess.start();
});
afterAll(() => gpu?.end());

const golden = readGolden();
const range = (count: number) => [...Array(count).keys()];

const encode = (model: Model, dtype: WeightsDtype): Model => ({
  ...model,
  dtype,
  tensors: encodeTensors(model.tensors, dtype),
});

/** [rows, dim] → rows that begin at whole vec4s; what is between them is never read as a number. */
function strided(values: Float32Array, rows: number): Float32Array {
  const dim = values.length / rows;
  const out = new Float32Array(rows * align4(dim));
  for (let r = 0; r < rows; r++) out.set(values.subarray(r * dim, (r + 1) * dim), r * align4(dim));
  return out;
}

function compact(values: Float32Array, rows: number, dim: number): Float32Array {
  const out = new Float32Array(rows * dim);
  for (let r = 0; r < rows; r++) out.set(values.subarray(r * align4(dim), r * align4(dim) + dim), r * dim);
  return out;
}

/** Mean and sum of squared distances of each row's groups of columns. */
function statistics(x: Float32Array, rows: number, groupSize: number): Float32Array {
  const dim = x.length / rows;
  const out: number[] = [];
  for (let r = 0; r < rows; r++) {
    for (let from = 0; from < dim; from += groupSize) {
      const group = x.subarray(r * dim + from, r * dim + Math.min(dim, from + groupSize));
      const mean = group.reduce((a, b) => a + b, 0) / group.length;
      out.push(
        mean,
        group.reduce((sum, v) => sum + (v - mean) ** 2, 0),
      );
    }
  }
  return Float32Array.from(out);
}

const tileArbitrary: fc.Arbitrary<Tile> = fc.oneof(
  // Those that are in use, and others of the same form.
  fc.constantFrom(1, 9, 500, 5000).map((rows) => chooseTile(rows, 64, 64, { packed: true, isSoftware: false })),
  fc.constantFrom(1, 9).map((rows) => chooseTile(rows, 64, 64, { packed: true, isSoftware: true })),
  fc.record({
    rows: fc.integer({ min: 1, max: 4 }),
    columns: fc.constantFrom(4, 8),
    lanesX: fc.constantFrom(2, 4, 8),
    lanesY: fc.integer({ min: 1, max: 4 }),
    splits: fc.constantFrom(1, 1, 3),
  }),
);

/** A product on the GPU and what the reference makes of the same data. */
async function checkProduct(
  kind: Pick<ProductKind, "form" | "tile" | "packed" | "activation" | "normEps"> & {
    residual: boolean;
    gathers: boolean;
  },
  sizes: { pictures: number; rows: number; inDim: number; outDim: number },
  seed: number,
): Promise<void> {
  const { form, residual, gathers, normEps } = kind;
  const { pictures, rows, inDim, outDim } = sizes;
  const sourceRows = rows + (gathers ? 3 : 0);
  const groupSize = 5;
  const dtype = form as WeightsDtype;
  const weight = { dtype: "F32" as const, shape: [outDim, inDim], data: randomValues(outDim * inDim, seed) };
  const vector = (n: number, at: number) => ({ dtype: "F32" as const, shape: [n], data: randomValues(n, seed + at) });
  const name = "blocks.0.mlp.fc1";
  const plain: Tensors = new Map([
    [`${name}.weight`, weight],
    [`${name}.bias`, vector(outDim, 1)],
    ["norm.weight", vector(inDim, 2)],
    ["norm.bias", vector(inDim, 3)],
  ]);
  const tensors = encodeTensors(plain, dtype);
  const x = randomValues(pictures * sourceRows * inDim, seed + 4).map((v) => v + 2);
  const added = randomValues(pictures * sourceRows * outDim, seed + 5);
  const kept = Uint32Array.from(range(rows), (r) => (gathers ? r + (r > 1 ? 2 : 0) : r));
  const { words, vectors } = packLinear(tensors, name, normEps === undefined ? undefined : "norm");

  const rowsOf = (values: Float32Array, dim: number) =>
    Float32Array.from(
      range(pictures).flatMap((p) =>
        [...kept].flatMap((r) => [...values.subarray((p * sourceRows + r) * dim).slice(0, dim)]),
      ),
    );
  const t = (key: string) => float32(tensors, key);
  let input: Float32Array = rowsOf(x, inDim);
  if (normEps !== undefined) input = layerNorm(input, t("norm.weight"), t("norm.bias"), normEps);
  let expected: Float32Array = linear(input, t(`${name}.weight`), t(`${name}.bias`), pictures * rows);
  if (kind.activation) expected = gelu(expected);
  if (residual) expected = expected.map((v, i) => v + rowsOf(added, outDim)[i]);

  const width = kind.tile.columns * kind.tile.lanesX;
  const groups = Math.ceil(outDim / width);
  const { y, after } = await gpu.ask("kernel", {
    shader: productShader({ ...kind, add: residual ? "residual" : undefined, statistics: true }),
    data: {
      call: Uint32Array.from([pictures, 0, 0, 0]),
      shape: productUniform({ inDim, outDim, rows, sourceRows, groupSize }),
      x: strided(x, pictures * sourceRows),
      weight: words,
      vectors,
      kept,
      before: statistics(x, pictures * sourceRows, groupSize),
      added: strided(added, pictures * sourceRows),
      y: new Float32Array(pictures * rows * align4(outDim)).fill(Number.NaN),
      after: new Float32Array(pictures * rows * groups * 2),
    },
    outputs: ["y", "after"],
    workgroups: [groups, Math.ceil((pictures * rows) / (kind.tile.rows * kind.tile.lanesY)), 1],
  });
  const total = pictures * rows;
  expectClose(compact(y, total, outDim), expected, 1e-4, "y");
  expect(y.subarray(0, total * align4(outDim)).some(Number.isNaN), "the ends of rows are zeros").toBe(false);
  const actual = compact(y, total, outDim);
  expectClose(after.subarray(0, total * groups * 2), statistics(actual, total, width), 1e-3, "statistics");
}

describe("kernels, over random shapes", () => {
  test("a product is linear, with what comes before and after it", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.record({
          form: fc.constantFrom("f32" as const, "f16" as const, "int8" as const),
          tile: tileArbitrary,
          packed: fc.boolean(),
          activation: fc.constantFrom(undefined, "gelu"),
          normEps: fc.constantFrom(undefined, 1e-6, 0.5),
          residual: fc.boolean(),
          gathers: fc.boolean(),
        }),
        fc.record({
          pictures: fc.integer({ min: 1, max: 3 }),
          rows: fc.integer({ min: 2, max: 40 }),
          inDim: fc.integer({ min: 2, max: 50 }),
          outDim: fc.integer({ min: 1, max: 80 }),
        }),
        fc.integer({ min: 0, max: 1e6 }),
        checkProduct,
      ),
      { numRuns: 16, seed: 3 },
    );
  });

  test("the layer norm of rows far from zero loses nothing", async () => {
    const tile = chooseTile(9, 64, 64, { packed: true, isSoftware: true });
    const x = randomValues(4 * 64, 1).map((v) => 1000 + v);
    const tensors = encodeTensors(
      new Map([
        ["l.weight", { dtype: "F32" as const, shape: [8, 64], data: randomValues(8 * 64, 2) }],
        ["l.bias", { dtype: "F32" as const, shape: [8], data: randomValues(8, 3) }],
        ["n.weight", { dtype: "F32" as const, shape: [64], data: randomValues(64, 4) }],
        ["n.bias", { dtype: "F32" as const, shape: [64], data: randomValues(64, 5) }],
      ]),
      "f32",
    );
    const t = (key: string) => float32(tensors, key);
    const { words, vectors } = packLinear(tensors, "l", "n");
    const { y } = await gpu.ask("kernel", {
      shader: productShader({ form: "f32", tile, packed: true, normEps: 1e-6 }),
      data: {
        call: Uint32Array.from([1, 0, 0, 0]),
        shape: productUniform({ inDim: 64, outDim: 8, rows: 4, sourceRows: 4, groupSize: 16 }),
        x,
        weight: words,
        vectors,
        before: statistics(x, 4, 16),
        y: new Float32Array(4 * 8),
      },
      outputs: ["y"],
      workgroups: [1, 1, 1],
    });
    expectClose(y, linear(layerNorm(x, t("n.weight"), t("n.bias"), 1e-6), t("l.weight"), t("l.bias"), 4), 5e-3);
  });

  test("attention has every head at its own width, and explain the class token's weights", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 4 }),
        fc.integer({ min: 1, max: 200 }),
        fc.integer({ min: 1, max: 3 }),
        fc.constantFrom(1, 4, 8),
        fc.integer({ min: 0, max: 1e6 }),
        async (headDims, tokens, pictures, lanesY, seed) => {
          const queries = seed % 2 ? tokens : 1;
          const inner = headDims.reduce((a, b) => a + b, 0);
          const { tokenStride, valueStart, size } = qkvLayout(inner, tokens);
          const qkv = new Float32Array(pictures * size).fill(1e9); // gaps are garbage
          const scale = 0.3;
          const expected: number[] = [];
          const maps: Float32Array[] = [];
          for (let p = 0; p < pictures; p++) {
            const plain = randomValues(tokens * 3 * inner, seed + p).map((v) => 3 * v);
            for (let t = 0; t < tokens; t++) {
              for (let c = 0; c < 2 * inner; c++) qkv[p * size + c * tokenStride + t] = plain[t * 3 * inner + c];
              for (let c = 0; c < inner; c++)
                qkv[p * size + valueStart + t * align4(inner) + c] = plain[t * 3 * inner + 2 * inner + c];
            }
            maps.push(new Float32Array(tokens));
            expected.push(...attention(plain, headDims, scale, tokens, { map: maps[p] }).subarray(0, queries * inner));
          }
          const kind = { scale, width: 8 * Math.ceil(Math.max(...headDims) / 8), lanesY };
          const data = {
            shape: attentionUniform({ headDims, tokens, queries }),
            heads: headTable(headDims),
            quads: qkv,
            qkv,
            y: new Float32Array(pictures * Math.max(queries * align4(inner), tokens)).fill(Number.NaN),
          };
          const { y } = await gpu.ask("kernel", {
            shader: attentionShader(kind),
            data,
            outputs: ["y"],
            workgroups: [Math.ceil(queries / (4 * lanesY)), headDims.length, pictures],
          });
          expectClose(compact(y, pictures * queries, inner), expected, 2e-5, "mixed");
          const explained = await gpu.ask("kernel", {
            shader: explainShader(kind),
            data,
            outputs: ["y"],
            workgroups: [1, 1, 1],
          });
          expectClose(explained.y.subarray(0, tokens), maps[0], 1e-5, "map");
        },
      ),
      { numRuns: 8, seed: 4 },
    );
  });
});

/** 4×3 patches, blocks as given */
function architecture(...blocks: Partial<BlockShape>[]): Architecture {
  return plainArchitecture({
    imageSize: [16, 12],
    patchSize: 4,
    embedDim: 20,
    headDim: 8,
    layerNormEps: 1e-6,
    prefixTokens: 1,
    blocks: blocks.map((block) => ({ headDims: [8, 8], mlpHidden: 33, keepIdx: range(13), ...block })),
  });
}

function expectSame(actual: RunOutput, expected: RunOutput, tolerance: number): void {
  expectClose(actual.logits, expected.logits, tolerance, "logits");
  expectClose(actual.features, expected.features, tolerance, "features");
  expect(actual.attention?.length).toBe(expected.attention?.length);
  expected.attention?.forEach((map, i) => {
    expectClose(actual.attention![i], map, tolerance, `attention of block ${i}`);
  });
}

/** Twice, so that nothing is left over from the first. */
async function expectReference(model: Model, seed: number, tolerance = 1e-4): Promise<void> {
  const pixels = randomPixels(model.manifest, seed);
  const call = { pixels: [pixels], options: { explain: true } };
  const { outputs } = await gpu.ask("run", { model, calls: [call, call] });
  expectSame(outputs[0][0], forward(model, pixels, { explain: true }), tolerance);
  expectSame(outputs[1][0], outputs[0][0], 0);
}

describe("whole networks", () => {
  const some = golden.cases.filter(({ name }) => /^(channel b[14]|head b6|uniform b3) intersect$/.test(name));
  test.each(some)("gives PyTorch's logits for the golden network, cut by $name", async ({ cuts, logits }) => {
    const model = cut(golden.model, cuts);
    const { outputs } = await gpu.ask("run", { model, calls: golden.images.map((image) => ({ pixels: [image] })) });
    outputs.forEach(([output], i) => void expectClose(output.logits, logits[i], 1e-4));
  });

  const keepSome = [0, 2, 3, 7, 12];
  const cases: [string, Architecture][] = [
    ["dense", architecture({}, {})],
    ["a block without heads", architecture({ headDims: [] }, {})],
    ["a last block without heads", architecture({}, { headDims: [] })],
    ["a block without an MLP", architecture({ mlpHidden: 0 }, {})],
    ["nothing but biases", architecture({ headDims: [], mlpHidden: 0 }, { headDims: [], mlpHidden: 0 })],
    ["ragged heads", architecture({ headDims: [3, 8, 1] }, { headDims: [8, 2] })],
    ["patches never embedded", architecture({ keepIdx: keepSome }, { keepIdx: keepSome })],
    ["tokens dropped twice", architecture({}, { keepIdx: keepSome }, { keepIdx: [0, 7] }, { keepIdx: [0, 7] })],
    ["only the class token", architecture({ keepIdx: [0] }, { keepIdx: [0] })],
    [
      "distilled",
      { ...architecture({ keepIdx: range(14) }, { keepIdx: [0, 1, 2, 13] }), prefixTokens: 2, distilled: true },
    ],
    ["a coarse layer norm", { ...architecture({}, {}), layerNormEps: 0.5 }],
    ["odd patches", { ...architecture({}, {}), imageSize: [28, 21], patchSize: 7 }],
  ];
  test.each(cases)("%s", async (_, arch) => void (await expectReference(randomModel(arch, 7, 13), 1)));

  test.each(["f16", "int8"] as const)("%s weights", async (dtype) => {
    for (const [name, arch] of cases) {
      if (!/ragged|nothing but|distilled/.test(name)) continue;
      await expectReference(encode(randomModel(arch, 7, 13), dtype), 1);
    }
  });

  test("random slim networks", async () => {
    await fc.assert(
      fc.asyncProperty(slimArchitecture(), fc.integer({ min: 0, max: 1e6 }), async (arch, seed) => {
        // Norms of a few channels can magnify a rounding a thousandfold.
        await expectReference(randomModel({ ...arch, embedDim: arch.embedDim + 8 }, seed), seed);
      }),
      { numRuns: 5, seed: 1 },
    );
  });

  test.each(Object.entries(FAMILY).filter(([, arch]) => unsupportedFeature(arch, SUPPORTED) === undefined))(
    "a network shaped as %s",
    async (_, arch) => void (await expectReference(randomModel(arch, 5), 5)),
  );

  test("random networks of the whole family, as far as it is supported", async () => {
    await fc.assert(
      fc.asyncProperty(familyArchitecture(SUPPORTED), fc.integer({ min: 0, max: 1e6 }), async (arch, seed) => {
        // Norms of a few channels can magnify a rounding a thousandfold.
        const heads = arch.poolHeads ?? 1;
        await expectReference(randomModel({ ...arch, embedDim: arch.embedDim + 8 * heads }, seed), seed, 3e-4);
      }),
      { numRuns: 6, seed: 6 },
    );
  });

  test("what it does not compute it refuses by name", async () => {
    for (const [name, said] of [
      ["DeiT, merging", /Engine "webgpu" does not compute tokens that merge/],
      ["SigLIP", /Engine "webgpu" does not compute (tokens that merge|attention pooling)/],
    ] as const) {
      const model = randomModel(FAMILY[name], 1);
      await expect(gpu.ask("run", { model, calls: [] })).rejects.toMatchObject({
        code: "unsupported",
        message: expect.stringMatching(said),
      });
    }
  });

  test("a thousand tokens, ragged heads", async () => {
    const keepIdx = range(1025);
    const arch: Architecture = {
      ...architecture(),
      imageSize: [128, 128],
      embedDim: 24,
      blocks: [
        { headDims: [8, 5], mlpHidden: 30, keepIdx, merge: 0 },
        { headDims: [7], mlpHidden: 20, keepIdx: keepIdx.filter((t) => t % 2 === 0), merge: 0 },
      ],
    };
    await expectReference(randomModel(arch, 3), 3);
  });

  test("heads wider than a round of lanes", async () => {
    const block = { headDims: [100, 17], mlpHidden: 8 };
    await expectReference(randomModel({ ...architecture(block, block), headDim: 100 }, 5), 5);
  });

  test("a picture's answer does not depend on its batch", async () => {
    const model = randomModel(architecture({}, { keepIdx: keepSome }, { headDims: [5] }), 2);
    const pictures = range(37).map((seed) => randomPixels(model.manifest, seed));
    const { outputs } = await gpu.ask("run", {
      model,
      calls: [
        { pixels: pictures },
        { pixels: pictures.toReversed() },
        { pixels: pictures.slice(30, 33) },
        { pixels: [] },
      ],
    });
    const [all, reversed, few, none] = outputs;
    expect(none).toEqual([]);
    all.forEach((output, i) => {
      expectSame(output, forward(model, pictures[i]), 1e-4);
      expectSame(reversed[36 - i], output, 0);
    });
    few.forEach((output, i) => void expectSame(output, all[30 + i], 0));
  });

  test("a picture that is not a number spoils no other", async () => {
    const model = randomModel(architecture({ headDims: [5], mlpHidden: 7 }, { headDims: [3] }), 2);
    const good = randomPixels(model.manifest, 1);
    const bad = good.map(() => Number.NaN);
    const { outputs } = await gpu.ask("run", {
      model,
      calls: [{ pixels: [bad] }, { pixels: [good] }, { pixels: [bad, good] }],
    });
    expectSame(outputs[1][0], forward(model, good), 1e-4);
    expectSame(outputs[2][1], forward(model, good), 1e-4);
  });

  test("runs at most five dispatches a block, and times each block", async () => {
    const model = randomModel(architecture({}, { headDims: [] }, {}), 1);
    const pixels = [randomPixels(model.manifest, 1)];
    const { outputs, dispatches } = await gpu.ask("run", { model, calls: [{ pixels, options: { profile: true } }] });
    expect(dispatches).toBe(1 + 5 + 3 + 5 + 2);
    expect(outputs[0][0].blockMs?.length).toBe(3);
    expectSame({ ...outputs[0][0], blockMs: undefined }, forward(model, pixels[0]), 1e-4);
  });
});

test("holds no buffer after dispose, 200 times", async () => {
  const model = randomModel(architecture({}), 1);
  const left = await gpu.ask("rounds", { model, pixels: randomPixels(model.manifest, 1), count: 200 });
  expect(left).toEqual(Array(200).fill(0));
});

test("every call that fails says why: aborts, wrong sizes, dispose, a lost device", async () => {
  const model = randomModel(architecture({}), 1);
  expect(await gpu.ask("faults", { model, pixels: randomPixels(model.manifest, 1) })).toEqual({
    before: "aborted",
    size: "bad-input",
    several: "unsupported",
    between: "aborted",
    after: "none",
    flying: "disposed",
    waiting: "disposed",
    disposed: "disposed",
    lost: "device-lost",
    lostBefore: "device-lost",
  });
});

test("tells a CPU that plays the GPU from a GPU", () => {
  const isSoftware = (info: Partial<GPUAdapterInfo>) => isSoftwareAdapter(adapterName(info));
  expect(isSoftware({ vendor: "google", architecture: "swiftshader" })).toBe(true);
  expect(isSoftware({ vendor: "nvidia", architecture: "ampere", isFallbackAdapter: true })).toBe(true);
  expect(isSoftware({ vendor: "nvidia", architecture: "ampere", isFallbackAdapter: false })).toBe(false);
});
