/** The results of a sweep: a table of its points, and accuracy against MACs. */

import { percent, si } from "../shared/terminal.ts";
import { chart, reportPage, table } from "./charts.ts";

/** One point's result, a file of its own. */
export interface PointResult {
  /** sha256 of all that the result depends on; the file's name */
  key: string;
  label: string;
  budget: Record<string, unknown>;
  weights: Record<string, number>;
  seed: number;
  /** folder of the model, from the sweep's folder */
  model: string;
  weightsSha256: string[];
  macs: number;
  params: number;
  /** of the dense model's */
  macsShare: number;
  paramsShare: number;
  top1: number;
  top5: number;
  n: number;
  data: string;
  split: string;
}

const HEAD = ["budget", "loss weights", "seed", "MACs (of dense)", "parameters (of dense)", "top-1", "top-5", "n"];

export function sweepTable(results: PointResult[]): string {
  const line = (cells: string[]) => `| ${cells.join(" | ")} |`;
  return [HEAD, HEAD.map(() => "---"), ...results.map(cells)].map(line).join("\n");
}

export function sweepHtml(name: string, results: PointResult[]): string {
  return reportPage(name, `${accuracyChart(results)}\n${table(HEAD, results.map(cells))}`);
}

const named = (values: Record<string, unknown>) =>
  Object.entries(values)
    .map(([key, value]) => `${key} ${value}`)
    .join(", ");

function cells(result: PointResult): string[] {
  return [
    named(result.budget),
    named(result.weights) || "the recipe's",
    String(result.seed),
    `${si(result.macs)} (${percent(result.macsShare)})`,
    `${si(result.params)} (${percent(result.paramsShare)})`,
    percent(result.top1),
    percent(result.top5),
    String(result.n),
  ];
}

/** One line for each combination of loss weights, through the means over the seeds, and every seed as a dot. */
function accuracyChart(results: PointResult[]): string {
  const lines = grouped(results, ({ weights }) => named(weights) || "top-1");
  const series = [...lines].flatMap(([name, points]) => {
    const means = [...grouped(points, ({ budget }) => named(budget)).values()].map((seeds) => [
      mean(seeds.map(({ macs }) => macs)),
      100 * mean(seeds.map(({ top1 }) => top1)),
    ]);
    return [
      { name, type: "line", symbol: "none", data: means.sort((a, b) => a[0] - b[0]) },
      { name, type: "scatter", symbolSize: 8, data: points.map(({ macs, top1 }) => [macs, 100 * top1]) },
    ];
  });
  const title = "Top-1 accuracy against multiply-accumulates: every seed, and their mean";
  const option = {
    legend: {},
    xAxis: { type: "value", name: "MACs", scale: true, axisLabel: { formatter: si } },
    yAxis: { type: "value", name: "top-1 %", scale: true },
    series,
  };
  return `<div class="charts">${chart(title, option, 900, 420)}</div>`;
}

function grouped<T>(items: T[], keyOf: (item: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>();
  for (const item of items) groups.set(keyOf(item), [...(groups.get(keyOf(item)) ?? []), item]);
  return groups;
}

const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / values.length;
