/** What the tests of engines share: small networks, and how outputs are compared. */
import { expect } from "vitest";
import type { Engine, RunOutput } from "../../src/engines/engine.ts";
import {
  type Architecture,
  type BlockShape,
  type Model,
  plainArchitecture,
  type WeightsDtype,
} from "../../src/format/model.ts";
import { encodeTensors } from "../../src/format/write.ts";
import { forward } from "../../src/reference/forward.ts";
import { expectClose, randomPixels } from "../helpers.ts";

export const range = (count: number): number[] => [...Array(count).keys()];

export const encode = (model: Model, dtype: WeightsDtype): Model => ({
  ...model,
  dtype,
  tensors: encodeTensors(model.tensors, dtype),
});

/** 4×3 patches, blocks as given */
export function architecture(...blocks: Partial<BlockShape>[]): Architecture {
  return plainArchitecture({
    imageSize: [16, 12],
    patchSize: 4,
    embedDim: 20,
    headDim: 8,
    layerNormEps: 1e-6,
    prefixTokens: 1,
    blocks: blocks.map((block) => ({ headDims: [8, 8], mlpHidden: 33, keepIdx: range(13), merge: 0, ...block })),
  });
}

/** The class token, and patches that are not beside one another. */
export const KEEP_SOME = [0, 2, 3, 7, 12];

/** What slimming leaves of a network, each once. */
export const slimCases: [string, Architecture][] = [
  ["dense", architecture({}, {})],
  ["a block without heads", architecture({ headDims: [] }, {})],
  ["a last block without heads", architecture({}, { headDims: [] })],
  ["a block without an MLP", architecture({ mlpHidden: 0 }, {})],
  ["a last block without an MLP", architecture({}, { mlpHidden: 0 })],
  ["nothing but biases", architecture({ headDims: [], mlpHidden: 0 }, { headDims: [], mlpHidden: 0 })],
  ["ragged heads", architecture({ headDims: [3, 8, 1] }, { headDims: [8, 2] })],
  ["patches never embedded", architecture({ keepIdx: KEEP_SOME }, { keepIdx: KEEP_SOME })],
  ["tokens dropped twice", architecture({}, { keepIdx: KEEP_SOME }, { keepIdx: [0, 7] }, { keepIdx: [0, 7] })],
  ["only the class token", architecture({ keepIdx: [0] }, { keepIdx: [0] })],
  [
    "distilled",
    { ...architecture({ keepIdx: range(14) }, { keepIdx: [0, 1, 2, 13] }), prefixTokens: 2, distilled: true },
  ],
  ["distilled, prefix tokens only", { ...architecture({ keepIdx: [0, 1] }), prefixTokens: 2, distilled: true }],
  ["a coarse layer norm", { ...architecture({}, {}), layerNormEps: 0.5 }],
  ["odd patches", { ...architecture({}, {}), imageSize: [28, 21], patchSize: 7 }],
];

export function expectSame(actual: RunOutput, expected: RunOutput, tolerance: number): void {
  expectClose(actual.logits, expected.logits, tolerance, "logits");
  expectClose(actual.features, expected.features, tolerance, "features");
  expect(actual.attention?.length).toBe(expected.attention?.length);
  expected.attention?.forEach((map, i) => {
    expectClose(actual.attention![i], map, tolerance, `attention of block ${i}`);
  });
}

/** 7×7 patches, of which 20 merge in two of three blocks. */
export const MERGING: Architecture = plainArchitecture({
  ...{ imageSize: [28, 28], patchSize: 4, embedDim: 48, headDim: 16, layerNormEps: 1e-6, prefixTokens: 1 },
  blocks: [12, 8, 0].map((merge) => ({
    ...{ headDims: [16, 12, 16], mlpHidden: 96, merge },
    keepIdx: range(50),
  })),
});

const bestOf = (logits: Float32Array): number => logits.indexOf(Math.max(...logits));

/**
 * An engine that chooses its pairs itself against the reference, on as many pictures. Pairs are compared in the first block
 * alone: after it the tokens of two different choices are not the same any more.
 *
 * @returns the share of the reference's pairs that it found, and on how many pictures the best class is the same
 */
export async function comparePairs(
  engine: Engine,
  model: Model,
  pictures: number,
): Promise<{ equalPairs: number; sameBest: number }> {
  let [equal, all, sameBest] = [0, 0, 0];
  for (let seed = 1; seed <= pictures; seed++) {
    const pixels = randomPixels(model.manifest, seed);
    const expected = forward(model, pixels, { explain: true });
    const actual = await engine.run(pixels, { explain: true });
    const found = new Map(actual.pairs![0]);
    equal += expected.pairs![0].filter(([a, b]) => found.get(a) === b).length;
    all += expected.pairs![0].length;
    if (bestOf(actual.logits) === bestOf(expected.logits)) sameBest++;
  }
  return { equalPairs: equal / all, sameBest };
}
