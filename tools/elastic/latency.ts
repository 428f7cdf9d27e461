/** The latency of each variant of a folder on this machine. */
import { cpus } from "node:os";
import { openSimd } from "../../src/engines/simd/engine.ts";
import type { WeightsDtype } from "../../src/format/model.ts";
import { selfTestPixels } from "../../src/format/write.ts";
import { readModelFolder, variantSources } from "../models/folders.ts";
import { recordMetrics } from "../models/metrics.ts";
import type { LatencyRecord } from "../models/records.ts";

const ROUNDS = 15;

/**
 * Times inference by `simd` on one thread and records it in each variant's metrics. The variants run in turn, so that whatever
 * else the machine does falls on all of them.
 *
 * @returns median milliseconds by variant, in the last of the dtypes
 */
export async function timeVariants(folder: string, dtypes: WeightsDtype[]): Promise<Map<string, number>> {
  const medians = new Map<string, number>();
  const records = new Map<string, LatencyRecord[]>();
  for (const dtype of dtypes) {
    const variants = [];
    for (const source of variantSources(folder)) {
      const model = readModelFolder(source, dtype);
      variants.push({ source, model, engine: await openSimd(model, { threads: 1 }), times: [] as number[] });
    }
    for (let round = 0; round <= ROUNDS; round++) {
      for (const { model, engine, times } of variants) {
        const pixels = selfTestPixels(model.manifest, 1);
        const started = performance.now();
        await engine.run(pixels);
        if (round > 0) times.push(performance.now() - started); // the first round warms up
      }
    }
    for (const { source, model, engine, times } of variants) {
      engine.dispose();
      times.sort((a, b) => a - b);
      const at = (share: number) => Number(times[Math.floor(share * (times.length - 1))].toPrecision(3));
      medians.set(model.manifest.variant, at(0.5));
      const record: LatencyRecord = {
        ...{ engine: "simd", dtype, threads: 1, msMedian: at(0.5), msP10: at(0.1), msP90: at(0.9) },
        ...{ device: cpus()[0]?.model.trim() ?? "unknown", browser: `Node ${process.versions.node}` },
      };
      records.set(source, [...(records.get(source) ?? []), record]);
    }
  }
  for (const [source, latency] of records) recordMetrics(source, { latency });
  return medians;
}
