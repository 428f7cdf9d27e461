import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ALL_FEATURES, type Feature, featuresOf, unsupportedFeature } from "../../src/format/features.ts";
import { type Activation, type Architecture, denseTokens, type Model, PLAIN } from "../../src/format/model.ts";
import { readManifest, readModel } from "../../src/format/read.ts";
import { encodeTensors, manifestJson, writeWeights } from "../../src/format/write.ts";
import { forward } from "../../src/reference/forward.ts";
import { activate, gatedUnits, layerNorm } from "../../src/reference/ops.ts";
import { FAMILY, familyArchitecture, familyModel } from "../family.ts";
import { type Cut, cut, expectClose, randomModel, randomPixels } from "../helpers.ts";
import { everything, plainForward } from "../plain.ts";

const RUNS = { numRuns: 120, seed: 7 };
const NO_MERGE = ALL_FEATURES.filter((feature) => feature !== "merge");

function expectSame(model: Model, other: Model, tolerance: number): void {
  const pixels = randomPixels(model.manifest, 2);
  const [actual, expected] = [forward(model, pixels), forward(other, pixels)];
  expectClose(actual.features, expected.features, tolerance, "features");
  expectClose(actual.logits, expected.logits, tolerance, "logits");
}

/** The model with each tensor whose name `matches` replaced by values of its length. */
function withTensors(model: Model, matches: RegExp, values: (length: number) => Float32Array): Model {
  const tensors = new Map(model.tensors);
  for (const [key, tensor] of tensors)
    if (matches.test(key)) tensors.set(key, { ...tensor, data: values(tensor.data.length) });
  return { ...model, tensors };
}

const zeros = (length: number) => new Float32Array(length);

describe("a model of the family is read as it was written", () => {
  const again = (model: Model) => {
    const manifest = readManifest(JSON.stringify(manifestJson(model.manifest)), "x");
    expect(manifest).toEqual(model.manifest);
    return readModel(manifest, model.dtype, writeWeights(model.tensors), "x");
  };

  test.each(Object.entries(FAMILY))("%s", (_, arch) => {
    const model = randomModel(arch, 1);
    expectSame(again(model), model, 0);
    for (const dtype of ["f16", "int8"] as const) {
      const encoded = { ...model, dtype, tensors: encodeTensors(model.tensors, dtype) };
      expectSame(again(encoded), encoded, 0);
    }
  });

  test("drawn at random", () => {
    fc.assert(
      fc.property(familyModel(), (model) => expectSame(again(model), model, 0)),
      RUNS,
    );
  });
});

describe("without merges, forward equals plain forms written apart from it", () => {
  const check = (model: Model) => {
    const pixels = randomPixels(model.manifest, 3);
    const [actual, expected] = [forward(model, pixels), plainForward(model, pixels)];
    expectClose(actual.features, expected.features, 2e-5, "features");
    expectClose(actual.logits, expected.logits, 2e-5, "logits");
  };
  const unmerged = Object.entries(FAMILY).map(([name, arch]): [string, Architecture] => [
    name,
    { ...arch, blocks: arch.blocks.map((block) => ({ ...block, merge: 0 })) },
  ]);
  test.each(unmerged)("%s", (_, arch) => check(randomModel(arch, 4)));
  test("drawn at random", () => fc.assert(fc.property(familyModel(NO_MERGE), check), RUNS));
});

