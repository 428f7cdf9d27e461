/** slimvit inspect MODEL... --report FILE.html [--pictures IMAGE...]: a report of model folders. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { readMasks, ZETA_FILE } from "../masks/searched.ts";
import { claimFile, readManifestFile, splitSource, variantSources, writeFileAtomic } from "../models/folders.ts";
import { attentionHtml } from "../report/attention.ts";
import { REPORT_TITLE } from "../report/charts.ts";
import { type ReportModel, reportHtml } from "../report/report.ts";
import { say } from "../shared/terminal.ts";

/**
 * Writes one page about all models, with a section for each variant of a folder and accuracy against MACs where it was
 * measured.
 *
 * @param pictures files on which attention maps are drawn, model under model
 */
export async function writeReport(sources: string[], file: string, pictures: string[] = []): Promise<void> {
  claimFile(file, (text) => text.includes(REPORT_TITLE));
  const maps = pictures.length ? await attentionHtml(sources, pictures) : "";
  writeFileAtomic(file, reportHtml(sources.flatMap(variantSources).map(readReportModel), maps));
  say(`inspect: report → ${file}`);
}

/** Reads a model folder, or one of its variants, and the masks and history that were saved beside it. */
export function readReportModel(source: string): ReportModel {
  const manifest = readManifestFile(source);
  const { dir, variant } = splitSource(source);
  const history = join(dir, "history.json");
  return {
    manifest: variant === undefined ? manifest : { ...manifest, name: `${manifest.name}#${variant}` },
    ...(existsSync(join(dir, ZETA_FILE)) && { zetas: readMasks(dir, ZETA_FILE, manifest).zetas }),
    ...(existsSync(history) && { history: JSON.parse(readFileSync(history, "utf8")) }),
  };
}
