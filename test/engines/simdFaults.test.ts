import v8 from "node:v8";
import { expect, test } from "vitest";
import type { Engine, RunOutput } from "../../src/engines/engine.ts";
import { openFlavour } from "../../src/engines/simd/engine.ts";
import * as L from "../../src/engines/simd/layout.ts";
import type { Plan } from "../../src/engines/simd/plan.ts";
import { forward } from "../../src/reference/forward.ts";
import { FAMILY } from "../family.ts";
import { expectClose, randomModel, randomPixels } from "../helpers.ts";

// As in simd.test.ts: the relaxed binary on Node 20, before anything is compiled.
v8.setFlagsFromString("--experimental-wasm-relaxed-simd");
v8.setFlagsFromString("--no-liftoff");

interface Inside {
  memory: WebAssembly.Memory;
  plan: Plan;
}

/** The words that the kernels read of an open engine. */
function wordsOf(engine: Engine): { plan: Int32Array; block(i: number): Int32Array; at(address: number): Int32Array } {
  const { memory, plan } = engine as unknown as Inside;
  const at = (address: number) => new Int32Array(memory.buffer, address);
  const words = at(plan.at);
  return { plan: words, at, block: (i) => at(words[L.PLAN_BLOCK_TABLE] + i * L.BLOCK_WORDS * 4) };
}

type Words = ReturnType<typeof wordsOf>;
const epsOf = (words: Words, norm: number) => new Float32Array(words.at(norm).buffer, norm + L.NORM_EPS * 4, 1);

/** Each of them is a fault that kernels could have; the comparisons of simdFamily.test.ts must not let it pass. */
const FAULTS: [string, keyof typeof FAMILY, (words: Words) => void][] = [
  ["sizes are not added to scores", "DeiT, merging", ({ block }) => void (block(1)[L.BLOCK_LOG_SIZES] = 0)],
  ["a second merge forgets sizes", "DeiT, merging", ({ block }) => void (block(1)[L.BLOCK_SIZES] = 0)],
  ["the mean forgets sizes", "EVA-02", ({ block }) => void (block(2)[L.BLOCK_MLP_SIZES] = 0)],
  ["attention pooling forgets sizes", "SigLIP", ({ block }) => void (block(2)[L.BLOCK_MLP_LOG_SIZES] = 0)],
  ["norm_pre is left out", "CLIP", ({ plan }) => void (plan[L.PLAN_PRE_NORM] = 0)],
  ["tanh's GELU is the quick one", "SigLIP", ({ plan }) => void (plan[L.PLAN_ACTIVATION] = L.ACTIVATION_QUICK_GELU)],
  ["the pool's GELU is ReLU", "SigLIP", ({ plan }) => void (plan[L.PLAN_POOL_ACTIVATION] = L.ACTIVATION_RELU)],
  ["quick GELU is SiLU", "CLIP", ({ plan }) => void (plan[L.PLAN_ACTIVATION] = L.ACTIVATION_SILU)],
  ["SiLU is ReLU", "EVA-02", ({ plan }) => void (plan[L.PLAN_ACTIVATION] = L.ACTIVATION_RELU)],
  ["features keep their length", "CLIP, zero-shot", ({ plan }) => void (plan[L.PLAN_COSINE] = 0)],
  ["tokens are not turned", "DINOv3", ({ block }) => void (block(2)[L.BLOCK_FREQUENCIES] = 0)],
  [
    "merged tokens keep old places",
    "DINOv3, merging",
    ({ block }) => void (block(1)[L.BLOCK_PLACES] = block(0)[L.BLOCK_PLACES]),
  ],
  [
    "heads share a table of relative positions",
    "BEiT",
    ({ at, block }) => {
      const heads = at(block(0)[L.BLOCK_HEAD_TABLE]);
      heads[L.HEAD_RELATIVE] = heads[L.HEAD_WORDS + L.HEAD_RELATIVE];
    },
  ],
  ["relative places are off by one", "BEiT", ({ plan }) => void plan[L.PLAN_RELATIVE_CENTRE]++],
  ["prefix tokens have another bias", "BEiT", ({ plan }) => void plan[L.PLAN_RELATIVE_PREFIX]--],
  ["fc_norm is left out", "EVA-02", ({ plan }) => void (plan[L.PLAN_POOLED_NORM] = 0)],
  [
    "the inner norm counts kept units",
    "EVA-02",
    ({ at, block }) => void at(block(1)[L.BLOCK_HIDDEN_NORM])[L.NORM_DENSE_DIM]--,
  ],
  ["the inner norm is left out", "EVA-02", ({ block }) => void (block(1)[L.BLOCK_HIDDEN_NORM] = 0)],
  [
    "q and k have norms of another epsilon",
    "norms of queries and keys",
    (words) => void (epsOf(words, words.block(0)[L.BLOCK_Q_NORM])[0] = 1e-6),
  ],
  [
    "norms of q count kept channels",
    "norms of queries and keys",
    ({ at, block }) => void at(block(1)[L.BLOCK_Q_NORM])[L.NORM_DENSE_DIM]--,
  ],
  [
    "k has q's norm",
    "norms of queries and keys",
    ({ block }) => void (block(0)[L.BLOCK_K_NORM] = block(0)[L.BLOCK_Q_NORM]),
  ],
  ["registers count as patches", "DINOv2 with registers", ({ plan }) => void plan[L.PLAN_PREFIX]--],
  ["the mean is the class token", "DINOv2 with registers", ({ plan }) => void (plan[L.PLAN_POOLING] = L.POOL_MEAN)],
  ["one pooling head attends for all", "SigLIP", ({ plan }) => void (plan[L.PLAN_POOL_PANELS] = 99)],
];

test.each(FAULTS)("the comparison notices a kernel in which %s", async (_, name, plant) => {
  const model = randomModel(FAMILY[name], 3);
  const pixels = randomPixels(model.manifest, 1);
  const { pairs, ...expected } = forward(model, pixels, { explain: true });
  const engine = await openFlavour(model, {}, "relaxed");
  try {
    const run = () => engine.run(pixels, { forcedPairs: pairs });
    const { logits, features } = expected;
    expectSame(await run(), { logits, features });
    plant(wordsOf(engine));
    const faulty = await run();
    expect(() => expectSame(faulty, { logits, features })).toThrow(/off by|values/);
  } finally {
    engine.dispose();
  }
});

function expectSame(actual: RunOutput, expected: RunOutput): void {
  expectClose(actual.logits, expected.logits, 1e-4, "logits");
  expectClose(actual.features, expected.features, 1e-4, "features");
}
