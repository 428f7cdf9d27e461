/** Networks that meet a budget: picture size × share of the MLP units, and as many merges as are left to be saved. */
import { messageOf, SlimViTError } from "../../src/errors.ts";
import { countMacs, type Model, type Tensors } from "../../src/format/model.ts";
import { resizeModel } from "../checkpoints/resize.ts";
import { mergesFor, withMerges } from "../masks/mergeSchedule.ts";
import { cutToWidths } from "./cut.ts";
import { compensatedBias, keptUnits, type UnitStatistics } from "./units.ts";

/** What a variant is made by. */
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

/** Without pictures to try on, merging is trusted down to this share of the MACs; smaller pictures come next, then fewer units. */
const TRUSTED_MERGES = 0.55;

/** @returns undefined where not even all merges reach the budget */
export function candidate(
  whole: Model,
  statistics: UnitStatistics[],
  settings: Settings,
  macs: number,
): Candidate | undefined {
  const { manifest, tensors } = resizeModel(whole, settings.imageSize);
  const units = keptUnits(statistics, settings.units);
  const cut = { ...manifest, blocks: manifest.blocks.map((block, i) => ({ ...block, mlpHidden: units[i] })) };
  const classes = manifest.labels.length;
  const unmerged = withMerges(
    cut,
    cut.blocks.map(() => 0),
  );
  const unmergedMacs = countMacs(unmerged, classes);
  const merged = unmergedMacs <= macs ? unmerged : tryMerges(unmerged, macs, classes);
  if (!merged) return undefined;
  const own: Tensors = cutToWidths(tensors, manifest, merged);
  units.forEach((kept, i) => {
    const bias = compensatedBias(tensors, i, statistics[i], kept);
    if (bias) own.set(`blocks.${i}.mlp.fc2.bias`, bias);
  });
  const count = countMacs(merged, classes);
  return {
    ...settings,
    model: { manifest: merged, dtype: whole.dtype, tensors: own },
    macs: count,
    mergeShare: count / unmergedMacs,
  };
}

function tryMerges<M extends Model["manifest"]>(unmerged: M, macs: number, classes: number): M | undefined {
  try {
    return withMerges(
      unmerged,
      mergesFor(unmerged, (merged) => countMacs(merged, classes) <= macs, "the budget"),
    );
  } catch (error) {
    if (error instanceof SlimViTError) return undefined;
    throw new Error(messageOf(error));
  }
}

/** By what is known of DeiT: merges first, then smaller pictures, then fewer units. */
export function mostTrusted(candidates: Candidate[]): Candidate {
  const trusted = candidates.filter(({ mergeShare }) => mergeShare >= TRUSTED_MERGES);
  const area = ({ imageSize: [height, width] }: Candidate) => height * width;
  const byTrust = (a: Candidate, b: Candidate) => b.units - a.units || area(b) - area(a) || b.mergeShare - a.mergeShare;
  if (trusted.length) return trusted.sort(byTrust)[0];
  return candidates.sort((a, b) => b.mergeShare - a.mergeShare || byTrust(a, b))[0];
}
