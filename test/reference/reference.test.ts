import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { openReference } from "../../src/engines/reference/engine.ts";
import type { Architecture } from "../../src/format/model.ts";
import { forward } from "../../src/reference/forward.ts";
import { attention, erf, gelu, layerNorm, linear } from "../../src/reference/ops.ts";
import { type Cut, cut, expectClose, randomModel, randomPixels, readGolden, slimArchitecture } from "../helpers.ts";
import { plainForward } from "../plain.ts";

const golden = readGolden();

describe("forward gives PyTorch's logits for the golden network", () => {
  test.each(golden.cases)("cut by $name", ({ cuts, logits }) => {
    const model = cut(golden.model, cuts);
    golden.images.forEach((pixels, i) => {
      expectClose(forward(model, pixels).logits, logits[i], 1e-5, `picture ${i}`);
    });
  });
});

describe("forward", () => {
  test("averages the logits of both heads of a distilled network", () => {
    const model = randomModel(
      { ...golden.model.manifest, prefixTokens: 2, distilled: true, blocks: [block([0, 1, 5])] },
      1,
    );
    const pixels = randomPixels(model.manifest, 1);
    const { logits } = forward(model, pixels);
    const half = (silent: string) => {
      const tensors = new Map(model.tensors);
      for (const key of [`${silent}.weight`, `${silent}.bias`]) {
        const { data, ...rest } = tensors.get(key)!;
        tensors.set(key, { ...rest, data: new Float32Array(data.length) });
      }
      return forward({ ...model, tensors }, pixels).logits;
    };
    const head = half("head_dist");
    const distilled = half("head");
    expectClose(
      logits,
      head.map((v, i) => v + distilled[i]),
      1e-6,
    );
  });

  test("explains each block by the class token's attention, which sums to 1", () => {
    const blocks = [block([0, 1, 4, 6]), { ...block([0, 4]), headDims: [] }, block([0])];
    const model = randomModel({ ...golden.model.manifest, blocks }, 2);
    const { attention: maps } = forward(model, randomPixels(model.manifest, 1), { explain: true });
    expect(maps!.map((map) => map.length)).toEqual([4, 0, 1]);
    for (const i of [0, 2]) expect(maps![i].reduce((a, b) => a + b, 0)).toBeCloseTo(1, 6);
  });

  test("times each block when asked, and stops when aborted", () => {
    const pixels = golden.images[0];
    expect(forward(golden.model, pixels, { profile: true }).blockMs).toHaveLength(4);
    expect(forward(golden.model, pixels).blockMs).toBeUndefined();
    expect(() => forward(golden.model, pixels, { signal: AbortSignal.abort() })).toThrow(
      expect.objectContaining({ code: "aborted" }),
    );
  });

  test("as an engine sees an abort whose message comes during the run", async () => {
    const engine = await openReference(golden.model);
    const controller = new AbortController();
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => controller.abort();
    port2.postMessage("abort");
    const run = engine.run(golden.images[0], { signal: controller.signal });
    await expect(run).rejects.toMatchObject({ code: "aborted" });
    port1.close();
  });

  function block(keepIdx: number[]) {
    return { headDims: [16, 3], mlpHidden: 7, keepIdx, merge: 0 };
  }
});

describe("cutting equals multiplying by zero", () => {
  // A dense network and what to keep of it; `slimArchitecture` already knows how keep-lists nest.
  const dense = slimArchitecture().chain((arch) => {
    const flags = (length: number) => fc.array(fc.boolean(), { minLength: length, maxLength: length });
    const headDims = [arch.headDim, arch.headDim, arch.headDim];
    const keepIdx = [
      ...Array((arch.imageSize[0] * arch.imageSize[1]) / arch.patchSize ** 2 + arch.prefixTokens).keys(),
    ];
    const shape = { headDims, mlpHidden: 8, keepIdx, merge: 0 };
    const cuts = arch.blocks.map((kept) =>
      fc.record({ heads: fc.tuple(...headDims.map(flags)), units: flags(8), keepIdx: fc.constant(kept.keepIdx) }),
    );
    return fc.record({
      arch: fc.constant<Architecture>({ ...arch, blocks: arch.blocks.map(() => shape) }),
      cuts: fc.tuple(...cuts) as fc.Arbitrary<Cut[]>,
      seed: fc.integer({ min: 0, max: 1e6 }),
    });
  });
  const everything = ({ blocks }: Architecture, part: Partial<Cut>[]): Cut[] =>
    blocks.map(({ headDims, mlpHidden, keepIdx }, i) => ({
      heads: headDims.map((width) => Array(width).fill(true)),
      units: Array(mlpHidden).fill(true),
      keepIdx,
      ...part[i],
    }));

  test.each<[string, (cut: Cut) => Partial<Cut>]>([
    ["channels", ({ heads }) => ({ heads })],
    ["whole heads", ({ heads }) => ({ heads: heads.map((head) => head.map(() => head[0])) })],
    ["MLP units", ({ units }) => ({ units })],
    ["tokens", ({ keepIdx }) => ({ keepIdx })],
    ["all of them", (all) => all],
  ])("%s", (_, part) => {
    fc.assert(
      fc.property(dense, ({ arch, cuts, seed }) => {
        const model = randomModel(arch, seed);
        const pixels = randomPixels(arch, seed);
        const kept = everything(arch, cuts.map(part));
        expectClose(forward(cut(model, kept), pixels).logits, plainForward(model, pixels, kept).logits, 1e-5);
      }),
      { numRuns: 60 },
    );
  });
});

