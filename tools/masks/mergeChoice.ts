/** Decides how much of a cut the masks make and how much tokens that merge do. A merge has no mask to learn, so pictures decide. */
import { openSimd } from "../../src/engines/simd/engine.ts";
import { SlimViTError } from "../../src/errors.ts";
import type { Architecture, Model } from "../../src/format/model.ts";
import { softmax } from "../../src/reference/scores.ts";
import { evalPixels, type Picture, spread } from "../data/data.ts";
import { klDivergence } from "../shared/divergence.ts";
import { percent, say } from "../shared/terminal.ts";
import type { CostOf } from "./costTarget.ts";
import { type BlockMask, cutTensors, slimArchitecture } from "./masks.ts";
import { mergesFor, withMerges } from "./mergeSchedule.ts";

/**
 * The masks' parts of the cut where tokens merge, in the logarithm of the cost. At ½, masks and merges leave the same
 * share.
 */
const MASK_PARTS = [0, 0.25, 0.5, 0.75];
const PICTURES = 96;

export interface CutWithMerges {
  masks: BlockMask[];
  /** pairs that each block merges */
  merges: number[];
}

export interface MergeChoice {
  /** the searched model, with ζ folded into its weights */
  whole: Model;
  costOf: CostOf;
  /** the cost to reach */
  goal: number;
  /** @throws SlimViTError `bad-option` where no masks leave so little */
  masksFor(goal: number, mayDropPatches: boolean): BlockMask[];
}

/**
 * Tries the masks alone, with keep-lists, and masks of channels and units beside tokens that merge.
 *
 * @returns the cut whose answers diverge least from the whole model's, in nats, on some of `pictures`
 * @throws SlimViTError `bad-option` where nothing reaches the goal
 */
export async function cutWithMerges(choice: MergeChoice, pictures: Picture[]): Promise<CutWithMerges> {
  const candidates = candidatesOf(choice);
  const { preprocess } = choice.whole.manifest;
  const pixels = await Promise.all(spread(pictures, PICTURES).map((picture) => evalPixels(picture, preprocess)));
  const wanted = await distributions(choice.whole, pixels);
  let best: { cut: CutWithMerges; divergence: number } | undefined;
  for (const { cut, words } of candidates) {
    const given = await distributions(cutModel(choice.whole, cut), pixels);
    const divergence = given.reduce((sum, one, k) => sum + klDivergence(wanted[k], one), 0) / given.length;
    say(`compress: ${words}: divergence ${divergence.toFixed(4)} on ${given.length} pictures`);
    if (!best || divergence < best.divergence) best = { cut, divergence };
  }
  return best!.cut;
}

function candidatesOf({ whole, costOf, goal, masksFor }: MergeChoice): { cut: CutWithMerges; words: string }[] {
  const arch: Architecture = whole.manifest;
  const none = arch.blocks.map(() => 0);
  const all = costOf(arch);
  const ways = [
    { words: "masks alone", make: () => ({ masks: masksFor(goal, true), merges: none }) },
    ...MASK_PARTS.map((part) => ({
      words: `masks to ${percent((goal / all) ** part)}, and tokens that merge`,
      make: () => {
        const masks = masksFor(all * (goal / all) ** part, false);
        const slim = slimArchitecture(arch, masks);
        return { masks, merges: mergesFor(slim, (merged) => costOf(merged) <= goal, "compress: the target") };
      },
    })),
  ];
  let fault: unknown;
  const candidates = ways.flatMap(({ words, make }) => {
    try {
      return [{ words, cut: make() }];
    } catch (error) {
      if (!(error instanceof SlimViTError && error.code === "bad-option")) throw error;
      fault ??= error; // the error of the masks alone, which says what is left
      return [];
    }
  });
  if (!candidates.length) throw fault;
  return candidates;
}

function cutModel({ manifest, tensors }: Model, { masks, merges }: CutWithMerges): Model {
  const slim = withMerges(slimArchitecture(manifest, masks), merges);
  return { manifest: slim, dtype: "f32", tensors: cutTensors(manifest, tensors, masks) };
}

/** Distributions over the classes; for an embedding model, over the numbers of its embedding. */
async function distributions(model: Model, pixels: Float32Array[]): Promise<Float64Array[]> {
  const engine = await openSimd(model, { threads: 1 });
  try {
    const found: Float64Array[] = [];
    for (const input of pixels) {
      const { logits, features } = await engine.run(input);
      found.push(softmax(logits.length ? logits : features));
    }
    return found;
  } finally {
    engine.dispose();
  }
}
