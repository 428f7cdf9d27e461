import { describe, expect, test } from "vitest";
import { type Architecture, countMacs, countParams, denseTokens, PLAIN } from "../../src/format/model.ts";
import { arch, model } from "./fixtures.ts";

describe("counts", () => {
  const deit = (embedDim: number, heads: number): Architecture => {
    const keepIdx = [...Array(197).keys()];
    const block = { headDims: Array<number>(heads).fill(64), mlpHidden: 4 * embedDim, keepIdx, merge: 0 };
    return {
      ...PLAIN,
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
