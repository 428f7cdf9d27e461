/** A model's measured figures, in its manifest and its card. */
import { join } from "node:path";
import { manifestJson } from "../../src/format/write.ts";
import { cardText } from "./card.ts";
import { manifestText, readManifestFile, splitSource, writeFileAtomic } from "./folders.ts";
import type { Metrics } from "./records.ts";

export type { AccuracyRecord, LatencyRecord, Metrics } from "./records.ts";

/** Records metrics in a model folder, replacing those with the same names. */
export function recordMetrics(source: string, metrics: Metrics): void {
  const manifest = readManifestFile(source);
  const { dir } = splitSource(source);
  manifest.metrics = { ...manifest.metrics, ...metrics };
  writeFileAtomic(join(dir, "slimvit.json"), manifestText(manifestJson(manifest)));
  writeFileAtomic(join(dir, "card.md"), cardText(manifest));
}
