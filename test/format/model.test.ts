import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import type { Architecture, Manifest, Model, Tensor, Tensors, WeightsDtype } from "../../src/format/model.ts";
import { countMacs, countParams, denseTokens } from "../../src/format/model.ts";
import { float32, readManifest, readModel } from "../../src/format/read.ts";
import { encodeTensors, isQuantised, selfTestPixels, writeWeights } from "../../src/format/write.ts";
import { forward } from "../../src/reference/forward.ts";
import { expectClose, manifestOf, randomModel, randomPixels, slimArchitecture } from "../helpers.ts";
import { Tally } from "../robustness/tally.ts";

/** 2×2 patches; the second block has dropped two of them */
const arch: Architecture = {
  imageSize: [8, 8],
  patchSize: 4,
  embedDim: 6,
  headDim: 4,
  layerNormEps: 1e-6,
  prefixTokens: 1,
  blocks: [
    { headDims: [4, 2], mlpHidden: 5, keepIdx: [0, 1, 2, 3, 4] },
    { headDims: [3], mlpHidden: 2, keepIdx: [0, 2, 3] },
  ],
};
const weightsEntry = { dtype: "f32", file: "model.f32.safetensors", bytes: 4096, sha256: "0".repeat(64) };
const model = randomModel(arch, 1);

// biome-ignore lint/suspicious/noExplicitAny: a manifest to be spoilt in any way
type Spoilt = any;

/** A valid manifest's JSON, after `spoil` has had it. */
function manifest(spoil: (m: Spoilt) => void = () => {}): string {
  const m = structuredClone({ ...manifestOf(arch), weights: [weightsEntry] });
  spoil(m);
  return JSON.stringify(m);
}

function refused(name: string, fault: RegExp) {
  return expect.objectContaining({
    name: "SlimViTError",
    code: "bad-model",
    message: expect.stringMatching(new RegExp(`^${name}: .*${fault.source}`)),
  });
}

