/** slimvit inspect MODEL...: a model's parts and its cost. */
import {
  countMacs,
  countParams,
  innerDim,
  type Manifest,
  patchGrid,
  tokenCounts,
  type WeightsFile,
} from "../../src/format/model.ts";
import { slabsOf, withVariant } from "../../src/format/variants.ts";
import { percent, si } from "../shared/terminal.ts";
import { readManifestFile, splitSource, variantSources } from "./folders.ts";
import { distinctKeepLists } from "./keepLists.ts";
import type { Metrics } from "./metrics.ts";

export interface Inspection {
  params: number;
  macs: number;
  embedDim: number;
  numClasses: number;
  /** that the model needs of the smallest weights file */
  sizeBytes: number;
  /** of the first variant */
  blocks: Manifest["blocks"];
  variants: { name: string; macs: number; params: number; imageSize: [number, number] }[];
}

export function inspect(source: string): { inspection: Inspection; text: string } {
  const manifest = readManifestFile(source);
  const { embedDim, labels, blocks, weights } = manifest;
  const inspection: Inspection = {
    params: countParams(manifest, labels.length),
    macs: countMacs(manifest, labels.length),
    embedDim,
    numClasses: labels.length,
    sizeBytes: Math.min(...weights.map((file) => bytesOf(manifest, file))),
    blocks: blocks.map(({ headDims, mlpHidden, keepIdx, merge }) => ({ headDims, mlpHidden, keepIdx, merge })),
    variants: manifest.variants.map(({ name, macs, imageSize }) => ({
      ...{ name, macs, imageSize },
      params: countParams(withVariant(manifest, name), labels.length),
    })),
  };
  const variants = splitSource(source).variant === undefined ? variantsTable(source, manifest) : [];
  return { inspection, text: describe(manifest, inspection, variants) };
}

/** Bytes of a weights file that the selected variant needs. */
const bytesOf = (manifest: Manifest, file: WeightsFile): number =>
  slabsOf(manifest, file)?.reduce((sum, slab) => sum + slab.bytes, 0) ?? file.bytes;

const megabytesOf = (manifest: Manifest, file: WeightsFile) => `${(bytesOf(manifest, file) / 1e6).toFixed(2)} MB`;

function describe(manifest: Manifest, { params, macs }: Inspection, variants: string[]): string {
  const { name, embedDim, labels, blocks, weights } = manifest;
  const counts = tokenCounts(manifest);
  const merges = blocks.some(({ merge }) => merge > 0);
  const rows = blocks.map((block, i) =>
    [
      ...[i, block.headDims.join(" ") || "none", innerDim(block), block.mlpHidden, counts[i].entering],
      ...(merges ? [block.merge] : []),
    ].map(String),
  );
  const head = ["block", "heads", "channels", "MLP units", "tokens", ...(merges ? ["pairs merged"] : [])];
  const table = aligned([head, ...rows]);
  const pictures = keepLists(manifest);
  return [
    `${name}: ${si(params)} parameters, ${si(macs)} MACs, width ${embedDim}, ${labels.length} classes`,
    ...weights.map((file) => `${file.dtype}: ${megabytesOf(manifest, file)}`),
    ...variants,
    "",
    table,
    "",
    ...pictures,
  ].join("\n");
}

/** @returns nothing for a folder of one variant */
function variantsTable(source: string, manifest: Manifest): string[] {
  const { variants, variant, weights } = manifest;
  if (variants.length < 2) return [];
  const [smallest] = [...weights].sort((a, b) => a.bytes - b.bytes);
  const rows = variants.map(({ name, imageSize, macs, metrics }) => [
    name,
    `${imageSize[1]}×${imageSize[0]}`,
    si(macs),
    percent(macs / variants[0].macs),
    megabytesOf(withVariant(manifest, name), smallest),
    top1Of(metrics),
  ]);
  return [
    "",
    aligned([["variant", "pixels", "MACs", "of the first", smallest.dtype, "top-1"], ...rows]),
    "",
    `The blocks are those of "${variant}". \`slimvit inspect ${source}#NAME\` shows another variant's.`,
  ];
}

function top1Of(metrics: Metrics): string {
  const measured = metrics.accuracy?.at(-1);
  return measured ? `${percent(measured.top1)} (${measured.data}, ${measured.split})` : "not measured";
}

/** Several models, a line for each, and for each variant. */
export function inspectTable(sources: string[]): string {
  const rows = sources.flatMap(variantSources).map((source) => {
    const manifest = readManifestFile(source);
    const { inspection } = inspect(source);
    return [
      source,
      manifest.name,
      `${manifest.imageSize[1]}×${manifest.imageSize[0]}`,
      si(inspection.params),
      si(inspection.macs),
      manifest.weights.map((file) => `${file.dtype} ${megabytesOf(manifest, file)}`).join(", "),
      top1Of(manifest.metrics),
    ];
  });
  return aligned([["folder", "name", "pixels", "parameters", "MACs", "weights", "top-1"], ...rows]);
}

function aligned(table: string[][]): string {
  const widths = table[0].map((_, column) => Math.max(...table.map((row) => row[column].length)));
  return table
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column]))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}

/** Patches as the picture's grid: █ kept, · dropped; one picture for each distinct keep-list. */
function keepLists(manifest: Manifest): string[] {
  const [rows, columns] = patchGrid(manifest);
  return distinctKeepLists(manifest, rows * columns).flatMap(({ block, kept }) => {
    const cells = kept.map((isKept) => (isKept ? "█" : "·"));
    const lines = Array.from({ length: rows }, (_, r) => cells.slice(r * columns, (r + 1) * columns).join(""));
    return [`tokens from block ${block}:`, ...lines];
  });
}
