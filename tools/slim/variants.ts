/** With --elastic: the smaller and larger neighbours of the chosen model, as variants of one folder. */
import { countMacs, type Model, type WeightsDtype } from "../../src/format/model.ts";
import { encodeTensors } from "../../src/format/write.ts";
import type { ElasticVariant } from "../elastic/folder.ts";
import type { AccuracyRecord } from "../models/metrics.ts";

/** One of several models with the same widths, whose tensors differ in the head and the positions alone. */
export interface Member {
  /** its tensors in f32 */
  model: Model;
  /** on val */
  top1: number;
  isTaken: boolean;
  isDense: boolean;
  /** empty without labels */
  accuracy: AccuracyRecord[];
}

/** @returns the smallest first, without those that a smaller one equals in top-1; what was taken and the dense model stay */
export function unbeaten(members: Member[]): Member[] {
  const sorted = [...members].sort((a, b) => macsOf(a) - macsOf(b) || b.top1 - a.top1);
  return sorted.filter(
    (one, k) => one.isTaken || one.isDense || sorted.slice(0, k).every((smaller) => smaller.top1 < one.top1),
  );
}

/** @param members the smallest first; each is called by its share of the dense model's MACs, "macs-58", and of one name one stays */
export function variantsOf(members: Member[], denseMacs: number): ElasticVariant[] {
  const byName = new Map<string, Member>();
  for (const one of members) {
    const name = `macs-${Math.round((100 * macsOf(one)) / denseMacs)}`;
    if (!byName.has(name) || one.isTaken) byName.set(name, one);
  }
  return [...byName].map(
    ([
      name,
      {
        model: { manifest, tensors },
        accuracy,
      },
    ]) => ({
      name,
      manifest: { ...manifest, metrics: accuracy.length ? { accuracy } : {} },
      tensors: (dtype: WeightsDtype) => encodeTensors(tensors, dtype),
    }),
  );
}

const macsOf = ({ model: { manifest } }: Member) => countMacs(manifest, manifest.labels.length);
