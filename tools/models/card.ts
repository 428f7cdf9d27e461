/** Writes a model's card from the records in its manifest. */
import {
  type Architecture,
  countMacs,
  countParams,
  denseTokens,
  innerDim,
  type Manifest,
} from "../../src/format/model.ts";
import { withVariant } from "../../src/format/variants.ts";
import { percent, si } from "../shared/terminal.ts";
import type { Metrics } from "./records.ts";

/** `program` where it was none of slimvit's commands. */
type Step = Record<string, unknown> & { command: string; program?: string };

/** The card's text. For a folder with several variants it has the first one's figures and a table of all. */
export function cardText(selected: Manifest): string {
  const manifest = withVariant(selected, selected.variants[0].name);
  const { name, license, labels, imageSize, patchSize, embedDim, blocks, provenance } = manifest;
  const classes = labels.length;
  const dense = denseOf(manifest);
  const share = (of: (block: Architecture["blocks"][number]) => number) => {
    const [slim, whole] = [manifest, dense].map((arch) => arch.blocks.reduce((sum, b) => sum + of(b), 0));
    return `${slim} of ${whole} | ${percent(slim / whole)}`;
  };
  const steps = (provenance.steps ?? []) as Step[];
  const { accuracy = [], latency = [] } = manifest.metrics as Metrics;
  const lines = [
    `# ${name}`,
    "",
    `A vision transformer for ${classes} classes, ${imageSize[1]}×${imageSize[0]} px in patches of ${patchSize}, width ${embedDim}, ${blocks.length} blocks.`,
    "",
    "| | this model | of dense |",
    "| --- | --- | --- |",
    `| multiply-accumulates | ${si(countMacs(manifest, classes))} | ${percent(countMacs(manifest, classes) / countMacs(dense, classes))} |`,
    ...originalRow(manifest),
    `| parameters | ${si(countParams(manifest, classes))} | ${percent(countParams(manifest, classes) / countParams(dense, classes))} |`,
    `| attention channels | ${share(innerDim)} |`,
    `| MLP units | ${share((b) => b.mlpHidden)} |`,
    `| tokens over all blocks | ${share((b) => b.keepIdx.length)} |`,
    ...variantRows(manifest),
    "",
    "## Accuracy",
    "",
    ...(accuracy.length
      ? [
          "| data | split | engine | weights | top-1 (95 % interval) | top-5 | n |",
          "| --- | --- | --- | --- | --- | --- | --- |",
          ...accuracy.map(
            (a) =>
              `| ${a.data} | ${a.split} | ${a.engine} | ${a.dtype} | ${percent(a.top1)} (${interval(a.top1, a.n)}) | ${percent(a.top5)} | ${a.n} |`,
          ),
        ]
      : ["Not measured yet: `slimvit eval MODEL --data D --record`."]),
    "",
    "## Size and speed",
    "",
    "| weights | bytes |",
    "| --- | --- |",
    ...manifest.weights.map(({ dtype, bytes }) => `| ${dtype} | ${bytes.toLocaleString("en")} |`),
    "",
    ...(latency.length
      ? [
          "| engine | weights | threads | ms an image, median (p10–p90) |",
          "| --- | --- | --- | --- |",
          ...latency.map(
            (l) =>
              `| ${l.engine} | ${l.dtype} | ${l.threads} | ${l.msMedian.toFixed(1)} (${l.msP10.toFixed(1)}–${l.msP90.toFixed(1)}) |`,
          ),
          "",
          `Inference only, on ${latency[0].device}, ${latency[0].browser}.`,
        ]
      : ["Not timed yet: `slimvit bench MODEL --engine simd`."]),
    "",
    "## Origin and licence",
    "",
    `Licence: ${license}. Source files (sha256):`,
    ...Object.entries((provenance.source as { files?: Record<string, string> })?.files ?? {}).map(
      ([file, hash]) => `- ${file} \`${hash}\``,
    ),
    "",
    "## How it was made",
    "",
    ...steps.map(
      ({ command, program = `slimvit ${command}`, ...options }, k) =>
        `${k + 1}. \`${program}\` with ${sentence(options)}`,
    ),
    "",
  ];
  return lines.join("\n");
}

