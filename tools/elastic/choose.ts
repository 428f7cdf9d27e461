/**
 * Chooses the network that meets each budget with the least divergence: candidates of all picture sizes and widths are
 * compared on pictures.
 */
import { openSimd } from "../../src/engines/simd/engine.ts";
import { SlimViTError } from "../../src/errors.ts";
import { countMacs, type Manifest, type Model } from "../../src/format/model.ts";
import { softmax } from "../../src/reference/scores.ts";
import { evalPixels, type Picture, spread } from "../data/data.ts";
import { CALIBRATION_PICTURES } from "../masks/compensate.ts";
import { withoutMerges } from "../masks/mergeSchedule.ts";
import { klDivergence } from "../shared/divergence.ts";
import { startProgress } from "../shared/progress.ts";
import { percent, say } from "../shared/terminal.ts";
import { freeThreads } from "../shared/threads.ts";
import { openBackend } from "../training/backend.ts";
import { type Candidate, candidatesOf, mostTrusted, WIDTHS } from "./candidates.ts";
import { type BlockStatistics, ordered, statisticsOfPictures, statisticsOfWeights } from "./widths.ts";

export interface ChoiceOptions {
  /** shares of the model's MACs */
  budgets: number[];
  /** sides of square pictures; default the model's and smaller ones in steps of a patch, down to five sevenths of it */
  sizes?: number[];
}

/**
 * Pictures for the first look at all candidates, and for the last look at those that are left. Units are ordered by
 * other pictures.
 */
const FIRST_PICTURES = 24;
const MOST_PICTURES = 384;

/**
 * Candidates with more merging than this are not tried: the share of the MACs that is left. Their divergence is low, but
 * smaller pictures name more of them right at the same MACs, untrained and trained (docs/experiments.md).
 */
const LEAST_MERGE_SHARE = 0.65;

/**
 * A network for each budget, the largest first; each has the widths of the one before, or smaller ones.
 *
 * @param model in f32
 * @param pictures to order channels and units by and to try candidates on
 */
export async function chooseVariants(model: Model, options: ChoiceOptions, pictures?: Picture[]): Promise<Candidate[]> {
  const known = pictures ? await statistics(model, pictures) : statisticsOfWeights(model);
  const { tensors, statistics: sorted } = ordered(model, known);
  const whole: Model = { ...model, tensors };
  const { manifest } = whole;
  const macs = countMacs(manifest, manifest.labels.length);
  const sides = sizesOf(manifest, options.sizes);
  const judge = pictures && (await judgeOf(whole, pictures));
  const chosen: Candidate[] = [];
  for (const budget of [...new Set(options.budgets)].sort((a, b) => b - a)) {
    const most = chosen.at(-1)?.widths ?? WIDTHS[0];
    const nested = WIDTHS.filter(({ units, channels }) => units <= most.units && channels <= most.channels);
    const all = distinct(
      sides.flatMap((imageSize) =>
        nested.flatMap((widths) => candidatesOf(whole, sorted, { imageSize, widths }, budget * macs)),
      ),
    );
    if (!all.length)
      throw new SlimViTError(
        "bad-option",
        `elastic: ${percent(budget)} of the MACs cannot be reached; give a larger budget, or --sizes with smaller pictures.`,
      );
    const one = judge ? await closest(plausible(all), judge, percent(budget)) : mostTrusted(plausible(all));
    if (chosen.some(({ macs }) => macs === one.macs))
      say(`elastic: ${percent(budget)}: the best network is the one of the budget above`);
    else chosen.push(one);
  }
  return chosen;
}

async function statistics(model: Model, pictures: Picture[]): Promise<BlockStatistics[]> {
  const { tf } = await openBackend();
  const { manifest, tensors } = model;
  const merged = manifest.blocks.some(({ merge }) => merge > 0);
  if (merged) say("elastic: channels and units are ranked by their effect in the model without merges");
  return statisticsOfPictures(tf, withoutMerges(manifest), tensors, pictures, manifest.preprocess);
}

/** Shares that round to the same widths make the same network; the first stays. */
function distinct(candidates: Candidate[]): Candidate[] {
  const keyOf = ({ imageSize, model }: Candidate) =>
    JSON.stringify([
      imageSize,
      model.manifest.blocks.map(({ headDims, mlpHidden, merge }) => [headDims, mlpHidden, merge]),
    ]);
  const byKey = new Map(candidates.toReversed().map((one) => [keyOf(one), one]));
  return candidates.filter((one) => byKey.get(keyOf(one)) === one);
}

/** Candidates that come close to the budget and still leave tokens to merge. */
function plausible(all: Candidate[]): Candidate[] {
  const most = Math.max(...all.map(({ macs }) => macs));
  const near = all.filter(({ macs, mergeShare }) => macs > 0.9 * most && mergeShare >= LEAST_MERGE_SHARE);
  return near.length ? near : all;
}