describe("a malformed manifest is refused with its name and the fault", () => {
  const tally = new Tally("format", "named malformed manifests");
  afterAll(() => tally.close());
  const weights = (changes: object) => (m: Spoilt) => Object.assign(m.weights[0], changes);
  test.each<[string, (m: Spoilt) => void, RegExp]>([
    ["another format", (m) => (m.format = "slimvit/2"), /format "slimvit\/2"/],
    ["no format", (m) => delete m.format, /format undefined/],
    ["no name", (m) => delete m.name, /name is undefined/],
    ["a name that is an object", (m) => (m.name = {}), /name is \{…\}/],
    ["no license", (m) => delete m.license, /license is undefined/],
    ["no imageSize", (m) => delete m.imageSize, /imageSize is undefined/],
    ["one imageSize", (m) => (m.imageSize = [8]), /imageSize has 1 entries; expected 2/],
    [
      "imageSize that patches do not divide",
      (m) => (m.imageSize = [8, 10]),
      /imageSize 8×10 is no multiple of patchSize 4/,
    ],
    ["imageSize 0", (m) => (m.imageSize = [0, 8]), /imageSize is 0/],
    ["imageSize past the limit", (m) => (m.imageSize = [8, 2 ** 20]), /imageSize is 1048576/],
    ["patchSize 0", (m) => (m.patchSize = 0), /patchSize is 0/],
    [
      "more tokens than the limit",
      (m) => Object.assign(m, { imageSize: [4096, 4096], patchSize: 1 }),
      /has 16777217 tokens/,
    ],
    ["fractional embedDim", (m) => (m.embedDim = 6.5), /embedDim is 6.5/],
    ["embedDim past the limit", (m) => (m.embedDim = 1e9), /embedDim is 1000000000/],
    ["embedDim that is text", (m) => (m.embedDim = "6"), /embedDim is "6"/],
    ["headDim 0", (m) => (m.headDim = 0), /headDim is 0/],
    ["layerNormEps 0", (m) => (m.layerNormEps = 0), /layerNormEps is 0/],
    ["layerNormEps that is 0 in f32", (m) => (m.layerNormEps = 1e-300), /layerNormEps is 1e-300/],
    ["layerNormEps that is infinite in f32", (m) => (m.layerNormEps = 1e300), /layerNormEps is 1e\+300/],
    ["layerNormEps null, as JSON writes NaN", (m) => (m.layerNormEps = Number.NaN), /layerNormEps is null/],
    ["three prefix tokens", (m) => (m.prefixTokens = 3), /prefixTokens is 3/],
    ["no blocks", (m) => (m.blocks = []), /blocks has 0 entries/],
    ["blocks that are an object", (m) => (m.blocks = { length: 1 }), /blocks is \{…\}/],
    ["a block that is null", (m) => (m.blocks[1] = null), /blocks\[1\] is null/],
    ["more blocks than the limit", (m) => (m.blocks = Array(1025).fill(m.blocks[0])), /blocks has 1025 entries/],
    ["no headDims", (m) => delete m.blocks[0].headDims, /blocks\[0\]\.headDims is undefined/],
    ["a head of no channel", (m) => (m.blocks[0].headDims = [4, 0]), /blocks\[0\]\.headDims is 0/],
    ["a head wider than headDim", (m) => (m.blocks[0].headDims = [5]), /blocks\[0\]\.headDims is 5/],
    ["a million heads", (m) => (m.blocks[0].headDims = Array(1e6).fill(1)), /headDims has 1000000 entries/],
    ["negative mlpHidden", (m) => (m.blocks[1].mlpHidden = -1), /blocks\[1\]\.mlpHidden is -1/],
    ["mlpHidden past the limit", (m) => (m.blocks[1].mlpHidden = 1e9), /mlpHidden is 1000000000/],
    ["no keepIdx", (m) => delete m.blocks[0].keepIdx, /blocks\[0\]\.keepIdx is undefined/],
    ["an empty keepIdx", (m) => (m.blocks[1].keepIdx = []), /blocks\[1\]\.keepIdx has 0 entries/],
    ["a keep index out of range", (m) => (m.blocks[0].keepIdx = [0, 5]), /blocks\[0\]\.keepIdx is 5; .* 0 to 4/],
    ["a negative keep index", (m) => (m.blocks[0].keepIdx = [-1, 0]), /blocks\[0\]\.keepIdx is -1/],
    ["a fractional keep index", (m) => (m.blocks[0].keepIdx = [0, 1.5]), /blocks\[0\]\.keepIdx is 1.5/],
    ["a keep index that is text", (m) => (m.blocks[0].keepIdx = [0, "1"]), /blocks\[0\]\.keepIdx is "1"/],
    ["a repeated keep index", (m) => (m.blocks[1].keepIdx = [0, 2, 2]), /not ascending at 2, 2/],
    ["unsorted keep indices", (m) => (m.blocks[1].keepIdx = [0, 3, 2]), /not ascending at 3, 2/],
    ["more keep indices than tokens", (m) => (m.blocks[0].keepIdx = [0, 1, 2, 3, 4, 4]), /keepIdx has 6 entries/],
    [
      "a keep-list that grows with depth",
      (m) => (m.blocks = [m.blocks[1], m.blocks[0]]),
      /block 1 keeps token 1, which block 0 has already dropped/,
    ],
    ["no class token", (m) => (m.blocks[1].keepIdx = [2, 3]), /blocks\[1\]\.keepIdx lacks token 0/],
    ["no distillation token", (m) => (m.prefixTokens = 2), /blocks\[1\]\.keepIdx lacks token 1/],
    ["no preprocess", (m) => delete m.preprocess, /preprocess is undefined/],
    ["a crop that is not imageSize", (m) => (m.preprocess.crop = [8, 4]), /preprocess.crop \[8, 4\] is not imageSize/],
    ["a resize smaller than the crop", (m) => (m.preprocess.resize = 7), /preprocess.resize is 7/],
    ["a squash smaller than the crop", (m) => (m.preprocess.resize = [4096, 7]), /preprocess.resize\[1\] is 7/],
    ["a squash of one side", (m) => (m.preprocess.resize = [99] as never), /preprocess.resize/],
    ["a resize past the limit", (m) => (m.preprocess.resize = 1e6), /preprocess.resize is 1000000/],
    ["an unknown interpolation", (m) => (m.preprocess.interpolation = "lanczos"), /interpolation is "lanczos"/],
    ["two means", (m) => (m.preprocess.mean = [0, 0]), /preprocess.mean has 2 entries/],
    ["a mean that is null", (m) => (m.preprocess.mean = [0, 0, null]), /preprocess.mean is \[0, 0, null\]/],
    ["a mean that is infinite in f32", (m) => (m.preprocess.mean[0] = 1e300), /preprocess.mean/],
    ["a deviation of 0", (m) => (m.preprocess.std = [1, 0, 1]), /preprocess.std is \[1, 0, 1\]; .* above 0/],
    ["no labels", (m) => (m.labels = []), /labels has 0 entries/],
    ["a label that is text", (m) => (m.labels[3] = "cat"), /labels\[3\] is "cat"/],
    ["a label without id", (m) => delete m.labels[2].id, /labels\[2\]\.id is undefined/],
    ["weights that are none", (m) => (m.weights = {}), /weights is \{…\}/],
    ["nine weights files", (m) => (m.weights = Array(9).fill(weightsEntry)), /weights has 9 entries/],
    ["two files of one dtype", (m) => m.weights.push(weightsEntry), /weights\[1\] is a second f32 file/],
    ["an unknown dtype", weights({ dtype: "q4" }), /weights\[0\]\.dtype is "q4"/],
    ["a path upwards", weights({ file: "../other/model.safetensors" }), /weights\[0\]\.file is "\.\.\/other/],
    ["a path downwards", weights({ file: "sub/model.safetensors" }), /weights\[0\]\.file is "sub\//],
    ["an absolute path", weights({ file: "/etc/model.safetensors" }), /weights\[0\]\.file/],
    ["a Windows path", weights({ file: "..\\model.safetensors" }), /weights\[0\]\.file/],
    ["another origin", weights({ file: "https://example.org/model.safetensors" }), /weights\[0\]\.file is "https:/],
    ["a protocol-relative URL", weights({ file: "//example.org/model.safetensors" }), /weights\[0\]\.file/],
    ["a data URL", weights({ file: "data:,x.safetensors" }), /weights\[0\]\.file/],
    ["an encoded path", weights({ file: "%2e%2e%2fmodel.safetensors" }), /weights\[0\]\.file/],
    ["a query", weights({ file: "model?.safetensors" }), /weights\[0\]\.file/],
    ["a line break at the end", weights({ file: "model.safetensors\n" }), /weights\[0\]\.file/],
    ["a pickle", weights({ file: "model.bin" }), /weights\[0\]\.file is "model.bin"/],
    ["a hidden file", weights({ file: ".safetensors" }), /weights\[0\]\.file/],
    ["no bytes", weights({ bytes: undefined }), /weights\[0\]\.bytes is undefined/],
    ["negative bytes", weights({ bytes: -1 }), /weights\[0\]\.bytes is -1/],
    ["more bytes than are held", weights({ bytes: 2 ** 31 + 1 }), /weights\[0\]\.bytes is 2147483649/],
    ["a manifest of more than 2.5 MiB", (m) => (m.name = "x".repeat(2.5 * 2 ** 20)), /is longer than 2621440 bytes/],
    ["a sha256 that is too short", weights({ sha256: "0".repeat(63) }), /weights\[0\]\.sha256/],
    ["a sha256 in capitals", weights({ sha256: "A".repeat(64) }), /weights\[0\]\.sha256/],
    [
      "a self-test of too few logits",
      weights({ selfTest: { seed: 1, logits: [1] } }),
      /logits has 1 entries; expected 5/,
    ],
    [
      "a self-test of no numbers",
      weights({ selfTest: { seed: 1, logits: [1, 2, 3, 4, null] } }),
      /logits holds what is no number/,
    ],
    ["a self-test without seed", weights({ selfTest: { logits: [1, 2, 3, 4, 5] } }), /selfTest.seed is undefined/],
    ["a provenance that is text", (m) => (m.provenance = "me"), /provenance is "me"/],
    ["metrics that are a list", (m) => (m.metrics = []), /metrics is \[\]/],
  ])("%s", (_, spoil, fault) => {
    tally.claim(() =>
      expect(() => readManifest(manifest(spoil), "slimvit.json")).toThrow(refused("slimvit\\.json", fault)),
    );
  });

  test.each([
    ["HTML", "<!doctype html>", /is not JSON/],
    ["nothing", "", /is not JSON/],
    ["half of one", manifest().slice(0, 200), /is not JSON/],
    ["null", "null", /the manifest is null/],
    ["a list", "[]", /the manifest is \[\]/],
    ["fields in __proto__", `{"__proto__":${manifest()}}`, /format undefined/],
    [
      "a field nested a million deep",
      manifest().replace('"embedDim":6', `"embedDim":${"[".repeat(1e6)}${"]".repeat(1e6)}`),
      /embedDim is \[…\]/,
    ],
    ["a number past all doubles", manifest().replace('"embedDim":6', '"embedDim":1e999'), /embedDim is Infinity/],
  ])("%s", (_, text, fault) => {
    tally.claim(() => expect(() => readManifest(text, "slimvit.json")).toThrow(refused("slimvit\\.json", fault)));
  });
});

describe("a legal manifest is read", () => {
  test.each<[string, (m: Spoilt) => void]>([
    ["as it is", () => {}],
    ["a block without heads", (m) => (m.blocks[0].headDims = [])],
    ["a block without an MLP", (m) => (m.blocks[0].mlpHidden = 0)],
    ["a block with neither", (m) => Object.assign(m.blocks[1], { headDims: [], mlpHidden: 0 })],
    ["the class token alone", (m) => (m.blocks[1].keepIdx = [0])],
    ["without weights yet", (m) => (m.weights = [])],
    ["with fields of a later version", (m) => (m.future = { deep: [1] })],
    ["with a self-test", (m) => (m.weights[0].selfTest = { seed: 1, logits: [1, 2, 3, 4, 5] })],
  ])("%s", (_, change) => {
    const text = manifest(change);
    expect(readManifest(text, "slimvit.json")).toEqual(JSON.parse(text));
  });

  test("without provenance and metrics, which become empty", () => {
    const read = readManifest(
      manifest((m) => {
        delete m.provenance;
        delete m.metrics;
      }),
      "x",
    );
    expect([read.provenance, read.metrics]).toEqual([{}, {}]);
  });
});

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
    ["no head", () => without("head.bias"), /"head.bias" is missing/],
    [
      "a tensor too many",
      () => new Map(model.tensors).set("extra", { dtype: "F32", shape: [0], data: new Float32Array(0) }),
      /"extra" is unknown/,
    ],
    [
      "a distillation head",
      () => new Map(model.tensors).set("head_dist.bias", { dtype: "F32", shape: [5], data: new Float32Array(5) }),
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
      /"head.weight" is I8 and needs "head.scale" \(F32, \[5\]\)/,
    ],
    [
      "int8 with a scale too short",
      () => int8().set("head.scale", { dtype: "F32", shape: [4], data: new Float32Array(4) }),
      /needs "head.scale"/,
    ],
    [
      "int8 with a scale in f16",
      () => int8().set("head.scale", { dtype: "F16", shape: [5], data: new Uint16Array(5) }),
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
  const roundTrip = ({ manifest, tensors }: Model, dtype: WeightsDtype) =>
    readModel(manifest, dtype, writeWeights(encodeTensors(tensors, dtype)), "x");

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
          expect(
            after.every((v, i) => Math.abs(v - before[i]) <= Math.max(2 ** -25, Math.abs(before[i]) * 2 ** -11)),
          ).toBe(true);
        }
      }),
    );
  });

  test("int8, within half a step of each row's scale, and the small tensors exactly", () => {
    fc.assert(
      fc.property(anyModel, (written) => {
        const { tensors } = roundTrip(written, "int8");
        for (const [key, { shape }] of written.tensors) {
          const [before, after] = [float32(written.tensors, key), float32(tensors, key)];
          if (!isQuantised(key)) expect(after).toEqual(before);
          else {
            const scale = tensors.get(key.replace(/weight$/, "scale"))!.data;
            expectClose(
              after.map((v, i) => (v - before[i]) / (scale[Math.floor(i / shape[1])] || 1)),
              new Float32Array(after.length),
              0.5001,
              key,
            );
            expect(mostOfOneSign(tensors.get(key)!)).toBeLessThanOrEqual(258);
          }
        }
      }),
    );
  });

  /** Of the weights whose products the simd engine adds up in 16 bits, from any column on. */
  function mostOfOneSign({ shape, data }: Tensor): number {
    const sums = [...data].flatMap((_, at) => {
      const left = shape[1] - (at % shape[1]);
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
    expect(mostOfOneSign(int8.get("head.weight")!)).toBe(256); // four times 64
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
    expect(mostOfOneSign(int8.get("head.weight")!)).toBeLessThanOrEqual(258);
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
  });
});

