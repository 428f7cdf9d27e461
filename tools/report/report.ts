/** The report of a model or a run as one HTML page: masks, widths, keep-lists, losses, accuracy against MACs. */
import { countMacs, countParams, innerDim, type Manifest, patchGrid } from "../../src/format/model.ts";
import { denseOf, macsOfOriginal } from "../models/card.ts";
import { accuracySummary, MEASURES } from "../models/history.ts";
import { distinctKeepLists } from "../models/keepLists.ts";
import type { AccuracyRecord, LatencyRecord } from "../models/metrics.ts";
import { percent, si } from "../shared/terminal.ts";
import { CUT, chart, PALETTE, reportPage, table } from "./charts.ts";
import { escaped } from "./html.ts";

/** ζ of one block, by family; `patch` before tanh. */
interface BlockMasks {
  attn: Float32Array;
  mlp: Float32Array;
  patch: Float32Array;
}

export interface ReportModel {
  manifest: Omit<Manifest, "format" | "weights">;
  /** of a search */
  zetas?: BlockMasks[];
  /** of a training */
  history?: Record<string, number>[];
}

/** @param more HTML for the page's end */
export function reportHtml(models: ReportModel[], more = ""): string {
  const title = models.map(({ manifest }) => manifest.name).join(", ");
  return reportPage(
    title,
    `${summary(models)}
${accuracyChart(models)}
${latencyChart(models)}
${models.map(section).join("\n")}
${more}`,
  );
}

function summary(models: ReportModel[]): string {
  const rows = models.map(({ manifest }) => {
    const classes = manifest.labels.length;
    const dense = denseOf(manifest);
    const [macs, params] = [countMacs(manifest, classes), countParams(manifest, classes)];
    const accuracy = accuracyOf(manifest).map((a) => `${percent(a.top1)} (${a.data} ${a.split}, n ${a.n})`);
    const original = macsOfOriginal(manifest);
    return [
      manifest.name,
      `${si(macs)} (${percent(macs / countMacs(dense, classes))}${original ? `; ${original}` : ""})`,
      `${si(params)} (${percent(params / countParams(dense, classes))})`,
      accuracy.join("; ") || "not measured",
    ];
  });
  return table(["model", "MACs (of dense)", "parameters (of dense)", "top-1"], rows);
}

const accuracyOf = ({ metrics }: ReportModel["manifest"]) => (metrics.accuracy ?? []) as AccuracyRecord[];

/** A chart with one line for each data set and split on which at least two of the models were measured. */
function accuracyChart(models: ReportModel[]): string {
  const lines = new Map<string, Points>();
  for (const { manifest } of models) {
    for (const a of accuracyOf(manifest)) {
      const key = `${a.data}, ${a.split}, ${a.dtype}`;
      const macs = countMacs(manifest, manifest.labels.length);
      lines.set(key, [...(lines.get(key) ?? []), [macs, 100 * a.top1, manifest.name]]);
    }
  }
  return linesChart("Accuracy against multiply-accumulates", lines, { name: "MACs", axisLabel: { formatter: si } });
}

/**
 * Accuracy against milliseconds, with one line for each engine and device on which at least two of the models were
 * timed.
 */
function latencyChart(models: ReportModel[]): string {
  const lines = new Map<string, Points>();
  for (const { manifest } of models) {
    for (const { engine, dtype, threads, device, browser, msMedian } of latencyOf(manifest)) {
      const measured = accuracyOf(manifest).find((record) => record.dtype === dtype);
      if (!measured) continue;
      const key = `${engine} ${dtype}, ${threads} ${threads === 1 ? "thread" : "threads"}, ${browser}, ${device}; ${measured.data} ${measured.split}`;
      lines.set(key, [...(lines.get(key) ?? []), [msMedian, 100 * measured.top1, manifest.name]]);
    }
  }
  return linesChart("Accuracy against milliseconds", lines, { name: "ms an image" });
}

const latencyOf = ({ metrics }: ReportModel["manifest"]) => (metrics.latency ?? []) as LatencyRecord[];

type Points = [x: number, top1: number, name: string][];

function linesChart(title: string, lines: Map<string, Points>, xAxis: object): string {
  const shown = [...lines].filter(([, points]) => points.length > 1);
  if (shown.length === 0) return "";
  const option = {
    legend: {},
    xAxis: { type: "value", scale: true, ...xAxis },
    yAxis: { type: "value", name: "top-1 %", scale: true },
    series: shown.map(([name, points]) => ({
      name,
      type: "line",
      symbolSize: 9,
      data: points.sort((a, b) => a[0] - b[0]),
      label: { show: true, position: "top", formatter: ({ value }: { value: [number, number, string] }) => value[2] },
    })),
  };
  return `<h2>${title}</h2><div class="charts">${chart(`Top-1 ${title.toLowerCase()}`, option, 900, 380)}</div>`;
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

/** Bars over the blocks. The grey top of a bar is the part that was cut. */
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
  const axis = (length: number, inverse = false) => ({
    type: "category",
    data: Array.from({ length }, (_, k) => String(k)),
    inverse,
    show: false,
  });
  const pictures = distinctKeepLists(manifest, rows * columns).map(({ block, kept }) => {
    const cells = kept.map((isKept, patch) => [patch % columns, Math.floor(patch / columns), Number(isKept)]);
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
    const title = `from block ${block}: ${kept.filter(Boolean).length} of ${rows * columns} patches`;
    return chart(title, option, 150, Math.round((150 * rows) / columns));
  });
  return pictures.join("\n");
}

function histograms(zetas: BlockMasks[]): string {
  const flat = (of: (z: BlockMasks) => ArrayLike<number>) => zetas.flatMap((z) => Array.from(of(z)));
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

/** The loss and the terms it is the sum of, accuracy where it was measured; of a search also how the masks spread. */
function curves(history: Record<string, number>[]): string {
  const keys = [...new Set(history.flatMap(Object.keys))].filter((key) => key !== "step");
  const line = (key: string, name = key, scale = 1) => {
    const data = history.filter((at) => key in at).map((at) => [at.step, scale * at[key]]);
    return { name, type: "line", showSymbol: data.length <= 30, data };
  };
  const lines = (title: string, series: ReturnType<typeof line>[], width?: number, name?: string) =>
    chart(
      title,
      {
        legend: {},
        xAxis: { type: "value", name: "step", min: 0, max: history.at(-1)!.step },
        yAxis: { type: "value", scale: true, name },
        series,
      },
      width,
    );
  const terms = keys.filter((key) => !key.includes("."));
  const charts = [
    lines(
      "Loss and its terms",
      terms.map((key) => line(key)),
      900,
    ),
  ];
  const measured = MEASURES.filter(([key]) => keys.includes(key));
  if (measured.length) {
    const series = measured.map(([key, what]) => line(key, what, 100));
    charts.push(lines(`On val pictures: ${accuracySummary(history).join("; ")}`, series, 900, "%"));
  }
  for (const [family, title] of FAMILIES) {
    const names = keys.filter((key) => key.startsWith(`${family}.`));
    if (names.length) {
      const series = names.map((name) => line(name));
      charts.push(lines(title, series));
    }
  }
  return charts.join("\n");
}
