import { afterAll, describe, expect, test } from "vitest";
import { SlimViTError } from "../../src/errors.ts";
import { type Architecture, countMacs, type Manifest } from "../../src/format/model.ts";
import { readManifest, readModel } from "../../src/format/read.ts";
import { singleVariant, withVariant } from "../../src/format/variants.ts";
import { manifestJson, writeWeights } from "../../src/format/write.ts";
import { forward } from "../../src/reference/forward.ts";
import { FAMILY } from "../family.ts";
import { expectClose, manifestOf, randomModel, randomPixels } from "../helpers.ts";
import { Tally } from "../robustness/tally.ts";
import { arch, model, refused } from "./fixtures.ts";

// biome-ignore lint/suspicious/noExplicitAny: a manifest to be spoilt in any way
type Spoilt = any;

/** A manifest's JSON in version 2, after `spoil` has had it. */
function json(of: Architecture, spoil: (m: Spoilt) => void = () => {}): string {
  const m = JSON.parse(JSON.stringify(manifestJson(manifestOf(of))));
  spoil(m);
  return JSON.stringify(m);
}

const eva = FAMILY["EVA-02"];
const siglip = FAMILY.SigLIP;
const merging = FAMILY["DeiT, merging"];

describe("a malformed manifest of version 2 is refused with its name and the fault", () => {
  const tally = new Tally("format", "named malformed manifests of version 2");
  afterAll(() => tally.close());
  const variant = (change: (v: Spoilt) => void) => (m: Spoilt) => change(m.variants[0]);
  const set = (changes: object) => (m: Spoilt) => Object.assign(m, changes);
  test.each<[string, Architecture, (m: Spoilt) => void, RegExp]>([
    ["no variants", arch, (m) => (m.variants = []), /variants has 0 entries; expected 1 to 64/],
    ["65 variants", arch, (m) => (m.variants = Array(65).fill(m.variants[0])), /variants has 65 entries/],
    ["a variant that is null", arch, (m) => (m.variants = [null]), /variants\[0\] is null/],
    ["a variant without name", arch, variant((v) => delete v.name), /variants\[0\]\.name is undefined/],
    [
      "a name that is a path",
      arch,
      variant((v) => (v.name = "../x")),
      /variants\[0\]\.name is "\.\.\/x"; expected up to/,
    ],
    ["two of one name", arch, (m) => m.variants.push(m.variants[0]), /variants\[1\]\.name is "default", which another/],
    ["no imageSize", arch, variant((v) => delete v.imageSize), /variants\[0\]\.imageSize is undefined/],
    ["no blocks", arch, variant((v) => delete v.blocks), /variants\[0\]\.blocks is undefined/],
    [
      "a crop of another size",
      arch,
      variant((v) => (v.imageSize = [8, 12])),
      /preprocess.crop \[8, 8\] is not imageSize \[8, 12\]/,
    ],
    ["metrics that are text", arch, variant((v) => (v.metrics = "good")), /variants\[0\]\.metrics is "good"/],
    [
      "a self-test of an unknown dtype",
      arch,
      variant((v) => (v.selfTest = { q4: {} })),
      /selfTest is "q4"; expected "f32", "f16" or/,
    ],
    [
      "a self-test without logits",
      arch,
      variant((v) => (v.selfTest = { f32: { seed: 1 } })),
      /selfTest\.f32\.logits is undefined/,
    ],
    ["17 prefix tokens", arch, set({ prefixTokens: 17 }), /prefixTokens is 17; expected a whole number from 0 to 16/],
    ["no prefixTokens", arch, (m) => delete m.prefixTokens, /prefixTokens is undefined/],
    [
      "a class token and no prefix token",
      arch,
      set({ prefixTokens: 0 }),
      /prefixTokens is 0; classToken and distilled make at least 1/,
    ],
    ["a list without a register", arch, set({ prefixTokens: 2 }), /keepIdx lacks token 1: .* all other prefix tokens/],
    ["classToken that is a number", arch, set({ classToken: 1 }), /classToken is 1; expected true or false/],
    [
      "pooling by a class token that is not there",
      arch,
      set({ classToken: false }),
      /pooling is "class" and classToken is false/,
    ],
    [
      "an unknown pooling",
      arch,
      set({ pooling: "max" }),
      /pooling is "max"; expected "class", "mean", "class\+mean" or "map"/,
    ],
    ["an unknown finalNorm", arch, set({ finalNorm: "rms" }), /finalNorm is "rms"/],
    ["an unknown activation", arch, set({ activation: "mish" }), /activation is "mish"/],
    ["an unknown mlp", arch, set({ mlp: "geglu" }), /mlp is "geglu"/],
    ["an unknown position", arch, set({ position: "alibi" }), /position is "alibi"/],
    [
      "a distillation token with mean pooling",
      arch,
      set({ distilled: true, prefixTokens: 2, pooling: "mean" }),
      /distilled is true/,
    ],
    ["an epsilon of 0", arch, set({ normEps: { final: 0 } }), /normEps\.final is 0; expected a number above 0/],
    ["normEps that is a number", arch, set({ normEps: 1e-5 }), /normEps is 0.00001; expected an object/],
    ["an inner norm without SwiGLU", arch, set({ hiddenNorm: 9 }), /hiddenNorm is 9 and mlp is "plain"/],
    [
      "more units than the inner norm counts",
      eva,
      set({ hiddenNorm: 20 }),
      /mlpHidden is 24; expected a whole number from 0 to 20/,
    ],
    ["RoPE without coordinates", eva, (m) => delete m.rope, /variants\[0\]\.rope is undefined/],
    ["RoPE of one axis", eva, (m) => delete m.rope.rows, /rope\.rows is undefined/],
    ["a coordinate that is text", eva, (m) => (m.rope.columns = [0, "1"]), /rope\.columns is "1"; expected a number/],
    [
      "a head of odd width with RoPE",
      eva,
      variant((v) => (v.blocks[1].headDims = [6, 3])),
      /headDims is 3; expected even widths/,
    ],
    ["no poolHeads", siglip, (m) => delete m.poolHeads, /poolHeads is undefined/],
    [
      "poolHeads that do not divide",
      siglip,
      set({ poolHeads: 3 }),
      /poolHeads is 3; expected a divisor of embedDim 16/,
    ],
    ["no poolHidden", siglip, (m) => delete m.poolHidden, /poolHidden is undefined/],
    ["an unknown poolActivation", siglip, set({ poolActivation: "x" }), /poolActivation is "x"/],
    [
      "a mean of no patches",
      siglip,
      variant((v) => (v.blocks = [{ headDims: [], mlpHidden: 0, keepIdx: [] }])),
      /keepIdx has 0 entries/,
    ],
    [
      "a mean without patches",
      eva,
      variant((v) => {
        v.blocks = [{ headDims: [], mlpHidden: 0, keepIdx: [0] }];
      }),
      /has no patch left; pooling "mean" needs one/,
    ],
    ["a projection to nothing", arch, set({ projection: 0 }), /projection is 0/],
    ["labels without a head", arch, (m) => delete m.head, /labels has 5 entries and there is no head/],
    ["a head without labels", arch, set({ labels: [] }), /labels has 0 entries/],
    ["a head that is null", arch, set({ head: null }), /head is null; expected an object/],
    [
      "a head of unknown scores",
      arch,
      (m) => (m.head.scores = "max"),
      /head\.scores is "max"; expected "softmax" or "sigmoid"/,
    ],
    ["a merge below 0", merging, variant((v) => (v.blocks[0].merge = -1)), /blocks\[0\]\.merge is -1/],
    [
      "a merge of more than half",
      merging,
      variant((v) => (v.blocks[0].merge = 8)),
      /merge is 8; expected 7 at most, half of the patches/,
    ],
    [
      "a merge of more than half of what earlier ones left",
      merging,
      variant((v) => (v.blocks[1].merge = 7)),
      /blocks\[1\]\.merge is 7; expected 6 at most/,
    ],
    [
      "a merge in a block without heads",
      merging,
      variant((v) => (v.blocks[0].headDims = [])),
      /without heads has no keys/,
    ],
    [
      "a merge that nothing reads",
      merging,
      variant((v) => (v.blocks[2].merge = 1)),
      /blocks\[2\]\.merge is 1; expected 0, as pooling "class"/,
    ],
    ["a merge with relative positions", merging, set({ position: "relative" }), /relative position bias/],
    [
      "a list that shrinks after a merge",
      merging,
      variant((v) => v.blocks[2].keepIdx.pop()),
      /block 2 drops 1 tokens after block 0 has merged/,
    ],
  ])("%s", (_, of, spoil, fault) => {
    tally.claim(() =>
      expect(() => readManifest(json(of, spoil), "slimvit.json")).toThrow(refused("slimvit\\.json", fault)),
    );
  });
});

