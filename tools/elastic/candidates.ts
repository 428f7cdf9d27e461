/** Networks that meet a budget: picture size × share of the MLP units, with as many merges as the budget still needs. */
import { SlimViTError } from "../../src/errors.ts";
import { countMacs, type Manifest, type Model, type Tensors } from "../../src/format/model.ts";
import { resizeModel } from "../checkpoints/resize.ts";
import { evenMerges, mergesFor, type Reaches, withMerges } from "../masks/mergeSchedule.ts";
import { cutToWidths } from "./cut.ts";
import { compensatedBias, keptUnits, type UnitStatistics } from "./units.ts";

/** The settings that make a variant. */
export interface Settings {
  imageSize: [number, number];
  /** of the MLP units */
  units: number;
}

export interface Candidate extends Settings {
  model: Model;
  macs: number;
  /** share of its MACs without merges that is left with them; the lower, the more is lost by merging */
  mergeShare: number;
}

export const UNIT_SHARES = [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4];

/**
 * Without pictures to measure on, merging is trusted down to this share of the MACs. Smaller pictures come next, then
 * fewer units.
 */
const TRUSTED_MERGES = 0.55;

/**
 * The network of these settings without merges, where that is small enough; else with merges of each form.
 *
 * @returns none where not even all merges reach the budget
 */
export function candidatesOf(
  whole: Model,
  statistics: UnitStatistics[],
  settings: Settings,
  macs: number,
): Candidate[] {
  const { manifest, tensors } = resizeModel(whole, settings.imageSize);
  const units = keptUnits(statistics, settings.units);
  const cut = { ...manifest, blocks: manifest.blocks.map((block, i) => ({ ...block, mlpHidden: units[i] })) };
  const classes = manifest.labels.length;
  const unmerged = withMerges(
    cut,
    cut.blocks.map(() => 0),
  );
  const unmergedMacs = countMacs(unmerged, classes);
  const own: Tensors = cutToWidths(tensors, manifest, unmerged);
  units.forEach((kept, i) => {
    const bias = compensatedBias(tensors, i, statistics[i], kept);
    if (bias) own.set(`blocks.${i}.mlp.fc2.bias`, bias);
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

/** Chooses by experience with DeiT: merges first, then smaller pictures, then fewer units. */
export function mostTrusted(candidates: Candidate[]): Candidate {
  const trusted = candidates.filter(({ mergeShare }) => mergeShare >= TRUSTED_MERGES);
  const area = ({ imageSize: [height, width] }: Candidate) => height * width;
  const byTrust = (a: Candidate, b: Candidate) => b.units - a.units || area(b) - area(a) || b.mergeShare - a.mergeShare;
  if (trusted.length) return trusted.sort(byTrust)[0];
  return candidates.sort((a, b) => b.mergeShare - a.mergeShare || byTrust(a, b))[0];
}