function sizesOf({ imageSize, patchSize }: Manifest, sizes?: number[]): [number, number][] {
  if (sizes) return sizes.map((side) => [side, side]);
  const least = imageSize.map((side) => (5 / 7) * side - patchSize / 2);
  const all: [number, number][] = [];
  for (let [height, width] = imageSize; height >= least[0] && height >= patchSize; height -= patchSize) {
    width = patchSize * Math.max(1, Math.round((imageSize[1] * height) / imageSize[0] / patchSize));
    all.push([height, width]);
  }
  return all;
}

/** Measures how far a network is from the whole one on some pictures. */
interface Judge {
  pictures: Picture[];
  wanted: Float64Array[];
  pixelsOf(k: number, manifest: Manifest): Promise<Float32Array>;
}

/** Pictures that widths were not ordered by, where there are enough. */
async function judgeOf(whole: Model, all: Picture[]): Promise<Judge> {
  const seen = new Set(spread(all, CALIBRATION_PICTURES));
  const others = all.filter((picture) => !seen.has(picture));
  const pictures = inTurn(spread(others.length >= FIRST_PICTURES ? others : all, MOST_PICTURES));
  const decoded = new Map<string, Promise<Float32Array>>();
  const pixelsOf = (k: number, { preprocess }: Manifest) => {
    const key = `${k} ${preprocess.crop}`;
    if (!decoded.has(key)) decoded.set(key, evalPixels(pictures[k], preprocess));
    return decoded.get(key)!;
  };
  const judge: Judge = { pictures, wanted: [], pixelsOf };
  judge.wanted = (await logitsOf(whole, judge, 0, pictures.length)).map((logits) => softmax(logits));
  return judge;
}

/** Reorders items so that the first ones are spread over all, too. */
function inTurn<T>(items: T[]): T[] {
  const stride = 7;
  return Array.from({ length: stride }, (_, first) => items.filter((__, k) => k % stride === first)).flat();
}

/**
 * The candidate whose answers diverge least from the whole model's. All are looked at on a few pictures; the better third of
 * them on three times as many, and so on.
 */
async function closest(candidates: Candidate[], judge: Judge, what: string): Promise<Candidate> {
  let left = candidates.map((one) => ({ one, logits: [] as Float32Array[], divergence: 0 }));
  for (let count = FIRST_PICTURES; ; count *= 3) {
    const until = Math.min(count, judge.pictures.length);
    const progress = startProgress(`variants of ${what} on ${until} pictures`, left.length);
    for (const [i, entry] of left.entries()) {
      entry.logits.push(...(await logitsOf(entry.one.model, judge, entry.logits.length, until)));
      entry.divergence = calibratedDivergence(judge.wanted, entry.logits);
      progress.update(i + 1, "");
    }
    progress.stop();
    left.sort((a, b) => a.divergence - b.divergence);
    if (until === judge.pictures.length || left.length === 1) break;
    left = left.slice(0, Math.ceil(left.length / 3));
  }
  for (const { one, divergence } of left.slice(0, 3))
    say(`elastic: ${what}: ${wordsOf(one)}: divergence ${divergence.toFixed(4)}`);
  return left[0].one;
}

const wordsOf = ({ imageSize, widths: { channels, units }, model, mergeShare }: Candidate) =>
  `${imageSize[1]}×${imageSize[0]} px, ${percent(channels)} of the head channels, ${percent(units)} of the units, merges ` +
  `${model.manifest.blocks.map(({ merge }) => merge).join(" ")} (${percent(mergeShare)} of the MACs left)`;

async function logitsOf(model: Model, judge: Judge, from: number, until: number): Promise<Float32Array[]> {
  if (from === until) return [];
  const engine = await openSimd(model, { threads: freeThreads() });
  try {
    const found: Float32Array[] = [];
    for (let k = from; k < until; k++) {
      const { logits, features } = await engine.run(await judge.pixelsOf(k, model.manifest));
      found.push(logits.length ? logits : features);
    }
    return found;
  } finally {
    engine.dispose();
  }
}

/** Values of the sharpness, 1 / temperature, that are tried. */
const SHARPNESS = Array.from({ length: 13 }, (_, k) => 2 ** ((k - 4) / 8));

/**
 * Mean divergence at the temperature at which it is least. A network that sees smaller pictures is less sure of the same
 * classes, which changes no answer and costs a training a few steps.
 *
 * @param wanted distributions of the whole model
 */
export function calibratedDivergence(wanted: Float64Array[], logits: Float32Array[]): number {
  const at = (sharpness: number) =>
    logits.reduce((sum, values, k) => sum + klDivergence(wanted[k], softmax(values.map((v) => v * sharpness))), 0) /
    logits.length;
  return Math.min(...SHARPNESS.map(at));
}
