/** What was measured of a model, in its manifest and its card. */
import { join } from "node:path";
import { manifestJson } from "../../src/format/write.ts";
import type { BenchRow } from "../bench/bench.ts";
import { cardText } from "./card.ts";
import { manifestText, readManifestFile, writeFileAtomic } from "./folders.ts";

/** As `slimvit eval --record` leaves it. */
export interface AccuracyRecord {
  data: string;
  split: string;
  top1: number;
  top5: number;
  n: number;
  engine: string;
  dtype: string;
}

/** As `npm run figures` leaves it: milliseconds an image, inference only. */
export type LatencyRecord = Pick<BenchRow, "engine" | "dtype" | "threads" | "msMedian" | "msP10" | "msP90"> & {
  device: string;
  browser: string;
};

export interface Metrics {
  accuracy?: AccuracyRecord[];
  latency?: LatencyRecord[];
}

/** Takes the place of what the model folder has on record under the same names. */
export function recordMetrics(folder: string, metrics: Metrics): void {
  const manifest = readManifestFile(folder);
  manifest.metrics = { ...manifest.metrics, ...metrics };
  writeFileAtomic(join(folder, "slimvit.json"), manifestText(manifestJson(manifest)));
  writeFileAtomic(join(folder, "card.md"), cardText(manifest));
}
