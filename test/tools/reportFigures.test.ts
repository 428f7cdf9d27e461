/** The figures that a report's charts are drawn from. */
import { beforeEach, describe, expect, test, vi } from "vitest";
import { countMacs } from "../../src/format/model.ts";
import { type ReportModel, reportHtml } from "../../tools/report/report.ts";
import { type PointResult, sweepHtml, sweepTable } from "../../tools/report/sweepReport.ts";
import { manifestOf } from "../helpers.ts";
import { tinyArchitecture } from "./fixtures.ts";

interface Drawn {
  series: { name?: string; type: string; data: unknown[] }[];
  xAxis: { data?: string[] };
  yAxis: { data?: string[]; inverse?: boolean };
}
const drawn = new Map<string, Drawn>();
vi.mock("../../tools/report/charts.ts", async (original) => ({
  ...(await original<object>()),
  chart: (title: string, option: Drawn) => {
    drawn.set(title, option);
    return "";
  },
}));
beforeEach(() => drawn.clear());

const dataOf = (title: string, series = 0) => drawn.get(title)!.series[series].data;

/** 2 × 4 patches; 3 heads of 8 channels and 24 units in each block when it was dense. */
function model(name: string, units: number, metrics: Record<string, unknown> = {}): ReportModel {
  const blocks = [
    { headDims: [8, 3], mlpHidden: units, keepIdx: [0, 1, 2, 3, 4, 5, 6, 7, 8] },
    { headDims: [4], mlpHidden: 7, keepIdx: [0, 1, 4, 8] },
  ];
  const arch = tinyArchitecture({ imageSize: [16, 32], blocks: blocks as never });
  const manifest = { ...manifestOf(arch, 3), name, metrics };
  return { manifest: { ...manifest, provenance: { dense: { heads: 3, mlpHidden: [24, 24] } } } };
}

describe("a report", () => {
  test("has the patches where they lie in the picture, row by row from the top", () => {
    reportHtml([model("one", 20)]);
    const title = "from block 1: 3 of 8 patches";
    const kept = (dataOf(title) as number[][]).filter(([, , isKept]) => isKept);
    expect(kept.map(([x, y]) => [x, y])).toEqual([
      [0, 0],
      [3, 0],
      [3, 1],
    ]);
    const { xAxis, yAxis } = drawn.get(title)!;
    expect([xAxis.data!.length, yAxis.data!.length, yAxis.inverse]).toEqual([4, 2, true]);
  });

  test("has what each block keeps, by head, and what was cut of the dense width", () => {
    reportHtml([model("one", 20)]);
    const bars = (title: string) => drawn.get(title)!.series.map(({ name, data }) => [name, data]);
    expect(bars("Attention channels a block, by surviving head")).toEqual([
      ["head 0", [8, 4]],
      ["head 1", [3, 0]],
      ["cut", [13, 20]],
    ]);
    expect(bars("MLP units a block")).toEqual([
      ["kept", [20, 7]],
      ["cut", [4, 17]],
    ]);
    expect(bars("Tokens a block")).toEqual([
      ["kept", [9, 4]],
      ["cut", [0, 5]],
    ]);
  });

  test("has masks in forty bins from 0 to 1, those of tokens after tanh", () => {
    const zetas = [{ attn: Float32Array.of(0, 0.99, 1), mlp: Float32Array.of(0.5), patch: Float32Array.of(0.5, 3) }];
    reportHtml([{ ...model("one", 20), zetas }]);
    const filled = (title: string) =>
      (dataOf(title) as number[]).flatMap((count, bin) => (count ? [[bin, count]] : []));
    expect(filled("Attention ζ, all blocks")).toEqual([
      [0, 1],
      [39, 2],
    ]);
    expect(filled("MLP ζ, all blocks")).toEqual([[20, 1]]);
    expect(filled("Tokens: tanh ζ, all blocks")).toEqual([
      [Math.floor(40 * Math.tanh(0.5)), 1],
      [39, 1],
    ]);
  });

  const accuracy = (dtype: string, top1: number) => ({ data: "d", split: "val", top1, n: 9, engine: "simd", dtype });
  const latency = (dtype: string, msMedian: number) => ({
    ...{ engine: "simd", dtype, threads: 1, msMedian, msP10: 1, msP90: 9, device: "a machine", browser: "a browser" },
  });

  test("has accuracy by MACs, the fewest first, and by milliseconds with the accuracy of the same weights", () => {
    const [large, small] = [["large", 20, 0.8] as const, ["small", 10, 0.6] as const].map(([name, units, top1]) =>
      model(name, units, {
        accuracy: [accuracy("f32", top1), accuracy("int8", top1 - 0.1)],
        latency: [latency("int8", units / 10)],
      }),
    );
    reportHtml([large, small]);
    const macs = ({ manifest }: ReportModel) => countMacs(manifest, 3);
    const lines = drawn.get("Top-1 accuracy against multiply-accumulates")!.series;
    expect(lines.map(({ name, data }) => [name, data])).toEqual([
      [
        "d, val, f32",
        [
          [macs(small), 60, "small"],
          [macs(large), 80, "large"],
        ],
      ],
      [
        "d, val, int8",
        [
          [macs(small), 50, "small"],
          [macs(large), expect.closeTo(70), "large"],
        ],
      ],
    ]);
    expect(dataOf("Top-1 accuracy against milliseconds")).toEqual([
      [1, 50, "small"],
      [2, expect.closeTo(70), "large"],
    ]);
  });
});

describe("a sweep's report", () => {
  const point = (budget: number, seed: number, top1: number, weights: Record<string, number> = {}): PointResult => ({
    ...{ key: "", label: "", budget: { macs: budget }, weights, seed, model: "", weightsSha256: [] },
    ...{ macs: 1000 * budget, params: 500 * budget, macsShare: budget, paramsShare: budget / 2 },
    ...{ top1, top5: top1 + 0.1, n: 50, data: "d", split: "test" },
  });

  test("has a line through the means over the seeds, and every seed as a dot", () => {
    sweepHtml("swept", [
      point(0.8, 1, 0.75),
      point(0.5, 1, 0.5),
      point(0.5, 2, 0.75),
      point(0.8, 1, 0.25, { wAttn: 1 }),
    ]);
    const [chart] = drawn.values();
    expect(chart.series.map(({ name, type, data }) => [name, type, data])).toEqual([
      [
        "top-1",
        "line",
        [
          [500, 62.5],
          [800, 75],
        ],
      ],
      [
        "top-1",
        "scatter",
        [
          [800, 75],
          [500, 50],
          [500, 75],
        ],
      ],
      ["wAttn 1", "line", [[800, 25]]],
      ["wAttn 1", "scatter", [[800, 25]]],
    ]);
  });

  test("has each figure with its own share in the table", () => {
    const line = sweepTable([point(0.5, 3, 0.5, { wAttn: 0.1 })])
      .split("\n")
      .at(-1)!;
    expect(line.split("|").map((cell) => cell.trim())).toEqual([
      "",
      "macs 0.5",
      "wAttn 0.1",
      "3",
      "500 (50.0 %)",
      "250 (25.0 %)",
      "50.0 %",
      "60.0 %",
      "50",
      "",
    ]);
  });
});