describe("what a file leaves out", () => {
  test("of the architecture is as in DeiT, but for the head", () => {
    const text = json(arch);
    for (const key of ["pooling", "mlp", "classToken", "position"]) expect(text).not.toContain(`"${key}"`);
    expect(text).toContain('"head":{"scores":"softmax"}');
    expect(readManifest(text, "x")).toEqual(manifestOf(arch));
  });

  test("of biases and positions is zeros", () => {
    const tensors = new Map(model.tensors);
    for (const key of ["head.bias", "pos_embed", "blocks.0.norm1.bias"]) {
      const { data, ...rest } = tensors.get(key)!;
      tensors.set(key, { ...rest, data: new Float32Array(data.length) });
    }
    const bytes = writeWeights(tensors);
    expect(bytes.length).toBeLessThan(writeWeights(model.tensors).length);
    expect(readModel(model.manifest, "f32", bytes, "x").tensors).toEqual(tensors);
  });

  test("cannot be more than 256 MB", () => {
    const block = { headDims: [], mlpHidden: 0, keepIdx: [0], merge: 0 };
    const vast = { ...arch, patchSize: 1, embedDim: 2048, imageSize: [200, 200] as [number, number], blocks: [block] };
    const tiny = { dtype: "F32" as const, shape: [2048, 3, 1, 1], data: new Float32Array(2048 * 3) };
    const cls = { dtype: "F32" as const, shape: [1, 1, 2048], data: new Float32Array(2048) };
    const bytes = writeWeights(
      new Map([
        ["patch_embed.proj.weight", tiny],
        ["cls_token", cls],
      ]),
    );
    expect(() => readModel(manifestOf(vast), "f32", bytes, "w")).toThrow(
      refused("w", /leaves out tensors of \d+ zeros, "pos_embed"/),
    );
  });
});

