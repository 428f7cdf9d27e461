/**
 * The parts of a report: a page, tables and charts. ECharts draws the charts as SVG without a browser. The page needs no
 * script and no other file, and follows the reader's light or dark setting.
 */
import { BarChart, HeatmapChart, LineChart, ScatterChart } from "echarts/charts";
import { GridComponent, LegendComponent, VisualMapComponent } from "echarts/components";
import { type EChartsCoreOption, init, use } from "echarts/core";
import { SVGRenderer } from "echarts/renderers";
import { escaped } from "./html.ts";

use([BarChart, LineChart, ScatterChart, HeatmapChart, GridComponent, LegendComponent, VisualMapComponent, SVGRenderer]);

/** Colours that are readable on white and on black. Text and lines have the page's colour. */
export const PALETTE = ["#3b82f6", "#e8793a", "#22a06b", "#a66be0", "#d6457c", "#12a5b8", "#b58a18", "#7c8aa0"];
export const CUT = "#9ca3af55";
const INK = "#0a0b0c"; // stands for the page's text colour; no chart uses it for anything else

const STYLE = `
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2rem auto; padding: 0 1rem;
  color: light-dark(#1b1f24, #e6e8eb); background: light-dark(#fff, #14171a); }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-top: 1px solid #8886; padding-top: 1rem; }
table { border-collapse: collapse; } th, td { text-align: right; padding: .2rem .8rem; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; } td:not(:first-child) { white-space: nowrap; }
.charts { display: flex; flex-wrap: wrap; gap: 1.2rem; } figure { margin: 0; } figcaption { font-size: .9rem; opacity: .85; }
svg { max-width: 100%; height: auto; }
`;

/** The end of a report's title, which tells reports from other pages. */
export const REPORT_TITLE = "SlimViT report</title>";

/** @param body HTML under the title */
export function reportPage(title: string, body: string): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escaped(title)} – ${REPORT_TITLE}
<style>${STYLE}</style>
</head>
<body>
<h1>${escaped(title)}</h1>
${body}
</body>
</html>
`;
}

export function chart(title: string, option: EChartsCoreOption, width = 500, height = 260): string {
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

/** Merges `over` into `base`, one level deep. */
function deepened(base: Record<string, object>, over: Record<string, unknown>): Record<string, unknown> {
  const out: Record<string, unknown> = { ...base, ...over };
  for (const [key, value] of Object.entries(base))
    if (typeof over[key] === "object") out[key] = { ...value, ...(over[key] as object) };
  return out;
}

export function table(head: string[], rows: string[][]): string {
  const line = (tag: string, cells: string[]) =>
    `<tr>${cells.map((c) => `<${tag}>${escaped(c)}</${tag}>`).join("")}</tr>`;
  return `<table>${line("th", head)}${rows.map((row) => line("td", row)).join("")}</table>`;
}
