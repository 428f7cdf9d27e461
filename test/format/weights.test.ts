import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import type { Manifest, Model, Tensor, Tensors, WeightsDtype } from "../../src/format/model.ts";
import { isQuantised, stepOf } from "../../src/format/quantise.ts";
import { float32, readModel } from "../../src/format/read.ts";
import { readSafetensors } from "../../src/format/safetensors.ts";
import { encodeTensors, selfTestPixels, writeWeights } from "../../src/format/write.ts";
import { forward } from "../../src/reference/forward.ts";
import { expectClose, randomModel, randomPixels, slimArchitecture } from "../helpers.ts";
import { Tally } from "../robustness/tally.ts";
import { arch, model, refused } from "./fixtures.ts";

describe("wrong weights are refused with the file's name and the fault", () => {
  const tally = new Tally("format", "named wrong weights");
  afterAll(() => tally.close());
  const read = (tensors: Tensors) => readModel(model.manifest, "f32", writeWeights(tensors), "w.safetensors");
  /** The model's tensors with one of them changed. */
  const changed = (key: string, change: (values: Float32Array) => void): Tensors => {
    const data = Float32Array.from(float32(model.tensors, key));
    change(data);
    return new Map(model.tensors).set(key, { ...model.tensors.get(key)!, data });
  };
  const without = (key: string) => {
    const tensors = new Map(model.tensors);
    tensors.delete(key);
    return tensors;
  };
  const int8 = () => encodeTensors(model.tensors, "int8");
  test.each<[string, () => Tensors, RegExp]>([
    ["no tensor", () => new Map(), /"patch_embed.proj.weight" is missing/],
    ["no class token", () => without("cls_token"), /"cls_token" is missing/],
    ["no head", () => without("head.weight"), /"head.weight" is missing/],
    [
      "a tensor too many",
      () => new Map(model.tensors).set("extra", { dtype: "F32", shape: [0], data: new Float32Array(0) }),
      /"extra" is unknown/,
    ],
    [
      "a distillation head",
      () =>
        new Map(model.tensors).set("head_dist.bias", { dtype: "F32", shape: [5], data: new Float32Array(5).fill(1) }),
      /"head_dist.bias" is unknown/,
    ],
    [
      "a transposed linear",
      () => new Map(model.tensors).set("head.weight", { ...model.tensors.get("head.weight")!, shape: [6, 5] }),
      /"head.weight" has shape \[6, 5\]; slimvit.json makes it \[5, 6\]/,
    ],
    [
      "a flattened linear",
      () => new Map(model.tensors).set("head.weight", { ...model.tensors.get("head.weight")!, shape: [30] }),
      /"head.weight" has shape \[30\]/,
    ],
    [
      "NaN",
      () => changed("blocks.0.mlp.fc1.weight", (w) => (w[7] = Number.NaN)),
      /"blocks.0.mlp.fc1.weight" holds NaN or Inf/,
    ],
    ["Inf", () => changed("pos_embed", (w) => (w[0] = Number.POSITIVE_INFINITY)), /"pos_embed" holds NaN or Inf/],
    ["−Inf", () => changed("norm.bias", (w) => (w[5] = Number.NEGATIVE_INFINITY)), /"norm.bias" holds NaN or Inf/],
    [
      "NaN in f16",
      () =>
        encodeTensors(
          changed("head.bias", (w) => (w[0] = Number.NaN)),
          "f16",
        ),
      /"head.bias" holds NaN or Inf/,
    ],
    [
      "a value past f16",
      () =>
        encodeTensors(
          changed("head.bias", (w) => (w[0] = 1e6)),
          "f16",
        ),
      /"head.bias" holds NaN or Inf/,
    ],
    [
      "int8 without scale",
      () => {
        const t = int8();
        t.delete("head.scale");
        return t;
      },
      /"head.weight" is I8 and needs "head.scale" \(F32 or F16, \[5\]\)/,
    ],
    [
      "int8 with a scale too short",
      () => int8().set("head.scale", { dtype: "F32", shape: [4], data: new Float32Array(4) }),
      /needs "head.scale"/,
    ],
    [
      "int8 with a NaN scale",
      () => int8().set("head.scale", { dtype: "F32", shape: [5], data: new Float32Array(5).fill(Number.NaN) }),
      /"head.(weight|scale)" (holds NaN|overflows)/,
    ],
    [
      "int8 whose scale overflows",
      () => int8().set("head.scale", { dtype: "F32", shape: [5], data: new Float32Array(5).fill(3e38) }),
      /"head.weight" overflows/,
    ],
    [
      "an int8 bias",
      () => new Map(model.tensors).set("head.bias", { dtype: "I8", shape: [5], data: new Int8Array(5) }),
      /"head.bias" is I8; only weights can be/,
    ],
    [
      "an f16 scale that is infinite",
      () => int8().set("head.scale", { dtype: "F16", shape: [5], data: new Uint16Array(5).fill(0x7c00) }),
      /"head.weight" overflows/,
    ],
    [
      "a scale of int8",
      () => int8().set("head.scale", { dtype: "I8", shape: [5], data: new Int8Array(5) }),
      /"head.weight" is I8 and needs "head.scale" \(F32 or F16, \[5\]\)/,
    ],
    [
      "a scale without int8",
      () => new Map(model.tensors).set("head.scale", { dtype: "F32", shape: [5], data: new Float32Array(5) }),
      /"head.scale" is unknown/,
    ],
    [
      "f64",
      () =>
        new Map(model.tensors).set("head.bias", {
          dtype: "F64" as "F32",
          shape: [5],
          data: new Float64Array(5) as unknown as Float32Array,
        }),
      /"head.bias" has dtype F64/,
    ],
    [
      "bf16",
      () => new Map(model.tensors).set("head.bias", { dtype: "BF16" as "F16", shape: [5], data: new Uint16Array(5) }),
      /"head.bias" has dtype BF16/,
    ],
  ])("%s", (_, tensors, fault) => {
    tally.claim(() => expect(() => read(tensors())).toThrow(refused("w\\.safetensors", fault)));
  });

  test("labels of another number than the head's classes", () => {
    const manifest = { ...model.manifest, labels: model.manifest.labels.slice(1) };
    expect(() => readModel(manifest, "f32", writeWeights(model.tensors), "w")).toThrow(
      refused("w", /"head.weight" has shape \[5, 6\]; slimvit.json makes it \[4, 6\]/),
    );
  });

  test("weights of another slimming", () => {
    const blocks = [arch.blocks[0], { ...arch.blocks[1], headDims: [2] }];
    expect(() => readModel({ ...model.manifest, blocks }, "f32", writeWeights(model.tensors), "w")).toThrow(
      refused("w", /"blocks.1.attn.qkv.weight" has shape \[9, 6\]; slimvit.json makes it \[6, 6\]/),
    );
  });
});