describe("cutting equals multiplying by zero", () => {
  /** A dense network of the family, and what to keep of it. */
  const dense = (supported: readonly Feature[]) =>
    familyArchitecture(supported).chain((arch) => {
      const paired = arch.position === "rope";
      const flags = (length: number) => fc.array(fc.boolean(), { minLength: length, maxLength: length });
      const head = paired
        ? flags(arch.headDim / 2).map((pairs) => pairs.flatMap((keep) => [keep, keep]))
        : flags(arch.headDim);
      const keepIdx = [...Array(denseTokens(arch)).keys()];
      const shape = { headDims: Array<number>(3).fill(arch.headDim), mlpHidden: arch.hiddenNorm ?? 8 };
      const blocks = arch.blocks.map(({ merge, keepIdx: kept }) => ({
        ...shape,
        merge,
        keepIdx: merges(arch) ? kept : keepIdx,
      }));
      const cuts = arch.blocks.map((kept) =>
        fc.record({
          heads: fc.tuple(head, head, head),
          units: flags(shape.mlpHidden),
          keepIdx: fc.constant(kept.keepIdx),
        }),
      );
      return fc.record({
        arch: fc.constant<Architecture>({ ...arch, blocks }),
        cuts: fc.tuple(...cuts) as fc.Arbitrary<Cut[]>,
        seed: fc.integer({ min: 0, max: 1e6 }),
      });
    });
  const merges = ({ blocks }: Architecture) => blocks.some(({ merge }) => merge > 0);

  test.each<[string, (cut: Cut) => Partial<Cut>]>([
    ["channels, pairs of them with RoPE", ({ heads }) => ({ heads })],
    ["whole heads", ({ heads }) => ({ heads: heads.map((head) => head.map(() => head[0])) })],
    ["MLP units", ({ units }) => ({ units })],
    ["tokens", ({ keepIdx }) => ({ keepIdx })],
    ["all of them", (all) => all],
  ])("%s", (_, part) => {
    fc.assert(
      fc.property(dense(NO_MERGE), ({ arch, cuts, seed }) => {
        const model = randomModel(arch, seed);
        const kept = everything(model).map((all, i) => ({ ...all, ...part(cuts[i]) }));
        const pixels = randomPixels(arch, seed);
        const [actual, expected] = [forward(cut(model, kept), pixels), plainForward(model, pixels, kept)];
        expectClose(actual.features, expected.features, 2e-5, "features");
        expectClose(actual.logits, expected.logits, 2e-5, "logits");
      }),
      { numRuns: 60, seed: 8 },
    );
  });

  test("channels and units of a network that merges, which joins the same pairs", () => {
    fc.assert(
      fc.property(
        dense(ALL_FEATURES).filter(({ arch }) => merges(arch)),
        ({ arch, cuts, seed }) => {
          const model = randomModel(arch, seed);
          const pixels = randomPixels(arch, seed);
          const actual = forward(cut(model, cuts), pixels, { explain: true });
          const expected = forward(zeroed(model, cuts), pixels, { explain: true });
          expect(actual.pairs).toEqual(expected.pairs);
          expectClose(actual.features, expected.features, 2e-5, "features");
        },
      ),
      { numRuns: 60, seed: 9 },
    );
  });

  /** The same network with zeros in the weights of what is cut. */
  function zeroed(model: Model, cuts: Cut[]): Model {
    const tensors = new Map(model.tensors);
    cuts.forEach(({ heads, units }, i) => {
      const channels = heads.flat();
      const clear = (key: string, keep: boolean[]) => {
        const tensor = tensors.get(`blocks.${i}.${key}`);
        if (!tensor) return;
        const width = tensor.data.length / tensor.shape[0];
        const data = (tensor.data as Float32Array).map((v, at) => (keep[Math.floor(at / width) % keep.length] ? v : 0));
        tensors.set(`blocks.${i}.${key}`, { ...tensor, data });
      };
      for (const part of ["weight", "bias"]) {
        for (const key of ["qkv", "q_norm", "k_norm"]) clear(`attn.${key}.${part}`, channels);
        for (const key of ["fc1", "norm"]) clear(`mlp.${key}.${part}`, units);
      }
    });
    return { ...model, tensors };
  }
});

describe("positions", () => {
  const withRope = familyModel().filter(({ manifest }) => manifest.position === "rope");
  const withBias = familyModel().filter(({ manifest }) => manifest.position === "relative");
  const learned = (model: Model): Model => {
    const { rope: _, ...manifest } = model.manifest;
    return { ...model, manifest: { ...manifest, position: "learned" } };
  };

  test("RoPE of zero angles equals none", () => {
    fc.assert(
      fc.property(withRope, (model) => expectSame(withTensors(model, /rope_freqs/, zeros), learned(model), 0)),
      { numRuns: 30, seed: 1 },
    );
  });

  test("RoPE sees differences of places alone", () => {
    fc.assert(
      fc.property(
        withRope.filter(({ manifest }) => manifest.prefixTokens === 0),
        (model) => {
          const { rows, columns } = model.manifest.rope!;
          const rope = {
            rows: [rows[0] + 3, rows[1]],
            columns: [columns[0] - 2, columns[1]],
          } as typeof model.manifest.rope;
          const moved = { ...model, manifest: { ...model.manifest, rope } };
          // What merges is chosen by turned keys, so the pairs are those of the first.
          const pixels = randomPixels(model.manifest, 1);
          const expected = forward(model, pixels, { explain: true });
          const actual = forward(moved, pixels, { forcedPairs: expected.pairs });
          expectClose(actual.features, expected.features, 5e-5);
        },
      ),
      { numRuns: 20, seed: 2 },
    );
  });

  test("relative biases of zero equal none", () => {
    fc.assert(
      fc.property(withBias, (model) => expectSame(withTensors(model, /rel_bias/, zeros), learned(model), 0)),
      { numRuns: 30, seed: 3 },
    );
  });

  test("relative biases that are all one number cancel in the softmax", () => {
    fc.assert(
      fc.property(withBias, (model) =>
        expectSame(
          withTensors(model, /rel_bias/, (length) => zeros(length).fill(3)),
          learned(model),
          2e-5,
        ),
      ),
      { numRuns: 30, seed: 4 },
    );
  });
});

