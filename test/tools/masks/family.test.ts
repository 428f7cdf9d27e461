/** Masks over the whole family: what a search computes at ζ = 0 is what compress leaves, in any network. */
import fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import {
  type Architecture,
  countMacs,
  countParams,
  denseTokens,
  type Model,
  tokenCounts,
} from "../../../src/format/model.ts";
import { type MergePairs, forward as plainForward } from "../../../src/reference/forward.ts";
import { type ForwardOptions, forward, type Weights } from "../../../src/tfjs/forward.ts";
import type { Tensor, TF } from "../../../src/tfjs/ops.ts";
import { allocate } from "../../../tools/masks/allocate.ts";
import { againstMasked, foldTensors } from "../../../tools/masks/fold.ts";
import {
  type BlockMask,
  type BlockZeta,
  blockZetas,
  channelStep,
  cutTensors,
  foldZeta,
  hardenMasks,
  MASK_MODES,
  type MaskMode,
  mergesTokens,
  patchOptions,
  slimArchitecture,
  zetaShapes,
} from "../../../tools/masks/masks.ts";
import { openBackend } from "../../../tools/training/backend.ts";
import { weightsOnBackend } from "../../../tools/training/teacher.ts";
import { familyArchitecture } from "../../family.ts";
import { CLASSES, expectClose, randomModel, randomPixels, randomValues } from "../../helpers.ts";

let tf: TF;
beforeAll(async () => {
  ({ tf } = await openBackend("tfjs-node"));
});

interface Searched {
  model: Model;
  mode: MaskMode;
  zetas: Map<string, { shape: number[]; data: Float32Array }>;
  seed: number;
}

/** Dense networks of the family with masks from −1 to 2, a third of them zero. One that merges keeps all its patches. */
const searched: fc.Arbitrary<Searched> = fc
  .record({
    arch: familyArchitecture(),
    mode: fc.constantFrom(...MASK_MODES),
    seed: fc.integer({ min: 0, max: 1e6 }),
  })
  .map(({ arch, mode, seed }) => {
    const keepIdx = [...Array(denseTokens(arch)).keys()];
    const shape = { headDims: [arch.headDim, arch.headDim], mlpHidden: arch.hiddenNorm ?? 8, keepIdx };
    const merges = mergesTokens(arch);
    const blocks = arch.blocks.map((block) => ({ ...shape, merge: merges ? block.merge : 0 }));
    const counts = tokenCounts({ blocks });
    blocks.forEach((block, i) => {
      block.merge = Math.min(block.merge, Math.floor((counts[i].entering - arch.prefixTokens) / 2));
    });
    const dense = { ...arch, blocks };
    const zetas = new Map(
      [...zetaShapes(dense, mode)].map(([name, of], k) => {
        const values = randomValues(
          of.reduce((a, b) => a * b, 1),
          seed + k,
        );
        return [name, { shape: of, data: values.map((v) => (v < -0.34 ? 0 : 1.5 * v + 0.5)) }];
      }),
    );
    return { model: randomModel(dense, seed), mode, zetas, seed };
  });

const plainZetas = ({ model, mode, zetas }: Searched): BlockZeta[] =>
  blockZetas(model.manifest, mode, (name) => zetas.get(name)!.data);

/** What is not zero stays; a block that merges keeps a channel in any case. */
function masksOf({ model: { manifest } }: Searched, zetas: BlockZeta[]): BlockMask[] | undefined {
  const masks = zetas.map(({ attn, mlp }) => ({
    attn: [...attn].map((v) => v !== 0),
    mlp: [...mlp].map((v) => v !== 0),
    tokens: Array<boolean>(denseTokens(manifest)).fill(true),
  }));
  const isSound = manifest.blocks.every(({ merge }, i) => !merge || masks[i].attn.some(Boolean));
  return isSound ? masks : undefined;
}

