/**
 * What happened, as one HTML page: masks, widths, keep-lists, losses, accuracy against MACs. Charts are SVG drawn by
 * ECharts without a browser; the page needs no script and no other file, and follows the reader's light or dark setting.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { BarChart, HeatmapChart, LineChart, ScatterChart } from "echarts/charts";
import { GridComponent, LegendComponent, VisualMapComponent } from "echarts/components";
import { type EChartsCoreOption, init, use } from "echarts/core";
import { SVGRenderer } from "echarts/renderers";
import { countMacs, countParams, innerDim, type Manifest, patchGrid } from "../../src/format/model.ts";
import { type AccuracyRecord, denseOf } from "./card.ts";
import { readManifestFile } from "./folders.ts";
import { escaped } from "./html.ts";
import type { BlockZeta } from "./masks.ts";
import { readMasks, ZETA_FILE } from "./searched.ts";
import { percent, si } from "./terminal.ts";

use([BarChart, LineChart, ScatterChart, HeatmapChart, GridComponent, LegendComponent, VisualMapComponent, SVGRenderer]);

export interface ReportModel {
  manifest: Omit<Manifest, "format" | "weights">;
  /** of a search */
  zetas?: BlockZeta[];
  /** of a training */
  history?: Record<string, number>[];
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

