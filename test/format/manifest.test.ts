import { afterAll, describe, expect, test } from "vitest";
import { PLAIN } from "../../src/format/model.ts";
import { readManifest } from "../../src/format/read.ts";
import { selfTestOf, singleVariant } from "../../src/format/variants.ts";
import { manifestOf } from "../helpers.ts";
import { Tally } from "../robustness/tally.ts";
import { arch, refused } from "./fixtures.ts";

const weightsEntry = { dtype: "f32", file: "model.f32.safetensors", bytes: 4096, sha256: "0".repeat(64) };

// biome-ignore lint/suspicious/noExplicitAny: a manifest to be spoilt in any way
type Spoilt = any;

/** A valid manifest's JSON in version 1, after `spoil` has had it. */
function manifest(spoil: (m: Spoilt) => void = () => {}): string {
  const { name, license, preprocess, labels, provenance, metrics } = manifestOf(arch);
  const { imageSize, patchSize, embedDim, headDim, layerNormEps, prefixTokens } = arch;
  const blocks = arch.blocks.map(({ merge: _, ...block }) => block);
  const m = structuredClone({
    ...{ format: "slimvit/1", name, license, imageSize, patchSize, embedDim, headDim, layerNormEps, prefixTokens },
    ...{ preprocess, blocks, labels, weights: [weightsEntry], provenance, metrics },
  });
  spoil(m);
  return JSON.stringify(m);
}

test("activation ranges are read as they are written, those of one value too", () => {
  const activations = { "blocks.0.attn.qkv.input": [-1.5, 2], "blocks.0.attn.q.output": [0, 0] };
  const { weights } = readManifest(
    manifest((m) => Object.assign(m.weights[0], { activations })),
    "slimvit.json",
  );
  expect(weights[0].activations).toEqual(activations);
});

