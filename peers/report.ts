/** docs/peers.json as a table and as a chart. */
import { BarChart } from "echarts/charts";
import { GridComponent, TitleComponent } from "echarts/components";
import { init, use } from "echarts/core";
import { SVGRenderer } from "echarts/renderers";
import type { Network } from "./cases.ts";

use([BarChart, GridComponent, TitleComponent, SVGRenderer]);

export interface PeersRow {
  name: string;
  network: Network;
  dtype: string;
  threads: number;
  gmacs: number;
  /** of inference; a case with wrong output is not timed */
  msMedian?: number;
  msP10?: number;
  msP90?: number;
  /** from a JPEG's bytes to the best label */
  endToEndMs?: number;
  /** code and weights in the browser's caches, first run left out */
  coldMs?: number;
  /** gzip: code, WASM and weights up to the first result */
  bytes?: number;
  memoryBytes?: number;
  /** of a log-probability, from the reference */
  maxAbsDiff?: number;
  failed?: string;
}

export interface PeersFile {
  device: string;
  browser: string;
  command: string;
  rounds: number;
  /** the row that the others are compared with */
  base: Pick<PeersRow, "name" | "network" | "dtype">;
  /** versions by package */
  peers: Record<string, string>;
  rows: PeersRow[];
}

const NETWORKS =
  "masked: the dense network multiplied by 0 and 1, nothing removed. uniform: the dense network with one head width and one MLP width, at the slim one's MACs.";

export function peersTable({ device, browser, command, rounds, base: named, peers, rows }: PeersFile): string {
  const versions = Object.entries(peers).map(([name, version]) => `${name} ${version}`);
  const mb = (bytes?: number) => (bytes ? (bytes / 1e6).toFixed(1) : "–");
  const lines = rows.map((r) => {
    const what = `| ${r.name} | ${r.network} | ${r.dtype} | ${r.threads} |`;
    if (r.msMedian === undefined) return `${what} ${r.failed ?? "not timed"} | | | | | | | | |`;
    const base = rows.find(
      (o) => o.name === named.name && o.network === named.network && o.dtype === named.dtype && o.threads === r.threads,
    );
    return [
      `${what} ${r.msMedian.toFixed(1)} (${r.msP10!.toFixed(1)}–${r.msP90!.toFixed(1)})`,
      base?.msMedian ? (r.msMedian / base.msMedian).toFixed(2) : "–",
      (1000 / r.msMedian).toFixed(1),
      ((2000 * r.gmacs) / r.msMedian).toFixed(1),
      r.endToEndMs?.toFixed(1) ?? "–",
      mb(r.bytes),
      r.coldMs?.toFixed(0) ?? "–",
      mb(r.memoryBytes),
      `${r.maxAbsDiff!.toExponential(1)} |`,
    ].join(" | ");
  });
  return [
    `\`${command}\` on ${device}, ${browser}: medians of ${rounds} interleaved rounds, inference alone; outputs were held against the reference first. ${versions.join(", ")}.`,
    "",
    `| runtime | network | weights | threads | ms (p10–p90) | of ${named.name} ${named.network} ${named.dtype} | images/s | GFLOP/s | JPEG to label, ms | MB to the first result | start from cache, ms | memory, MB | largest log-probability error |`,
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ...lines,
    "",
    ...(rows.some(({ network }) => network === "masked") ? [NETWORKS] : []),
    "MB: gzip. Memory: the runtime's WASM memories after its runs; they do not shrink.",
  ].join("\n");
}

export function peersChart({ rows, device }: PeersFile): string {
  const threads = Math.min(...rows.map((r) => r.threads));
  const timed = rows
    .filter((r) => r.msMedian !== undefined && r.threads === threads)
    .sort((a, b) => b.msMedian! - a.msMedian!);
  const chart = init(null, null, { renderer: "svg", ssr: true, width: 820, height: 60 + 24 * timed.length });
  chart.setOption({
    animation: false,
    grid: { left: 280, right: 60, top: 30, bottom: 30 },
    xAxis: { type: "value", name: "ms", axisLabel: { showMinLabel: true } },
    yAxis: { type: "category", data: timed.map((r) => `${r.name}, ${r.network} ${r.dtype}`) },
    title: { text: device },
    series: [
      {
        type: "bar",
        data: timed.map((r) => ({
          value: Number(r.msMedian!.toFixed(1)),
          itemStyle: { color: r.name.startsWith("SlimViT") ? "#2f6fde" : "#9aa4b2" },
        })),
        label: { show: true, position: "right" },
      },
    ],
  });
  return chart.renderToSVGString();
}
