/** One small slim model, and the error that a spoilt file of it is refused with. */
import { expect } from "vitest";
import { type Architecture, PLAIN } from "../../src/format/model.ts";
import { randomModel } from "../helpers.ts";

/** 2×2 patches; the second block has dropped two of them */
export const arch: Architecture = {
  ...PLAIN,
  imageSize: [8, 8],
  patchSize: 4,
  embedDim: 6,
  headDim: 4,
  layerNormEps: 1e-6,
  prefixTokens: 1,
  blocks: [
    { headDims: [4, 2], mlpHidden: 5, keepIdx: [0, 1, 2, 3, 4], merge: 0 },
    { headDims: [3], mlpHidden: 2, keepIdx: [0, 2, 3], merge: 0 },
  ],
};

export const model = randomModel(arch, 1);

/** @param name the file's, as a regular expression */
export function refused(name: string, fault: RegExp) {
  return expect.objectContaining({
    name: "SlimViTError",
    code: "bad-model",
    message: expect.stringMatching(new RegExp(`^${name}: .*${fault.source}`)),
  });
}
