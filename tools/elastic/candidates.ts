/**
 * Networks that meet a budget: picture size × shares of the head channels and MLP units, with as many merges as the
 * budget still needs.
 */
import { SlimViTError } from "../../src/errors.ts";
import { countMacs, type Manifest, type Model, type Tensors } from "../../src/format/model.ts";
import { resizeModel } from "../checkpoints/resize.ts";
import { evenMerges, mergesFor, type Reaches, withMerges, withoutMerges } from "../masks/mergeSchedule.ts";
import { cutToWidths } from "./cut.ts";
import { type BlockStatistics, compensatedBiases, keptWidths, type WidthShares } from "./widths.ts";

/** The settings that make a variant. */
export interface Settings {
  imageSize: [number, number];
  widths: WidthShares;
}

export interface Candidate extends Settings {
  model: Model;
  macs: number;
  /** share of its MACs without merges that is left with them; the lower, the more is lost by merging */
  mergeShare: number;
}

const UNIT_SHARES = [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4];

/** Heads keep all channels, or half as large a share of them is removed as of the units. */
export const WIDTHS: WidthShares[] = UNIT_SHARES.flatMap((units) =>
  [...new Set([1, (1 + units) / 2])].map((channels) => ({ channels, units })),
);

/**
 * Without pictures to measure on, merging is trusted down to this share of the MACs. Smaller pictures come next, then
 * smaller widths.
 */
const TRUSTED_MERGES = 0.55;

/**
 * The network of these settings without merges, where that is small enough; else with merges of each form.
 *
 * @returns none where not even all merges reach the budget
 */
export function candidatesOf(
  whole: Model,
  statistics: BlockStatistics[],
  settings: Settings,
  macs: number,
): Candidate[] {
  const { manifest, tensors } = resizeModel(whole, settings.imageSize);
  const kept = keptWidths(manifest, statistics, settings.widths);
  const cut = { ...manifest, blocks: manifest.blocks.map((block, i) => ({ ...block, ...kept[i] })) };
  const classes = manifest.labels.length;
  const unmerged = withoutMerges(cut);
  const unmergedMacs = countMacs(unmerged, classes);
  const own: Tensors = cutToWidths(tensors, manifest, unmerged);
  kept.forEach((widths, i) => {
    for (const [key, bias] of compensatedBiases(tensors, manifest, i, statistics[i], widths)) own.set(key, bias);
  });
  return formsOf(unmerged, (merged) => countMacs(merged, classes) <= macs).map((merged) => {
    const count = countMacs(merged, classes);
    const model = { manifest: merged, dtype: whole.dtype, tensors: own };
    return { ...settings, model, macs: count, mergeShare: count / unmergedMacs };
  });
}

function formsOf(unmerged: Manifest, reaches: Reaches): Manifest[] {
  if (reaches(unmerged)) return [unmerged];
  const [usual, even] = [tryUsual(unmerged, reaches), evenMerges(unmerged, reaches)];
  const forms = String(usual) === String(even) ? [usual] : [usual, even];
  return forms.flatMap((merges) => (merges ? [withMerges(unmerged, merges)] : []));
}

function tryUsual(unmerged: Manifest, reaches: Reaches): number[] | undefined {
  try {
    return mergesFor(unmerged, reaches, "the budget");
  } catch (error) {
    if (error instanceof SlimViTError) return undefined;
    throw error;
  }
}

/** Chooses by experience with DeiT: merges first, then smaller pictures, then smaller widths. */
export function mostTrusted(candidates: Candidate[]): Candidate {
  const trusted = candidates.filter(({ mergeShare }) => mergeShare >= TRUSTED_MERGES);
  const areaOf = ({ imageSize: [height, width] }: Pick<Candidate, "imageSize">) => height * width;
  const byTrust = ({ widths: a, ...one }: Candidate, { widths: b, ...other }: Candidate) =>
    b.units - a.units || b.channels - a.channels || areaOf(other) - areaOf(one) || other.mergeShare - one.mergeShare;
  if (trusted.length) return trusted.sort(byTrust)[0];
  return candidates.sort((a, b) => b.mergeShare - a.mergeShare || byTrust(a, b))[0];
}