describe("version 1 and what it is rewritten to", () => {
  test("give the same logits", () => {
    const { name, license, preprocess, labels, patchSize, embedDim, headDim, layerNormEps } = model.manifest;
    const first = JSON.stringify({
      ...{ format: "slimvit/1", name, license, preprocess, labels, patchSize, embedDim, headDim, layerNormEps },
      ...{
        imageSize: [8, 8],
        prefixTokens: 1,
        weights: [],
        blocks: arch.blocks.map(({ merge: _, ...block }) => block),
      },
    });
    const bytes = writeWeights(model.tensors);
    const read = readManifest(first, "x");
    const rewritten = JSON.stringify(manifestJson(read));
    expect(JSON.parse(rewritten).format).toBe("slimvit/2");
    const pixels = randomPixels(arch, 5);
    const [before, after] = [read, readManifest(rewritten, "x")].map((manifest) =>
      forward(readModel(manifest, "f32", bytes, "x"), pixels),
    );
    expectClose(after.logits, before.logits, 0);
    expectClose(before.logits, forward(model, pixels).logits, 0);
  });
});

describe("several variants", () => {
  const few = { ...merging, blocks: merging.blocks.map((block, i) => ({ ...block, merge: [7, 3, 0][i] })) };
  const { manifest, tensors } = randomModel(merging, 3);
  const both: Manifest = {
    ...manifest,
    variants: [
      { ...manifest.variants[0], name: "large", metrics: { top1: 0.9 } },
      { ...singleVariant({ ...manifest, blocks: few.blocks }).variants[0], name: "small" },
    ],
    ...{ variant: "large", metrics: { top1: 0.9 } },
  };

  test("are read, the first selected, each with its own blocks and MACs", () => {
    const text = JSON.stringify(manifestJson(both));
    expect(Object.keys(JSON.parse(text))).not.toContain("blocks");
    const read = readManifest(text, "x");
    expect(read).toEqual(both);
    const small = withVariant(read, "small");
    expect([small.variant, small.blocks, small.metrics]).toEqual(["small", few.blocks, {}]);
    expect(small.variants.map(({ macs }) => macs)).toEqual([countMacs(merging, 5), countMacs(few, 5)]);
    expect(withVariant(small, "large")).toEqual(read);
  });

  test("run from one file", () => {
    const bytes = writeWeights(tensors);
    const pixels = randomPixels(merging, 1);
    const { logits } = forward(readModel(withVariant(both, "small"), "f32", bytes, "x"), pixels);
    expectClose(logits, forward({ ...randomModel(few, 3) }, pixels).logits, 0);
  });

  test("a changed copy of one is written as it was changed", () => {
    const blocks = both.blocks.map((block) => ({ ...block, merge: 0 }));
    const read = readManifest(JSON.stringify(manifestJson({ ...both, blocks })), "x");
    expect(read.blocks).toEqual(blocks);
    expect(withVariant(read, "small").blocks).toEqual(few.blocks);
  });

  test("have their own pictures and RoPE grids", () => {
    const one = manifestOf(FAMILY["DINOv3, merging"]);
    const rope = { rows: [0, 2], columns: [1, 3] } as NonNullable<Architecture["rope"]>;
    const preprocess = { ...one.preprocess, resize: 40 };
    const two = { ...one, variants: [...one.variants, { ...one.variants[0], name: "other", rope, preprocess }] };
    const text = JSON.stringify(manifestJson(two));
    expect(JSON.parse(text).variants[0]).not.toHaveProperty("rope");
    const read = readManifest(text, "x");
    expect(read).toEqual(two);
    const other = withVariant(read, "other");
    expect([other.rope, other.preprocess]).toEqual([rope, preprocess]);
    expect(withVariant(other, "default")).toEqual(read);
  });

  test("a name that is none of them is refused", () => {
    expect(() => withVariant(both, "tiny")).toThrow(SlimViTError);
    expect(() => withVariant(both, "tiny")).toThrow(/has no variant "tiny"; expected one of "large", "small"/);
  });
});
