/** slimvit inspect MODEL... [--report FILE.html [--pictures IMAGE...]]: what a model is made of and what it costs. */
import { countMacs, countParams, innerDim, type Manifest, patchGrid } from "../../src/format/model.ts";
import { say, si } from "../shared/terminal.ts";
import { readManifestFile, writeFileAtomic } from "./folders.ts";

export interface Inspection {
  params: number;
  macs: number;
  embedDim: number;
  numClasses: number;
  /** of the smallest weights file */
  sizeBytes: number;
  blocks: Manifest["blocks"];
}

export function inspect(source: string): { inspection: Inspection; text: string } {
  const manifest = readManifestFile(source);
  const { embedDim, labels, blocks, weights } = manifest;
  const inspection: Inspection = {
    params: countParams(manifest, labels.length),
    macs: countMacs(manifest, labels.length),
    embedDim,
    numClasses: labels.length,
    sizeBytes: Math.min(...weights.map((file) => file.bytes)),
    blocks: blocks.map(({ headDims, mlpHidden, keepIdx, merge }) => ({ headDims, mlpHidden, keepIdx, merge })),
  };
  return { inspection, text: describe(manifest, inspection) };
}

/**
 * One page for all of them, with their accuracy against their MACs where it was measured.
 *
 * @param pictures files on which attention maps are drawn, model under model
 */
export async function writeReport(sources: string[], file: string, pictures: string[] = []): Promise<void> {
  const { readReportModel, reportHtml } = await import("../report/report.ts"); // the charts are slow to load
  const { attentionHtml } = await import("../report/attention.ts");
  const maps = pictures.length ? await attentionHtml(sources, pictures) : "";
  writeFileAtomic(file, reportHtml(sources.map(readReportModel), maps));
  say(`inspect: report → ${file}`);
}

function describe(manifest: Manifest, { params, macs }: Inspection): string {
  const { name, embedDim, labels, blocks, weights } = manifest;
  const rows = blocks.map((block, i) =>
    [i, block.headDims.join(" ") || "none", innerDim(block), block.mlpHidden, block.keepIdx.length].map(String),
  );
  const table = [["block", "heads", "channels", "MLP units", "tokens"], ...rows];
  const widths = table[0].map((_, column) => Math.max(...table.map((row) => row[column].length)));
  const lines = table.map((row) => row.map((cell, column) => cell.padEnd(widths[column])).join("  "));
  const pictures = keepLists(manifest);
  return [
    `${name}: ${si(params)} parameters, ${si(macs)} MACs, width ${embedDim}, ${labels.length} classes`,
    ...weights.map((file) => `${file.dtype}: ${(file.bytes / 1e6).toFixed(2)} MB`),
    "",
    ...lines,
    "",
    ...pictures,
  ].join("\n");
}

/** Patches as the picture's grid: █ kept, · dropped; one picture for each distinct keep-list. */
function keepLists(manifest: Manifest): string[] {
  const [rows, columns] = patchGrid(manifest);
  const lines: string[] = [];
  let before = "";
  manifest.blocks.forEach(({ keepIdx }, i) => {
    if (keepIdx.join() === before) return;
    before = keepIdx.join();
    const kept = new Set(keepIdx);
    lines.push(`tokens from block ${i}:`);
    for (let r = 0; r < rows; r++) {
      lines.push(
        Array.from({ length: columns }, (_, c) => (kept.has(r * columns + c + manifest.prefixTokens) ? "█" : "·")).join(
          "",
        ),
      );
    }
  });
  return lines;
}
