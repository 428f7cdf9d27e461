/** dtype "auto": chooses which of a folder's weights to load. */
import { SlimViTError } from "../errors.ts";
import type { Manifest, WeightsDtype, WeightsFile } from "../format/model.ts";
import type { EngineName } from "../protocol.ts";

/** Weights to load, and why these. */
export interface WeightsChoice {
  weights: WeightsFile;
  reason: string;
}

/** Accuracy that may be lost for speed, as a fraction of 1. */
const ACCEPTED_LOSS = 0.005;
/** Tolerance for rounding, so that 0.795 counts as within 0.005 of 0.8. */
const ROUNDING = 1e-9;

/**
 * Fastest first. `simd` computes int8 2.4 times as fast as f16 (deit-tiny-slim, one thread). The other engines widen int8,
 * so there it is only the smaller file, and f16 is as fast and nearer to the trained weights.
 */
function bySpeed(engine: EngineName | "auto"): WeightsDtype[] {
  return engine === "simd" || engine === "auto" ? ["int8", "f16", "f32"] : ["f16", "f32", "int8"];
}

/**
 * @param name how messages call the manifest
 * @returns the preferred weights, then those to be tried if an engine computes wrong results with them
 * @throws SlimViTError `bad-option` for a dtype that the folder lacks, `bad-model` for a folder without weights
 */
export function chooseWeights(
  manifest: Manifest,
  dtype: WeightsDtype | "auto",
  engine: EngineName | "auto",
  name: string,
): WeightsChoice[] {
  const { weights } = manifest;
  const there = weights.map((entry) => entry.dtype).join(", ");
  if (!there) throw new SlimViTError("bad-model", `${name}: lists no weights; make some with "slimvit export".`);
  if (dtype !== "auto") {
    const found = weights.find((entry) => entry.dtype === dtype);
    if (found) return [{ weights: found, reason: "it was asked for" }];
    throw new SlimViTError("bad-option", `${name}: has no ${String(dtype)} weights; dtype can be "auto" or ${there}.`);
  }
  if (weights.length === 1) return [{ weights: weights[0], reason: "the folder has no other" }];
  const ordered = bySpeed(engine).flatMap((want) => weights.find((entry) => entry.dtype === want) ?? []);
  const measured = comparableAccuracies(manifest);
  if (!measured) {
    const reason = "the fastest here; the manifest has no measured accuracy to compare";
    return ordered.map((entry) => ({ weights: entry, reason }));
  }
  const best = Math.max(...measured.top1.values());
  const isGood = ({ dtype }: WeightsFile) =>
    (measured.top1.get(dtype) ?? Number.NEGATIVE_INFINITY) >= best - ACCEPTED_LOSS - ROUNDING;
  const percent = (top1: number | undefined) => (top1 === undefined ? "not measured" : `${(100 * top1).toFixed(1)} %`);
  const good = ordered.filter(isGood).map((entry) => ({
    weights: entry,
    reason:
      `the fastest here of those within ${100 * ACCEPTED_LOSS} points of the best measured accuracy ` +
      `(${percent(measured.top1.get(entry.dtype))} of ${percent(best)} on ${measured.on})`,
  }));
  const rest = ordered
    .filter((entry) => !isGood(entry))
    .map((entry) => ({
      weights: entry,
      reason: `others compute wrong results here; its accuracy: ${percent(measured.top1.get(entry.dtype))}`,
    }));
  return [...good, ...rest];
}

/** One entry of `metrics.accuracy`, as `slimvit eval --record` writes it. Any field may be missing. */
type AccuracyEntry = Partial<Record<"top1" | "n" | "data" | "split" | "dtype", unknown>>;

/**
 * Rounding f32 weights to f16 changes hardly any label, so a figure of one counts for the other. int8 has to be
 * measured.
 */
const ALIKE = [
  ["f16", "f32"],
  ["f32", "f16"],
] as const;

/** Accuracy by dtype, all on the same pictures: those on which most dtypes were measured. */
function comparableAccuracies({ metrics }: Manifest): { top1: Map<string, number>; on: string } | undefined {
  const bySet = new Map<string, { top1: Map<string, number>; on: string }>();
  const entries = Array.isArray(metrics.accuracy) ? (metrics.accuracy as AccuracyEntry[]) : [];
  for (const { top1, n, data, split, dtype } of entries) {
    if (typeof top1 !== "number" || typeof dtype !== "string") continue;
    const key = JSON.stringify([data, split, n]);
    const set = bySet.get(key) ?? { top1: new Map(), on: `${n} pictures of ${data}` };
    set.top1.set(dtype, Math.max(top1, set.top1.get(dtype) ?? 0));
    bySet.set(key, set);
  }
  const most = [...bySet.values()].sort((a, b) => b.top1.size - a.top1.size)[0];
  for (const [dtype, alike] of ALIKE) {
    const known = most?.top1.get(alike);
    if (known !== undefined && !most.top1.has(dtype)) most.top1.set(dtype, known);
  }
  return most;
}
