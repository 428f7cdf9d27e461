/** slimvit inspect MODEL... --report FILE.html [--pictures IMAGE...]: model folders as a page. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { readMasks, ZETA_FILE } from "../masks/searched.ts";
import { readManifestFile, writeFileAtomic } from "../models/folders.ts";
import { attentionHtml } from "../report/attention.ts";
import { type ReportModel, reportHtml } from "../report/report.ts";
import { say } from "../shared/terminal.ts";

/**
 * One page for all of them, with their accuracy against their MACs where it was measured.
 *
 * @param pictures files on which attention maps are drawn, model under model
 */
export async function writeReport(sources: string[], file: string, pictures: string[] = []): Promise<void> {
  const maps = pictures.length ? await attentionHtml(sources, pictures) : "";
  writeFileAtomic(file, reportHtml(sources.map(readReportModel), maps));
  say(`inspect: report → ${file}`);
}

/** A model folder with what its making left beside it. */
export function readReportModel(folder: string): ReportModel {
  const manifest = readManifestFile(folder);
  const history = join(folder, "history.json");
  return {
    manifest,
    ...(existsSync(join(folder, ZETA_FILE)) && { zetas: readMasks(folder, ZETA_FILE, manifest).zetas }),
    ...(existsSync(history) && { history: JSON.parse(readFileSync(history, "utf8")) }),
  };
}