describe("counts", () => {
  const deit = (embedDim: number, heads: number): Architecture => {
    const keepIdx = [...Array(197).keys()];
    const block = { headDims: Array<number>(heads).fill(64), mlpHidden: 4 * embedDim, keepIdx };
    return {
      imageSize: [224, 224],
      patchSize: 16,
      embedDim,
      headDim: 64,
      layerNormEps: 1e-6,
      prefixTokens: 1,
      blocks: Array(12).fill(block),
    };
  };
  test.each([
    ["Ti", 192, 3, 5_717_416, 1_253_683_200],
    ["S", 384, 6, 22_050_664, 4_598_882_304],
    ["B", 768, 12, 86_567_656, 17_563_828_224],
  ])("of DeiT-%s", (_, embedDim, heads, params, macs) => {
    expect(countParams(deit(embedDim, heads), 1000)).toBe(params);
    expect(countMacs(deit(embedDim, heads), 1000)).toBe(macs);
    expect(denseTokens(deit(embedDim, heads))).toBe(197);
  });

  test("of a slim network, by hand", () => {
    // 4 patches × 6 × 48; block 1: 5·6·18 + 2·25·6 + 5·6·6 + 2·5·6·5; block 2: 3·6·9 + 2·9·3 + 3·3·6 + 2·3·6·2; head 6·5
    expect(countMacs(arch, 5)).toBe(1152 + 540 + 300 + 180 + 300 + 162 + 54 + 54 + 72 + 30);
    const stored = [...model.tensors.values()].reduce((sum, { data }) => sum + data.length, 0);
    expect(countParams(arch, 5)).toBe(stored);
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
