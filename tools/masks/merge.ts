/**
 * slimvit merge MODEL --ratio R | --merge 4:12,5:12 | --latency-ms T -o OUT: the same weights with merging tokens. In
 * each block the pairs of patches with the most similar keys become one token, so their content stays. It needs no data
 * and no training.
 *
 * @see Bolya et al. 2022, "Token merging" — https://arxiv.org/abs/2210.09461
 */
import { basename, resolve } from "node:path";
import { openSimd } from "../../src/engines/simd/engine.ts";
import { SlimViTError } from "../../src/errors.ts";
import { countMacs, type Model, tokenCounts } from "../../src/format/model.ts";
import { selfTestPixels } from "../../src/format/write.ts";
import { claimOutput, readModelFolder, withStep, writeModel } from "../models/folders.ts";
import { percent, say, si } from "../shared/terminal.ts";
import { listedMerges, mergesFor, mostMerges, withMerges, withoutMerges } from "./mergeSchedule.ts";

export interface MergeOptions {
  out: string;
  /** share of MODEL's MACs to keep */
  ratio?: number;
  /** block → pairs that it merges */
  merge?: Map<number, number>;
  /** milliseconds of inference on this machine: engine `simd` in Node, one thread */
  latencyMs?: number;
  name?: string;
  force?: boolean;
}

export interface MergeReport {
  out: string;
  macs: number;
  /** of the source model's */
  macsShare: number;
  /** pairs that each block merges */
  merge: number[];
  /** tokens that enter each block */
  tokens: number[];
  /** with `latencyMs`: measured */
  ms?: number;
}

export async function mergeModel(source: string, options: MergeOptions): Promise<MergeReport> {
  const { out, ratio, merge, latencyMs, name, force } = options;
  const given = [ratio, merge, latencyMs].filter((target) => target !== undefined);
  if (given.length !== 1) throw new SlimViTError("bad-option", "merge: give one of --ratio, --merge and --latency-ms.");
  claimOutput(out, force, [source]);
  const model = readModelFolder(source);
  const { manifest, tensors } = model;
  if (manifest.position === "relative")
    throw new SlimViTError(
      "unsupported",
      `${source}: has relative positions, and a merged token has no place of its own. Use "slimvit thin" for fewer tokens.`,
    );
  const whole = withoutMerges(manifest);
  const classes = manifest.labels.length;
  const macsBefore = countMacs(manifest, classes);
  const timed = latencyMs === undefined ? undefined : await mergesWithin(model, latencyMs);
  const merges =
    timed?.merges ??
    (merge
      ? listedMerges(whole, merge)
      : mergesFor(whole, (merged) => countMacs(merged, classes) <= ratio! * macsBefore, `--ratio ${ratio}`));
  const merged = withMerges(manifest, merges);
  const { format: _, weights: __, ...draft } = merged;
  const target = merge ? { merge: merges } : { ratio, latencyMs, merge: merges };
  const provenance = withStep(manifest.provenance, "merge", JSON.parse(JSON.stringify(target)));
  const content = { ...draft, name: name ?? basename(resolve(out)), provenance, metrics: {} };
  await writeModel(out, { draft: content, tensors, dtypes: ["f32"] }, force);

  const macs = countMacs(merged, classes);
  const tokens = tokenCounts(merged).map(({ entering }) => entering);
  const speed = timed ? `; ${timed.ms.toFixed(1)} ms here` : "";
  say(`merge: ${merges.join(", ")} pairs; ${si(macs)} MACs (${percent(macs / macsBefore)})${speed} → ${out}`);
  return { out, macs, macsShare: macs / macsBefore, merge: merges, tokens, ...(timed && { ms: timed.ms }) };
}

/** Halvings of the range of MACs between the whole model and the smallest. */
const BISECTIONS = 6;
const RUNS = 7;

/** The fewest merges with which the engine was measured to take at most `budgetMs`. */
async function mergesWithin(model: Model, budgetMs: number): Promise<{ merges: number[]; ms: number }> {
  const { manifest } = model;
  const classes = manifest.labels.length;
  const whole = withoutMerges(manifest);
  const none = whole.blocks.map(() => 0);
  const wholeMs = await medianMs(model, whole);
  if (wholeMs <= budgetMs) return { merges: none, ms: wholeMs };
  const atShare = (share: number) =>
    mergesFor(
      whole,
      (merged) => countMacs(merged, classes) <= share * countMacs(whole, classes),
      `--latency-ms ${budgetMs}`,
    );
  const least = withMerges(whole, mostMerges(whole));
  let [low, high] = [countMacs(least, classes) / countMacs(whole, classes), 1];
  let best = { merges: atShare(low), ms: await medianMs(model, withMerges(whole, atShare(low))) };
  if (best.ms > budgetMs)
    throw new SlimViTError(
      "bad-option",
      `merge: --latency-ms ${budgetMs} cannot be reached by merging: ${best.ms.toFixed(1)} ms are left here, of ${wholeMs.toFixed(1)} ms.`,
    );
  for (let step = 0; step < BISECTIONS; step++) {
    const share = (low + high) / 2;
    const merges = atShare(share);
    const ms = await medianMs(model, withMerges(whole, merges));
    if (ms <= budgetMs) [low, best] = [share, { merges, ms }];
    else high = share;
  }
  return best;
}

async function medianMs(model: Model, manifest: Model["manifest"]): Promise<number> {
  const engine = await openSimd({ ...model, manifest }, { threads: 1 });
  try {
    const pixels = selfTestPixels(manifest, 1);
    await engine.run(pixels);
    const times: number[] = [];
    for (let run = 0; run < RUNS; run++) {
      const start = performance.now();
      await engine.run(pixels);
      times.push(performance.now() - start);
    }
    return times.sort((a, b) => a - b)[RUNS >> 1];
  } finally {
    engine.dispose();
  }
}
