import { describe, expect, test } from "vitest";
import {
  type Architecture,
  countMacs,
  countParams,
  denseTokens,
  lastRows,
  PLAIN,
  tensorShapes,
  tokenCounts,
} from "../../src/format/model.ts";
import { FAMILY } from "../family.ts";
import { randomModel } from "../helpers.ts";
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

  test("of registers: each is a token of its own, with a position", () => {
    const plain = deit(192, 3);
    const registers = { ...plain, prefixTokens: 5 };
    expect(tensorShapes(registers, 1000).get("reg_token")).toEqual([1, 4, 192]);
    expect(tensorShapes(plain, 1000).has("reg_token")).toBe(false);
    expect(countParams(registers, 1000) - countParams(plain, 1000)).toBe(2 * 4 * 192);
  });

  test("of a slim network, by hand", () => {
    // 4 patches × 6 × 48; block 1: 5·6·18 + 2·25·6 + 5·6·6 + 2·5·6·5; block 2: 3·6·9 + 2·9·3 + 3·3·6 + 2·3·6·2; head 6·5
    expect(countMacs(arch, 5)).toBe(1152 + 540 + 300 + 180 + 300 + 162 + 54 + 54 + 72 + 30);
    const stored = [...model.tensors.values()].reduce((sum, { data }) => sum + data.length, 0);
    expect(countParams(arch, 5)).toBe(stored);
  });

  test("of a network that merges, by hand", () => {
    // 4 patches × 6 × 48; 5 tokens, 1 pair of 2 × 2 merges: 5·6·18 + 2·25·6 + 5·6·6 + 2·2·6, MLP of 4: 2·4·6·5;
    // then 4 tokens, no merge: 4·6·9 + 2·16·3 + 4·3·6 + 2·4·6·2; head 6·5
    const blocks = arch.blocks.map((block, i) => ({ ...block, keepIdx: arch.blocks[0].keepIdx, merge: i ? 0 : 1 }));
    expect(tokenCounts({ blocks })).toEqual([
      { entering: 5, mlp: 4 },
      { entering: 4, mlp: 4 },
    ]);
    const inBlocks = 540 + 300 + 180 + 24 + 240 + (216 + 96 + 72 + 96);
    expect(countMacs({ ...arch, blocks }, 5)).toBe(1152 + inBlocks + 30);
  });

  test("of SwiGLU, poolings, projection and head, beside those of a plain network", () => {
    const more = (changes: Partial<Architecture>) => countMacs({ ...arch, ...changes }, 5) - countMacs(arch, 5);
    expect(more({ mlp: "swiglu" })).toBe(5 * 6 * 5 + 3 * 6 * 2); // a gate for each unit
    expect(more({ pooling: "mean" })).toBe(0);
    expect(more({ pooling: "class+mean" })).toBe(6 * 5); // the head is twice as wide
    expect(more({ projection: 4 })).toBe(6 * 4 + 4 * 5 - 6 * 5);
    expect(more({ pooling: "class+mean", projection: 4 })).toBe(12 * 4 + 4 * 5 - 6 * 5);
    expect(more({ head: undefined })).toBe(-6 * 5);
    // 2 patches: scores of 3 queries, values, their sum; proj; MLP of 7 units
    expect(more({ pooling: "map", poolHeads: 3, poolHidden: 7 })).toBe(2 * 3 * 6 + 2 * 36 + 2 * 6 + 36 + 2 * 6 * 7);
    expect(more({ distilled: true })).toBe(6 * 5);
    expect(more({ qkNorm: true, preNorm: true, position: "rope", activation: "silu" })).toBe(0);
  });

  test("of tokens after lists and merges", () => {
    const block = (keepIdx: number[], merge: number) => ({ headDims: [4], mlpHidden: 5, keepIdx, merge });
    const blocks = [
      block([0, 1, 2, 3, 4, 5, 6], 0),
      block([0, 2, 3, 4, 6], 2),
      block([0, 2, 3, 4, 6], 1),
      block([0, 2, 3, 4, 6], 0),
    ];
    expect(tokenCounts({ blocks }).map(({ entering, mlp }) => [entering, mlp])).toEqual([
      [7, 7],
      [5, 3],
      [3, 2],
      [2, 2],
    ]);
    expect(lastRows({ ...arch, blocks })).toBe(1);
    expect(lastRows({ ...arch, blocks, distilled: true })).toBe(2);
    expect(lastRows({ ...arch, blocks, pooling: "mean" })).toBe(2);
  });

  test.each(Object.entries(FAMILY))("of parameters are of all tensors of %s", (_, of) => {
    const { tensors } = randomModel(of, 1);
    expect(countParams(of, 5)).toBe([...tensors.values()].reduce((sum, { data }) => sum + data.length, 0));
  });
});