/** @param more HTML for the page's end */
export function reportHtml(models: ReportModel[], more = ""): string {
  const title = models.map(({ manifest }) => manifest.name).join(", ");
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escaped(title)} – SlimViT report</title>
<style>${STYLE}</style>
</head>
<body>
<h1>${escaped(title)}</h1>
${summary(models)}
${accuracyChart(models)}
${models.map(section).join("\n")}
${more}
</body>
</html>
`;
}

/** Readable on white and on black alike; text and lines take the page's colour. */
const PALETTE = ["#3b82f6", "#e8793a", "#22a06b", "#a66be0", "#d6457c", "#12a5b8", "#b58a18", "#7c8aa0"];
const CUT = "#9ca3af55";
const INK = "#0a0b0c"; // stands for the page's text colour; no chart uses it for anything else

const STYLE = `
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2rem auto; padding: 0 1rem;
  color: light-dark(#1b1f24, #e6e8eb); background: light-dark(#fff, #14171a); }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-top: 1px solid #8886; padding-top: 1rem; }
table { border-collapse: collapse; } th, td { text-align: right; padding: .2rem .8rem; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; }
.charts { display: flex; flex-wrap: wrap; gap: 1.2rem; } figure { margin: 0; } figcaption { font-size: .9rem; opacity: .85; }
svg { max-width: 100%; height: auto; }
`;

function summary(models: ReportModel[]): string {
  const rows = models.map(({ manifest }) => {
    const classes = manifest.labels.length;
    const dense = denseOf(manifest);
    const [macs, params] = [countMacs(manifest, classes), countParams(manifest, classes)];
    const accuracy = accuracyOf(manifest).map((a) => `${percent(a.top1)} (${a.data} ${a.split}, n ${a.n})`);
    return [
      manifest.name,
      `${si(macs)} (${percent(macs / countMacs(dense, classes))})`,
      `${si(params)} (${percent(params / countParams(dense, classes))})`,
      accuracy.join("; ") || "not measured",
    ];
  });
  return table(["model", "MACs (of dense)", "parameters (of dense)", "top-1"], rows);
}

const accuracyOf = ({ metrics }: ReportModel["manifest"]) => (metrics.accuracy ?? []) as AccuracyRecord[];

/** One line a data set and split that at least two of the models were measured on. */
function accuracyChart(models: ReportModel[]): string {
  const lines = new Map<string, [macs: number, top1: number, name: string][]>();
  for (const { manifest } of models) {
    for (const a of accuracyOf(manifest)) {
      const key = `${a.data}, ${a.split}, ${a.dtype}`;
      const macs = countMacs(manifest, manifest.labels.length);
      lines.set(key, [...(lines.get(key) ?? []), [macs, 100 * a.top1, manifest.name]]);
    }
  }
  const shown = [...lines].filter(([, points]) => points.length > 1);
  if (shown.length === 0) return "";
  const option: EChartsCoreOption = {
    legend: {},
    xAxis: { type: "value", name: "MACs", scale: true, axisLabel: { formatter: si } },
    yAxis: { type: "value", name: "top-1 %", scale: true },
    series: shown.map(([name, points]) => ({
      name,
      type: "line",
      symbolSize: 9,
      data: points.sort((a, b) => a[0] - b[0]),
      label: { show: true, position: "top", formatter: ({ value }: { value: [number, number, string] }) => value[2] },
    })),
  };
  return `<h2>Accuracy against MACs</h2><div class="charts">${chart("Top-1 accuracy against multiply-accumulates", option, 900, 380)}</div>`;
}

function section(model: ReportModel): string {
  const { manifest, zetas, history } = model;
  const parts = [
    heading("Widths"),
    `<div class="charts">${widthCharts(manifest)}</div>`,
    heading("Tokens: which patches each block keeps"),
    `<div class="charts">${keepLists(manifest)}</div>`,
  ];
  if (zetas) parts.push(heading("Masks ζ at the end of the search"), `<div class="charts">${histograms(zetas)}</div>`);
  if (history?.length) parts.push(heading("Over the steps"), `<div class="charts">${curves(history)}</div>`);
  return `<h2>${escaped(manifest.name)}</h2>\n${parts.join("\n")}`;
}

const heading = (text: string) => `<h3>${escaped(text)}</h3>`;

function widthCharts(manifest: ReportModel["manifest"]): string {
  const { blocks } = manifest;
  const dense = denseOf(manifest);
  const heads = Math.max(...blocks.map((b) => b.headDims.length), 0);
  const perHead = Array.from({ length: heads }, (_, h) => ({
    name: `head ${h}`,
    values: blocks.map((b) => b.headDims[h] ?? 0),
  }));
  const kept = (of: (b: Manifest["blocks"][number]) => number) => [{ name: "kept", values: blocks.map(of) }];
  const cut = (of: (b: Manifest["blocks"][number]) => number) => blocks.map((b, i) => of(dense.blocks[i]) - of(b));
  return [
    stacked("Attention channels a block, by surviving head", perHead, cut(innerDim)),
    stacked(
      "MLP units a block",
      kept((b) => b.mlpHidden),
      cut((b) => b.mlpHidden),
    ),
    stacked(
      "Tokens a block",
      kept((b) => b.keepIdx.length),
      cut((b) => b.keepIdx.length),
    ),
  ].join("\n");
}

/** Bars over the blocks; what was cut is the grey top. */
function stacked(title: string, kept: { name: string; values: number[] }[], cut: number[]): string {
  const series = [...kept, { name: "cut", values: cut }].map(({ name, values }) => ({
    name,
    type: "bar",
    stack: "all",
    data: values,
    ...(name === "cut" && { itemStyle: { color: CUT } }),
  }));
  return chart(title, {
    legend: {},
    xAxis: { type: "category", name: "block", data: cut.map((_, i) => String(i)) },
    yAxis: { type: "value" },
    series,
  });
}

/** One small grid for each list that differs from the block before. */
function keepLists(manifest: ReportModel["manifest"]): string {
  const [rows, columns] = patchGrid(manifest);
  const pictures: string[] = [];
  let before = "";
  manifest.blocks.forEach(({ keepIdx }, i) => {
    if (keepIdx.join() === before) return;
    before = keepIdx.join();
    const kept = new Set(keepIdx);
    const cells = Array.from({ length: rows * columns }, (_, patch) => [
      patch % columns,
      Math.floor(patch / columns),
      Number(kept.has(patch + manifest.prefixTokens)),
    ]);
    const axis = (length: number, inverse = false) => ({
      type: "category",
      data: Array.from({ length }, (_, k) => String(k)),
      inverse,
      show: false,
    });
    const count = keepIdx.length - manifest.prefixTokens;
    const option = {
      grid: { left: 1, right: 1, top: 1, bottom: 1 },
      xAxis: axis(columns),
      yAxis: axis(rows, true),
      visualMap: {
        show: false,
        type: "piecewise",
        pieces: [
          { value: 0, color: CUT },
          { value: 1, color: PALETTE[0] },
        ],
      },
      series: [{ type: "heatmap", data: cells, itemStyle: { borderWidth: 0.5, borderColor: "#8888" } }],
    };
    pictures.push(
      chart(`from block ${i}: ${count} of ${rows * columns} patches`, option, 150, Math.round((150 * rows) / columns)),
    );
  });
  return pictures.join("\n");
}

function histograms(zetas: BlockZeta[]): string {
  const flat = (of: (z: BlockZeta) => ArrayLike<number>) => zetas.flatMap((z) => Array.from(of(z)));
  return [
    histogram(
      "Attention ζ, all blocks",
      flat((z) => z.attn),
      PALETTE[0],
    ),
    histogram(
      "MLP ζ, all blocks",
      flat((z) => z.mlp),
      PALETTE[1],
    ),
    histogram(
      "Tokens: tanh ζ, all blocks",
      flat((z) => Array.from(z.patch, Math.tanh)),
      PALETTE[2],
    ),
  ].join("\n");
}

const BINS = 40;

function histogram(title: string, values: number[], color: string): string {
  const low = values.reduce((a, b) => Math.min(a, b), 0);
  const high = values.reduce((a, b) => Math.max(a, b), 1);
  const counts: number[] = Array(BINS).fill(0);
  for (const v of values) counts[Math.min(BINS - 1, Math.floor(((v - low) / (high - low)) * BINS))]++;
  const labels = counts.map((_, k) => (low + ((k + 0.5) * (high - low)) / BINS).toFixed(2));
  return chart(title, {
    xAxis: { type: "category", data: labels },
    yAxis: { type: "value", name: "masks" },
    series: [{ type: "bar", data: counts, barCategoryGap: 0, itemStyle: { color } }],
  });
}

const FAMILIES: [key: string, title: string][] = [
  ["attn", "Attention ζ: 10 %, 50 %, 90 % quantile"],
  ["mlp", "MLP ζ: 10 %, 50 %, 90 % quantile"],
  ["patch", "Tokens: tanh ζ: 10 %, 50 %, 90 % quantile"],
];

/** The loss and the terms it is the sum of; of a search also how the masks spread. */
function curves(history: Record<string, number>[]): string {
  const keys = Object.keys(history[0]).filter((key) => key !== "step");
  const lines = (title: string, names: string[], width?: number) =>
    chart(
      title,
      {
        legend: {},
        xAxis: { type: "value", name: "step", max: history.at(-1)!.step },
        yAxis: { type: "value", scale: true },
        series: names.map((name) => ({
          name,
          type: "line",
          showSymbol: false,
          data: history.map((line) => [line.step, line[name]]),
        })),
      },
      width,
    );
  const charts = [
    lines(
      "Loss and its terms",
      keys.filter((key) => !key.includes(".")),
      900,
    ),
  ];
  for (const [family, title] of FAMILIES) {
    const names = keys.filter((key) => key.startsWith(`${family}.`));
    if (names.length) charts.push(lines(title, names));
  }
  return charts.join("\n");
}

function chart(title: string, option: EChartsCoreOption, width = 500, height = 260): string {
  const instance = init(null, null, { renderer: "svg", ssr: true, width, height });
  const axis = {
    nameTextStyle: { color: INK },
    axisLabel: { color: INK },
    axisLine: { lineStyle: { color: INK } },
    splitLine: { lineStyle: { color: "#8884" } },
  };
  instance.setOption({
    animation: false,
    color: PALETTE,
    textStyle: { color: INK },
    grid: { left: 56, right: 60, top: 40, bottom: 32 },
    ...option,
    ...(option.legend !== undefined && { legend: { top: 0, textStyle: { color: INK } } }),
    xAxis: deepened(axis, option.xAxis as Record<string, unknown>),
    yAxis: deepened(axis, option.yAxis as Record<string, unknown>),
    series: (option.series as Record<string, unknown>[]).map((s) =>
      s.label ? { ...s, label: { ...s.label, color: INK } } : s,
    ),
  });
  const svg = instance.renderToSVGString();
  instance.dispose();
  const inked = svg.replaceAll(INK, "currentColor");
  const named = inked.replace("<svg ", `<svg role="img" aria-label="${escaped(title)}" `);
  return `<figure>${named}<figcaption>${escaped(title)}</figcaption></figure>`;
}

/** One level down, `over` laid over `base`. */
function deepened(base: Record<string, object>, over: Record<string, unknown>): Record<string, unknown> {
  const out: Record<string, unknown> = { ...base, ...over };
  for (const [key, value] of Object.entries(base))
    if (typeof over[key] === "object") out[key] = { ...value, ...(over[key] as object) };
  return out;
}

function table(head: string[], rows: string[][]): string {
  const line = (tag: string, cells: string[]) =>
    `<tr>${cells.map((c) => `<${tag}>${escaped(c)}</${tag}>`).join("")}</tr>`;
  return `<table>${line("th", head)}${rows.map((row) => line("td", row)).join("")}</table>`;
}