describe("explain", () => {
  test("is the class token's attention, or the mean over all tokens where there is none; it sums to 1", () => {
    for (const arch of Object.values(FAMILY)) {
      const { attention } = forward(randomModel(arch, 2), randomPixels(arch, 2), { explain: true });
      for (const map of attention!) expect(map.reduce((a, b) => a + b, 0)).toBeCloseTo(1, 5);
    }
  });
});

describe("operations of the family", () => {
  // PyTorch's functional.gelu(approximate="tanh"), silu, relu and x sigmoid(1.702 x) are these functions.
  test.each<[Activation, number, number]>([
    ["gelu", 0.8413447460685429, -0.15865525393145707],
    ["gelu_tanh", 0.8411919906082768, -0.15880800939172324],
    ["quick_gelu", 0.8457957659328212, -0.15420423406717884],
    ["silu", 0.7310585786300049, -0.2689414213699951],
    ["relu", 1, 0],
  ])("%s(1) and %s(−1)", (kind, one, minusOne) => {
    expectClose(activate(Float32Array.of(1, -1, 0), kind), [one, minusOne, 0], 1e-7);
  });

  test("gated units are act(gate) × value, gates first", () => {
    expect([...gatedUnits(Float32Array.of(1, -2, 10, 20, 3, 4, 5, 6), 2, "relu")]).toEqual([10, 0, 15, 24]);
    expect([...gatedUnits(new Float32Array(0), 0, "relu")]).toEqual([]);
  });

  test("a norm of what is left of a row counts the zeros that are not there", () => {
    const [weight, bias] = [Float32Array.of(2, 3), Float32Array.of(0.5, -1)];
    const whole = layerNorm(
      Float32Array.of(1, 4, 0, 0, 0),
      Float32Array.of(2, 3, 1, 1, 1),
      Float32Array.of(0.5, -1, 0, 0, 0),
      1e-3,
    );
    expectClose(layerNorm(Float32Array.of(1, 4), weight, bias, 1e-3, 5), whole.subarray(0, 2), 1e-6);
  });
});

describe("features", () => {
  test("a plain DeiT has none, and every feature is had by some of the family", () => {
    expect(featuresOf(FAMILY.DeiT)).toEqual([]);
    expect(featuresOf(FAMILY["DeiT, distilled"])).toEqual([]);
    const drawn = fc.sample(familyArchitecture(), { numRuns: 200, seed: 1 });
    expect(new Set(drawn.flatMap(featuresOf))).toEqual(new Set(ALL_FEATURES));
  });

  test("networks drawn for supported features have no others", () => {
    for (const supported of [
      [],
      ["merge"],
      ["rope", "registers"],
      ["swiglu", "hiddenNorm", "mapPooling"],
    ] as Feature[][]) {
      for (const arch of fc.sample(familyArchitecture(supported), { numRuns: 50, seed: 2 }))
        expect(featuresOf(arch).filter((feature) => !supported.includes(feature))).toEqual([]);
    }
  });

  test("the first one that is not supported is named", () => {
    expect(unsupportedFeature({ ...FAMILY.DeiT, ...PLAIN })).toBeUndefined();
    const merging = FAMILY["DINOv3, merging"];
    expect(unsupportedFeature(merging, ["registers", "rope"])).toBe("tokens that merge");
    expect(unsupportedFeature(merging, ["registers", "rope", "merge"])).toBeUndefined();
  });
});