describe("what is written is read back", () => {
  const anyModel = fc
    .tuple(slimArchitecture(), fc.integer({ min: 0, max: 1e6 }))
    .map(([architecture, seed]) => randomModel(architecture, seed));
  const roundTrip = ({ manifest, tensors }: Model, dtype: WeightsDtype, step?: number) =>
    readModel(manifest, dtype, writeWeights(encodeTensors(tensors, dtype, step)), "x");
  const isHalf = (after: Float32Array, before: Float32Array) =>
    after.every((v, i) => Math.abs(v - before[i]) <= Math.max(2 ** -25, Math.abs(before[i]) * 2 ** -11));

  test("f32, exactly", () => {
    fc.assert(
      fc.property(anyModel, (written) => {
        expect(roundTrip(written, "f32").tensors).toEqual(written.tensors);
      }),
    );
  });

  test("f16, within half a unit of its last place", () => {
    fc.assert(
      fc.property(anyModel, (written) => {
        const { tensors } = roundTrip(written, "f16");
        for (const key of written.tensors.keys()) {
          const [before, after] = [float32(written.tensors, key), float32(tensors, key)];
          expect(isHalf(after, before)).toBe(true);
        }
      }),
    );
  });

  const isWeight = (key: string) => isQuantised(key) || key === "patch_embed.proj.weight";
  /** How far each row is from what was written, in steps of its scale. */
  const errors = (key: string, written: Model, tensors: Tensors): Float32Array => {
    const [before, after] = [float32(written.tensors, key), float32(tensors, key)];
    const scale = tensors.get(key.replace(/weight$/, "scale"))!.data;
    const columns = before.length / scale.length;
    return after.map((v, i) => (v - before[i]) / (scale[Math.floor(i / columns)] || 1));
  };

  test("int8, within half a step of each row's scale, and the small tensors as f16", () => {
    fc.assert(
      fc.property(anyModel, (written) => {
        const { tensors } = roundTrip(written, "int8");
        for (const [key, { shape }] of written.tensors) {
          if (!isWeight(key)) expect(isHalf(float32(tensors, key), float32(written.tensors, key))).toBe(true);
          else {
            const off = errors(key, written, tensors);
            expectClose(off, new Float32Array(off.length), 0.5001, key);
            if (isQuantised(key)) expect(mostOfOneSign(tensors.get(key)!, shape[1])).toBeLessThanOrEqual(258);
          }
        }
      }),
    );
  });

  test("int8 of a given step: levels up to 64 on a grid of the row's root mean square, scales in f16 where it is fine enough", () => {
    fc.assert(
      fc.property(anyModel, fc.double({ min: 0.1, max: 2, noNaN: true }), (written, step) => {
        const encoded = encodeTensors(written.tensors, "int8", step);
        const stored = readSafetensors(writeWeights(encoded), "x");
        const { tensors } = roundTrip(written, "int8", step);
        for (const key of written.tensors.keys()) {
          if (!isWeight(key)) continue;
          const { shape, data } = tensors.get(key)!;
          expect(data).toEqual(encoded.get(key)!.data);
          expect(data.every((level) => Math.abs(level) <= 64)).toBe(true);
          const scaleKey = key.replace(/weight$/, "scale");
          const scales = tensors.get(scaleKey)!;
          expect(scales).toEqual(encoded.get(scaleKey));
          if (scales.data.every((scale) => scale === 0 || scale > 2 ** -14))
            expect(stored.get(scaleKey)!.dtype).toBe("F16");
          const values = float32(written.tensors, key);
          scales.data.forEach((scale, r) => {
            const columns = values.length / shape[0];
            const row = [...values.subarray(r * columns, (r + 1) * columns)];
            const rms = Math.hypot(...row) / Math.sqrt(row.length || 1);
            const exact = Math.max(stepOf(key, step) * rms, ...row.map((v) => Math.abs(v) / 64));
            expect(Math.abs(scale - exact)).toBeLessThanOrEqual(exact * 2 ** -11);
          });
          const off = errors(key, written, tensors);
          expectClose(off, new Float32Array(off.length), 0.54, key); // of 64 steps, f16 of the scale takes a thirtieth
        }
      }),
    );
  });

  test("int8 of a given step stays on its grid when it is encoded again without one", () => {
    const { tensors } = roundTrip(model, "int8", 0.6);
    expect(encodeTensors(tensors, "int8")).toEqual(tensors);
    expect(encodeTensors(tensors, "int8", 1.2)).not.toEqual(tensors);
  });

  test("int8 of a value past f16 keeps that tensor in f32", () => {
    const data = Float32Array.of(1, 1e6, 0, 0, 0);
    const int8 = encodeTensors(new Map(model.tensors).set("head.bias", { dtype: "F32", shape: [5], data }), "int8");
    expect(int8.get("head.bias")).toEqual({ dtype: "F32", shape: [5], data });
  });

  /** Of the weights whose products the simd engine adds up in 16 bits, from any column on. */
  function mostOfOneSign({ data }: Tensor, columns: number): number {
    const sums = [...data].flatMap((_, at) => {
      const left = columns - (at % columns);
      const four = [0, 1, 4, 5].filter((i) => i < left).map((i) => data[at + i]);
      return [1, -1].map((sign) => four.reduce((sum, v) => sum + Math.max(0, sign * v), 0));
    });
    return Math.max(0, ...sums);
  }

  test("int8 of rows of nothing but their greatest weight", () => {
    const tensors: Tensors = new Map([
      [
        "head.weight",
        { dtype: "F32", shape: [2, 9], data: Float32Array.from({ length: 18 }, (_, i) => (i < 9 ? 1 : -2)) },
      ],
    ]);
    const int8 = encodeTensors(tensors, "int8");
    expect(mostOfOneSign(int8.get("head.weight")!, 9)).toBe(256); // four times 64
    expectClose(float32(int8, "head.weight"), tensors.get("head.weight")!.data as Float32Array, 0.01);
  });

  test("int8 of weights too small for a scale stays within the smallest float", () => {
    const data = Float32Array.of(2.7e-43, -1e-45, 0, 1e-44, 1e-45, 0);
    const tensors: Tensors = new Map([["head.weight", { dtype: "F32", shape: [2, 3], data }]]);
    expectClose(float32(encodeTensors(tensors, "int8"), "head.weight"), data, 1.5e-43);
  });

  test("int8 of weights of which a scale is the smallest float ends", () => {
    const data = Float32Array.from([66, 66, 0, 0, 66, 66], (v) => v * 2 ** -149); // a step more than 258 in all, of steps of 2^-149
    const tensors: Tensors = new Map([["head.weight", { dtype: "F32", shape: [1, 6], data }]]);
    const int8 = encodeTensors(tensors, "int8");
    expect(mostOfOneSign(int8.get("head.weight")!, 6)).toBeLessThanOrEqual(258);
    expectClose(float32(int8, "head.weight"), data, 2.9e-45);
  });

  test("and written again, it is the same file", () => {
    for (const dtype of ["f32", "f16", "int8"] as const) {
      const bytes = writeWeights(encodeTensors(model.tensors, dtype));
      const again = roundTrip(readModel(model.manifest, dtype, bytes, "x"), dtype);
      expect(writeWeights(again.tensors)).toEqual(bytes);
    }
  });

  test("and runs", () => {
    const pixels = randomPixels(arch, 1);
    const { logits } = forward(model, pixels);
    expectClose(forward(roundTrip(model, "f32"), pixels).logits, logits, 0);
    expectClose(forward(roundTrip(model, "f16"), pixels).logits, logits, 1e-2);
    expectClose(forward(roundTrip(model, "int8"), pixels).logits, logits, 1e-1);
    expectClose(forward(roundTrip(model, "int8", 0.1), pixels).logits, logits, 0.5);
  });
});

test("the self-test's pixels are the same for ever", () => {
  const pixels = selfTestPixels({ ...arch, imageSize: [1, 2] } as Manifest, 1);
  expect([...pixels]).toEqual([
    -0.52708899974823, -0.26145875453948975, 0.00848400592803955, 0.40976643562316895, -0.898912787437439,
    -0.2609633207321167,
  ]);
  expect(selfTestPixels(arch, 7).every((v) => v >= -1 && v < 1)).toBe(true);
});