/** One row for each variant, with the accuracy that was recorded first. */
function variantRows({ variants }: Manifest): string[] {
  if (variants.length < 2) return [];
  return [
    "",
    "## Variants",
    "",
    "All variants share their weights; a page loads the one that its device can afford. The figures above and below are the first one's.",
    "",
    "| variant | picture, px | merged pairs | multiply-accumulates | top-1 (95 % interval) |",
    "| --- | --- | --- | --- | --- |",
    ...variants.map(({ name, imageSize, blocks, macs, metrics }) => {
      const [measured] = (metrics as Metrics).accuracy ?? [];
      const merged = blocks.reduce((sum, { merge }) => sum + merge, 0);
      const top1 = measured
        ? `${measured.dtype} ${percent(measured.top1)} (${interval(measured.top1, measured.n)}), n ${measured.n}`
        : "not measured";
      return `| ${name} | ${imageSize[1]}×${imageSize[0]} | ${merged} | ${si(macs)} | ${top1} |`;
    }),
  ];
}

/** Wilson's 95 % interval of a proportion. */
export function interval(p: number, n: number): string {
  const z = 1.96;
  const centre = (p + (z * z) / (2 * n)) / (1 + (z * z) / n);
  const half = (z / (1 + (z * z) / n)) * Math.sqrt((p * (1 - p)) / n + (z * z) / (4 * n * n));
  const low = Math.max(0, centre - half); // of no right picture, rounding makes it −1e-17
  return `${percent(low)}–${percent(centre + half)}`;
}

/**
 * The dense architecture that the model was cut from, as far as its manifest states it: all tokens and the recorded
 * dense widths.
 */
export function denseOf(manifest: Omit<Manifest, "format" | "weights">): Architecture {
  const recorded = (manifest.provenance.dense ?? {}) as { heads?: number; mlpHidden?: number[] };
  const keepIdx = Array.from({ length: denseTokens(manifest) }, (_, token) => token);
  const heads = recorded.heads ?? Math.max(...manifest.blocks.map((b) => b.headDims.length));
  const blocks = manifest.blocks.map((b, i) => ({
    headDims: Array(heads).fill(manifest.headDim),
    mlpHidden: recorded.mlpHidden?.[i] ?? b.mlpHidden,
    keepIdx,
    merge: 0,
  }));
  return { ...manifest, blocks };
}

/** "33.1 % of the dense model's at 224×224 px", for a model that `--image-size` has moved to another size. */
export function macsOfOriginal(manifest: Omit<Manifest, "format" | "weights">): string | undefined {
  const steps = (manifest.provenance.steps ?? []) as { imageSizeBefore?: [number, number] }[];
  const imageSize = steps.find((step) => step.imageSizeBefore)?.imageSizeBefore;
  if (!imageSize || imageSize.join() === manifest.imageSize.join()) return undefined;
  const classes = manifest.labels.length;
  const share = countMacs(manifest, classes) / countMacs(denseOf({ ...manifest, imageSize }), classes);
  return `${percent(share)} of the dense model's at ${imageSize[1]}×${imageSize[0]} px`;
}

function originalRow(manifest: Manifest): string[] {
  const text = macsOfOriginal(manifest);
  return text ? [`| before it was moved to this image size | | ${text} |`] : [];
}

function sentence(options: Record<string, unknown>): string {
  const parts = Object.entries(options)
    .filter(([key]) => !key.endsWith("Sha256")) // hashes stand in slimvit.json
    .filter(([, value]) => value !== undefined && !(Array.isArray(value) && value.length === 0))
    .map(
      ([key, value]) =>
        `${key} ${typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(4)) : Array.isArray(value) ? value.join(", ") : value}`,
    );
  return parts.join(", ");
}
