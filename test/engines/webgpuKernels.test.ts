/** The kernels of our WebGPU engine, in Node on SwiftShader, each against the reference's operation over random shapes. */
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { attentionShader, attentionUniform, explainShader, headTable } from "../../src/engines/webgpu/attention.ts";
import {
  hasDots,
  type ProductKind,
  productShader,
  productUniform,
  qkvLayout,
} from "../../src/engines/webgpu/product.ts";
import { align4 } from "../../src/engines/webgpu/shader.ts";
import { chooseTile, type Tile } from "../../src/engines/webgpu/tiles.ts";
import { packLinear } from "../../src/engines/webgpu/weights.ts";
import type { Tensors, WeightsDtype } from "../../src/format/model.ts";
import { float32 } from "../../src/format/read.ts";
import { encodeTensors } from "../../src/format/write.ts";
import { attention, gelu, layerNorm, linear } from "../../src/reference/ops.ts";
import { expectClose, randomValues } from "../helpers.ts";
import { GpuProcess } from "./gpuProcess.ts";
import { drawnSeed } from "./webgpuNetworks.ts";

let gpu: GpuProcess;
beforeAll(async () => {
  gpu = await GpuProcess.start();
});
afterAll(() => gpu?.end());

const range = (count: number) => [...Array(count).keys()];

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

/** As `dot4I8Packed` takes it: 32 inputs of a row, from 0 on, are multiples of a 127th of the greatest of them. */
function rounded(x: Float32Array, rows: number): Float32Array {
  const dim = x.length / rows;
  const out = new Float32Array(x.length);
  for (let r = 0; r < rows; r++) {
    for (let from = r * dim; from < (r + 1) * dim; from += 32) {
      const group = x.subarray(from, Math.min(from + 32, (r + 1) * dim));
      const scale = Math.max(...group.map(Math.abs)) / 127;
      out.set(
        group.map((v) => Math.round(v / scale) * scale),
        from,
      );
    }
  }
  return out;
}

/** A value halfway between two steps may be rounded to either: two rows may be so much off, and none of the others. */
function expectRows(actual: Float32Array, expected: Float32Array, rows: number): void {
  const dim = actual.length / rows;
  const off = range(rows).filter((r) => {
    const ofRow = (values: Float32Array) => values.subarray(r * dim, (r + 1) * dim);
    expectClose(ofRow(actual), ofRow(expected), 0.1, `row ${r}`);
    return ofRow(actual).some((v, i) => Math.abs(v - ofRow(expected)[i]) > 1e-4 * Math.max(1, Math.abs(v)));
  });
  expect(off.length, `rows off: ${off}`).toBeLessThanOrEqual(2);
}

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
  let bias = t(`${name}.bias`);
  if (normEps !== undefined) {
    input = layerNorm(input, t("norm.weight"), new Float32Array(inDim), normEps);
    bias = linear(t("norm.bias"), t(`${name}.weight`), bias, 1);
  }
  if (hasDots(kind)) input = rounded(input, pictures * rows);
  let expected: Float32Array = linear(input, t(`${name}.weight`), bias, pictures * rows);
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
  const actual = compact(y, total, outDim);
  if (hasDots(kind)) expectRows(actual, expected, total);
  else expectClose(actual, expected, 1e-4, "y");
  expect(y.subarray(0, total * align4(outDim)).some(Number.isNaN), "the ends of rows are zeros").toBe(false);
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
      { numRuns: 6, seed: drawnSeed("products") },
    );
  });

  test("int8 is multiplied by int8 where WGSL can, with a norm before it and without", async () => {
    const tile = chooseTile(500, 64, 64, { packed: true, isSoftware: false });
    for (const normEps of [undefined, 1e-6]) {
      const kind = { form: "int8" as const, tile, packed: true, activation: undefined, normEps };
      expect(productShader(kind).code).toContain("dot4I8Packed");
      for (const inDim of [3, 32, 74]) {
        const sizes = { pictures: 2, rows: 40, inDim, outDim: 70 };
        await checkProduct({ ...kind, residual: false, gathers: inDim === 74 }, sizes, inDim);
      }
    }
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
        fc.constantFrom(4, 8),
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
          const kind = { width: Math.max(...headDims) > 16 ? 40 : 16, lanesY };
          const data = {
            shape: attentionUniform({ scale, headDims, tokens, queries }),
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
            shader: explainShader({}),
            data,
            outputs: ["y"],
            workgroups: [1, 1, 1],
          });
          expectClose(explained.y.subarray(0, tokens), maps[0], 1e-5, "map");
        },
      ),
      { numRuns: 6, seed: drawnSeed("attention") },
    );
  });
});