describe("operations", () => {
  // by mpmath, 40 digits
  test.each([
    [0, 0.0],
    [1e-10, 1.1283791670955126e-10],
    [0.1, 0.1124629160182849],
    [0.5, 0.5204998778130465],
    [1, 0.8427007929497149],
    [1.5, 0.9661051464753108],
    [2, 0.9953222650189527],
    [2.4999, 0.9995928300996666],
    [2.5, 0.999593047982555],
    [2.5001, 0.9995932657565293],
    [3, 0.9999779095030014],
    [3.5, 0.9999992569016276],
    [4, 0.9999999845827421],
    [5, 0.9999999999984626],
    [5.9, 0.9999999999999999],
    [6, 1.0],
    [6.5, 1.0],
    [30, 1.0],
  ])("erf(%d) is %d", (x, expected) => {
    expect(Math.abs(erf(x) - expected)).toBeLessThan(1e-14);
    expect(erf(-x)).toBe(-erf(x));
  });

  test("gelu runs from 0 to x", () => {
    expect([...gelu(Float32Array.of(-20, 0, 20))]).toEqual([-0, 0, 20]);
    expectClose(gelu(Float32Array.of(1, -1)), [0.8413447460685429, -0.15865525393145707], 1e-7); // Φ(1), −Φ(−1)
  });

  test("linear without inputs gives its bias in every row", () => {
    expect([...linear(new Float32Array(0), new Float32Array(0), Float32Array.of(1, 2), 3)]).toEqual([1, 2, 1, 2, 1, 2]);
    expect([...linear(Float32Array.of(1, 2), new Float32Array(0), new Float32Array(0), 1)]).toEqual([]);
  });

  test("linear is x Wᵀ + b", () => {
    const y = linear(
      Float32Array.of(1, 2, 3, 4),
      Float32Array.of(1, 10, 2, 20, 3, 30),
      Float32Array.of(100, 200, 300),
      2,
    );
    expect([...y]).toEqual([121, 242, 363, 143, 286, 429]);
  });

  test("layerNorm uses the biased variance", () => {
    const y = layerNorm(Float32Array.of(1, 3, 5, 5), Float32Array.of(2, 10), Float32Array.of(0.5, 0), 0);
    expect([...y.subarray(0, 2)]).toEqual([-1.5, 10]);
    expect([...layerNorm(Float32Array.of(5, 5), Float32Array.of(2, 10), Float32Array.of(0.5, 0), 1e-6)]).toEqual([
      0.5, 0,
    ]);
  });

  test("attention over two tokens and two heads of unequal width, worked by hand", () => {
    // Scale 1. Head 0 (width 1): q·k = [0 ln3; 0 0]. Head 1 (width 2): all scores 0.
    const qkv = Float32Array.of(
      ...[1, 0, 0, /* k */ 0, 5, 6, /* v */ 4, 1, 2],
      ...[0, 0, 0, /* k */ Math.log(3), 7, 8, /* v */ 8, 3, 6],
    );
    const map = new Float32Array(2);
    const y = attention(qkv, [1, 2], 1, 2, { map });
    expectClose(y, [7, 2, 4, 6, 2, 4], 1e-6); // 4/4 + 8·3/4; means elsewhere
    expectClose(map, [0.375, 0.625], 1e-7); // ([1/4 3/4] + [1/2 1/2]) / 2
  });

  test("attention survives scores that overflow exp", () => {
    const y = attention(Float32Array.of(1000, 1000, 1, 0, -1000, 2), [1], 1, 2);
    expect([...y].every(Number.isFinite)).toBe(true);
    expect(y[0]).toBe(1);
  });
});