describe("a malformed manifest of version 1 is refused with its name and the fault", () => {
  const tally = new Tally("format", "named malformed manifests");
  afterAll(() => tally.close());
  const weights = (changes: object) => (m: Spoilt) => Object.assign(m.weights[0], changes);
  test.each<[string, (m: Spoilt) => void, RegExp]>([
    [
      "another format",
      (m) => (m.format = "slimvit/3"),
      /format "slimvit\/3"; this version reads "slimvit\/2" and "slimvit\/1"/,
    ],
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
    [
      "a fit that does not exist",
      (m) => Object.assign(m.preprocess, { resize: [9, 9], fit: "stretch" }),
      /fit is "stretch"/,
    ],
    [
      "a fit of one side",
      (m) => (m.preprocess.fit = "contain"),
      /fit is "contain" and resize is \d+; expected \[height/,
    ],
    ["an unknown interpolation", (m) => (m.preprocess.interpolation = "sharp"), /interpolation is "sharp"/],
    ["two means", (m) => (m.preprocess.mean = [0, 0]), /preprocess.mean has 2 entries/],
    ["a mean that is null", (m) => (m.preprocess.mean = [0, 0, null]), /preprocess.mean is null; expected a number\./],
    ["a mean that is infinite in f32", (m) => (m.preprocess.mean[0] = 1e300), /preprocess.mean/],
    ["a deviation of 0", (m) => (m.preprocess.std = [1, 0, 1]), /preprocess.std is 0; expected a number above 0/],
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
    ["an unknown packing", weights({ file: "model.safetensors.gz", unpackedBytes: 9 }), /weights\[0\]\.file/],
    ["no unpackedBytes", weights({ file: "model.safetensors.zz" }), /weights\[0\]\.unpackedBytes is undefined/],
    [
      "more bytes unpacked than the network can have",
      weights({ file: "model.safetensors.zz", unpackedBytes: 2 ** 23 }),
      /weights\[0\]\.unpackedBytes is 8388608; expected a whole number from 8 to 26\d{5}\./,
    ],
    ["a pickle", weights({ file: "model.bin" }), /weights\[0\]\.file is "model.bin"/],
    ["a hidden file", weights({ file: ".safetensors" }), /weights\[0\]\.file/],
    [
      "activations from high to low",
      weights({ activations: { "norm.input": [2, 1] } }),
      /weights\[0\]\.activations\["norm\.input"\] is \[2, ?1\]; expected the lower bound first/,
    ],
    ["activations of one bound", weights({ activations: { "norm.input": [2] } }), /\["norm\.input"\] has 1 entries/],
    ["activations that are none", weights({ activations: { "norm.input": [0, "1"] } }), /\["norm\.input"\] is "1"/],
    ["no bytes", weights({ bytes: undefined }), /weights\[0\]\.bytes is undefined/],
    ["negative bytes", weights({ bytes: -1 }), /weights\[0\]\.bytes is -1/],
    ["more bytes than are held", weights({ bytes: 2 ** 31 + 1 }), /weights\[0\]\.bytes is 2147483649/],
    ["a manifest of more than 2.5 MiB", (m) => (m.name = "x".repeat(2.5 * 2 ** 20)), /is longer than 2621440 bytes/],
    ["a sha256 that is too short", weights({ sha256: "0".repeat(63) }), /weights\[0\]\.sha256/],
    ["a sha256 in capitals", weights({ sha256: "A".repeat(64) }), /weights\[0\]\.sha256/],
    [
      "a self-test of too few logits",
      weights({ selfTest: { seed: 1, logits: [1] } }),
      /selfTest\.f32\.logits has 1 entries; expected 5/,
    ],
    [
      "a self-test of no numbers",
      weights({ selfTest: { seed: 1, logits: [1, 2, 3, 4, null] } }),
      /logits holds what is no number/,
    ],
    [
      "a self-test without seed",
      weights({ selfTest: { logits: [1, 2, 3, 4, 5] } }),
      /selfTest\.f32\.seed is undefined/,
    ],
    ["a provenance that is text", (m) => (m.provenance = "me"), /provenance is "me"/],
    [
      "a zero-shot scale of 0",
      (m) => (m.provenance = { zeroShot: { scores: "sigmoid", scale: 0, bias: 0 } }),
      /provenance\.zeroShot\.scale is 0; expected a number above 0/,
    ],
    [
      "zero-shot scores of another kind",
      (m) => (m.provenance = { zeroShot: { scores: "max", scale: 1, bias: 0 } }),
      /provenance\.zeroShot\.scores is "max"/,
    ],
    [
      "a zero-shot bias that is text",
      (m) => (m.provenance = { zeroShot: { scores: "softmax", scale: 1, bias: "0" } }),
      /provenance\.zeroShot\.bias is "0"/,
    ],
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

describe("a legal manifest of version 1 is read", () => {
  test.each<[string, (m: Spoilt) => void]>([
    ["as it is", () => {}],
    ["a block without heads", (m) => (m.blocks[0].headDims = [])],
    ["a block without an MLP", (m) => (m.blocks[0].mlpHidden = 0)],
    ["a block with neither", (m) => Object.assign(m.blocks[1], { headDims: [], mlpHidden: 0 })],
    ["the class token alone", (m) => (m.blocks[1].keepIdx = [0])],
    ["without weights yet", (m) => (m.weights = [])],
    ["with fields of a later version", (m) => (m.future = { deep: [1] })],
  ])("%s", (_, change) => {
    const text = manifest(change);
    const { blocks, format: __, ...rest } = JSON.parse(text);
    const plain = {
      ...rest,
      ...PLAIN,
      distilled: false,
      blocks: blocks.map((block: object) => ({ ...block, merge: 0 })),
    };
    expect(readManifest(text, "slimvit.json")).toEqual(singleVariant(plain));
  });

  test("with fields that only version 2 gives a meaning, which have none", () => {
    const later = { pooling: "mean", projection: 3, rope: 1, normEps: {}, hiddenNorm: 2, poolHeads: 3, variants: [] };
    const text = manifest((m) => {
      Object.assign(m, later);
      for (const block of m.blocks) block.merge = 1;
    });
    expect(readManifest(text, "x")).toEqual(readManifest(manifest(), "x"));
  });

  test("with a distillation token", () => {
    const distilled = manifest((m) => {
      m.prefixTokens = 2;
      for (const block of m.blocks) block.keepIdx = [0, 1, 2];
    });
    expect(readManifest(distilled, "x")).toMatchObject({ prefixTokens: 2, classToken: true, distilled: true });
  });

  test("with a self-test, which belongs to its only variant", () => {
    const selfTest = { seed: 1, logits: [1, 2, 3, 4, 5] };
    const read = readManifest(
      manifest((m) => (m.weights[0].selfTest = selfTest)),
      "x",
    );
    expect(read.variants.map(({ name, selfTest }) => [name, selfTest])).toEqual([["default", { f32: selfTest }]]);
    expect(selfTestOf(read, "f32")).toEqual(selfTest);
    expect(selfTestOf(read, "f16")).toBeUndefined();
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