function run(model: Model, pixels: Float32Array, more: ForwardOptions & { zetas?: Searched["zetas"] } = {}) {
  const { zetas, ...options } = more;
  return tf.tidy(() => {
    const weights: Weights = weightsOnBackend(tf, model);
    const named =
      zetas && new Map([...zetas].map(([name, { shape, data }]) => [name, tf.tensor(data, shape) as Tensor]));
    const used = named ? foldZeta(tf, model.manifest, weights, named) : weights;
    const batch = tf.tensor4d(pixels, [1, 3, ...model.manifest.imageSize]);
    const { logits, features } = forward(tf, model.manifest, used, batch, options);
    return { logits: [...logits.dataSync()], features: [...features.dataSync()] };
  });
}

describe("over random members of the family", () => {
  const RUNS = { numRuns: 120, seed: 21 };

  test("masks folded on a backend are those folded in plain loops", () => {
    fc.assert(
      fc.property(searched, (drawn) => {
        const folded = foldTensors(drawn.model, plainZetas(drawn));
        const named = new Map([...drawn.zetas].map(([name, z]) => [name, tf.tensor(z.data, z.shape) as Tensor]));
        const weights = weightsOnBackend(tf, drawn.model);
        const onBackend = foldZeta(tf, drawn.model.manifest, weights, named);
        for (const [name, { data }] of folded)
          expectClose(onBackend.get(name)!.dataSync(), data as Float32Array, 1e-6, name);
        tf.dispose([...weights.values(), ...onBackend.values(), ...named.values()]);
      }),
      RUNS,
    );
  });

  test("a search at ζ = 0 computes what compress leaves: channels, heads and units", () => {
    let compared = 0;
    fc.assert(
      fc.property(searched, (drawn) => {
        const zetas = plainZetas(drawn);
        const masks = masksOf(drawn, zetas);
        if (!masks) return;
        compared++;
        const { manifest } = drawn.model;
        const slim: Model = {
          manifest: slimArchitecture(manifest, masks),
          dtype: "f32",
          tensors: cutTensors(manifest, foldTensors(drawn.model, zetas), masks),
        };
        const pixels = randomPixels(manifest, drawn.seed);
        const { pairs, logits, features } = plainForward(slim, pixels, { explain: true });
        const soft = run(drawn.model, pixels, { zetas: drawn.zetas, forcedPairs: pairs });
        const scale = Math.max(1, ...features.map(Math.abs), ...logits.map(Math.abs));
        expectClose(soft.features, features, 1e-4 * scale, "features");
        expectClose(soft.logits, logits, 1e-4 * scale, "logits");
        expect(againstMasked(drawn.model, foldTensors(drawn.model, zetas), masks, slim)).toBeLessThan(1e-4 * scale);
      }),
      RUNS,
    );
    expect(compared).toBeGreaterThan(100);
  });

  test("tokens whose score gates are 0 are as good as gone, from the pooling too", () => {
    fc.assert(
      fc.property(
        searched.filter(({ model }) => !mergesTokens(model.manifest)),
        fc.boolean(),
        (drawn, unites) => {
          const { manifest } = drawn.model;
          const { prefixTokens } = manifest;
          const raw = manifest.blocks.map((block, i) =>
            block.keepIdx.map((token) => token === prefixTokens || ((token * 7 + drawn.seed + i) % 5) / 4 > 0.4),
          );
          const rule = unites ? ("union" as const) : ("intersect" as const);
          const isLeft = (token: number, i: number) =>
            token < prefixTokens ||
            (unites ? raw.slice(i).some((kept) => kept[token]) : raw.slice(0, i + 1).every((kept) => kept[token]));
          const lists = raw.map((kept, i) => [...kept.keys()].filter((token) => isLeft(token, i)));
          const blocks = manifest.blocks.map((block, i) => ({ ...block, keepIdx: lists[i] }));
          const pixels = randomPixels(manifest, drawn.seed);
          const expected = plainForward({ ...drawn.model, manifest: { ...manifest, blocks } }, pixels);
          const gates = tf.tidy(() => {
            const on = raw.map((kept) => tf.tensor1d(Float32Array.from(kept, Number)) as Tensor);
            const { scoreGates, poolGates } = patchOptions(tf, manifest, on, "score", rule);
            return { scoreGates: scoreGates!, ...(poolGates && { poolGates }) };
          });
          const soft = run(drawn.model, pixels, gates);
          const scale = Math.max(1, ...expected.features.map(Math.abs), ...expected.logits.map(Math.abs));
          expectClose(soft.features, expected.features, 2e-4 * scale, "features");
          expectClose(soft.logits, expected.logits, 2e-4 * scale, "logits");
        },
      ),
      RUNS,
    );
  });

  test.each(["macs", "params"] as const)(
    "one target of %s is met by what is counted, and leaves a sound network",
    (cost) => {
      fc.assert(
        fc.property(searched, fc.constantFrom(0.4, 0.6, 0.85), (drawn, share) => {
          const { manifest } = drawn.model;
          const classes = manifest.head ? CLASSES : 0;
          const count = cost === "macs" ? countMacs : countParams;
          const importance = plainZetas(drawn).map((zeta) => ({
            attn: zeta.attn.map(Math.abs),
            mlp: zeta.mlp.map(Math.abs),
            patch: zeta.patch.map(Math.abs),
          }));
          const frozen = { attn: false, mlp: false, patch: mergesTokens(manifest) };
          const dense = count(manifest, classes);
          const masks = allocate(manifest, drawn.mode, importance, frozen, dense, share, cost);
          const slim = slimArchitecture(manifest, masks);
          expectSound(slim);
          const least = slimArchitecture(manifest, allocate(manifest, drawn.mode, importance, frozen, dense, 0, cost));
          const left = count(slim, classes) / dense;
          if (left > share) expect(count(slim, classes)).toBe(count(least, classes)); // nothing more may go
        }),
        RUNS,
      );
    },
  );

  test("budgets of any kind leave a sound network", () => {
    const budget = fc.constantFrom(0, 0.02, 0.3, 0.7, 1);
    fc.assert(
      fc.property(
        searched,
        fc.record({ attn: budget, mlp: budget, patch: budget }),
        fc.constantFrom("union" as const, "intersect" as const),
        (drawn, budgets, rule) => {
          const { manifest } = drawn.model;
          const patch = mergesTokens(manifest) ? 1 : budgets.patch;
          const options = { mode: drawn.mode, rule };
          const zetas = plainZetas(drawn);
          expectSound(slimArchitecture(manifest, hardenMasks(manifest, zetas, { ...budgets, patch }, options).blocks));
        },
      ),
      RUNS,
    );
  });

  /** What the format asks of blocks. */
  function expectSound(arch: Architecture): void {
    const counts = tokenCounts(arch);
    arch.blocks.forEach(({ headDims, keepIdx, merge }, i) => {
      for (const width of headDims) expect(width % channelStep(arch)).toBe(0);
      if (merge) expect(headDims.length).toBeGreaterThan(0);
      if (i) for (const token of keepIdx) expect(arch.blocks[i - 1].keepIdx).toContain(token);
      expect(counts[i].entering).toBeGreaterThan(0);
    });
    if (arch.pooling !== "class") expect(arch.blocks.at(-1)!.keepIdx.length).toBeGreaterThan(arch.prefixTokens);
  }
});

test("a search that merges computes the pairs of what is cut from it", () => {
  const all: MergePairs[] = [];
  fc.assert(
    fc.property(
      searched.filter(({ model }) => mergesTokens(model.manifest)),
      (drawn) => {
        const zetas = plainZetas(drawn);
        const masks = masksOf(drawn, zetas);
        if (!masks) return;
        const { manifest } = drawn.model;
        const tensors = cutTensors(manifest, foldTensors(drawn.model, zetas), masks);
        const pixels = randomPixels(manifest, drawn.seed);
        const slim = slimArchitecture(manifest, masks);
        const pairs = plainForward({ manifest: slim, dtype: "f32", tensors }, pixels, { explain: true }).pairs!;
        const whole = { ...drawn.model, tensors: foldTensors(drawn.model, zetas) };
        expect(plainForward(whole, pixels, { explain: true }).pairs).toEqual(pairs);
        all.push(...pairs);
      },
    ),
    { numRuns: 40, seed: 22 },
  );
  expect(all.flat().length).toBeGreaterThan(50);
});
