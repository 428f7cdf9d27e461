/**
 * npm run figures: measures the shipped models in a real browser, writes docs/bench.json, and rewrites the tables of
 * docs/benchmarks.md from it and from the models' manifests. It also writes the milliseconds into manifests and cards.
 * With --no-bench the tables are made from the stored measurements.
 */
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { cpus } from "node:os";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { findChromium } from "../../scripts/setup-chromium.mjs";
import type { EngineName } from "../../src/engines/engine.ts";
import { countMacs, countParams, type WeightsDtype } from "../../src/format/model.ts";
import { manifestText, readManifestFile, writeFileAtomic } from "../models/folders.ts";
import { type Metrics, recordMetrics } from "../models/metrics.ts";
import { say, si } from "../shared/terminal.ts";
import { type BenchRow, bench } from "./bench.ts";

const path = (name: string) => fileURLToPath(new URL(`../../${name}`, import.meta.url));
const BENCH = path("docs/bench.json");
const PAGE = "docs/benchmarks.md";
const ROUNDS = 40;

interface BenchFile {
  device: string;
  browser: string;
  command: string;
  rows: BenchRow[];
}

async function measure(folders: string[]): Promise<BenchFile> {
  const engine: EngineName[] = ["simd", "onnx-wasm"];
  const options = { engine, dtype: ["f16", "int8"] as WeightsDtype[], threads: [1, 2], rounds: ROUNDS };
  const rows = await bench(
    folders.map((folder) => path(`models/${folder}`)),
    options,
  );
  const browser = execFileSync(findChromium()!, ["--version"], { encoding: "utf8" }).trim();
  const command = `npx slimvit bench ${folders.map((folder) => `models/${folder}`).join(" ")} --engine ${engine.join(",")} --dtype f16,int8 --threads 1,2 --rounds ${ROUNDS}`;
  return { device: `${cpus()[0].model.trim()}, ${cpus().length} cores`, browser, command, rows };
}

function modelsTable(folders: string[], measured?: BenchFile): string {
  const lines = folders.flatMap((folder) => {
    const manifest = readManifestFile(path(`models/${folder}`));
    const classes = manifest.labels.length;
    return manifest.weights.map(({ dtype, file, bytes }) => {
      const packed = gzipSync(readFileSync(path(`models/${folder}/${file}`))).length;
      const ms = [1, 2].map((threads) => {
        const row = measured?.rows.find(
          (r) => r.model === manifest.name && r.engine === "simd" && r.dtype === dtype && r.threads === threads,
        );
        return row?.msMedian.toFixed(0) ?? "–";
      });
      const accuracy = ((manifest.metrics as Metrics).accuracy ?? [])
        .filter((a) => a.dtype === dtype)
        .map((a) => `${(100 * a.top1).toFixed(1)} % (${a.data}, n ${a.n})`);
      return `| [${folder}](../models/${folder}/card.md), ${dtype} | ${accuracy.join("; ") || "not measured"} | ${si(countMacs(manifest, classes))} | ${si(countParams(manifest, classes))} | ${(bytes / 1e6).toFixed(1)} / ${(packed / 1e6).toFixed(1)} | ${ms.join(" / ")} |`;
    });
  });
  return [
    "| model, weights | top-1 | MACs | parameters | MB, plain / gzip | ms an image, 1 / 2 threads |",
    "| --- | --- | --- | --- | --- | --- |",
    ...lines,
    "",
    ...(measured
      ? [
          `Milliseconds: \`simd\`, inference only, medians of ${ROUNDS} interleaved rounds after the outputs were checked against the reference; ${measured.device}, ${measured.browser}; \`npm run figures\`.`,
        ]
      : []),
    "Accuracy: `npx slimvit eval models/NAME --data DATA --dtype T --record`.",
  ].join("\n");
}

function measuredTable({ device, browser, command, rows }: BenchFile): string {
  return [
    `\`${command}\` on ${device}, ${browser}. "of dense": against the first model's f16 weights on the same engine and threads. Preprocessing: from a bitmap of 1365×1024, the size that a 12-megapixel photo is reduced to, to the network's input.`,
    "",
    "| model | engine | weights | threads | ms, median (p10–p90) | of dense | MACs, of dense | preprocess ms | from cache ms | memory MiB | largest log-probability error |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ...rows.map((row) => {
      const base = rows.find((other) => other.threads === row.threads && other.engine === row.engine)!;
      return `| ${row.model} | ${row.engine} | ${row.dtype} | ${row.threads} | ${row.msMedian.toFixed(1)} (${row.msP10.toFixed(1)}–${row.msP90.toFixed(1)}) | ${(row.msMedian / base.msMedian).toFixed(2)} | ${(row.gmacs / base.gmacs).toFixed(2)} | ${row.preprocessMs.toFixed(1)} | ${row.coldMs?.toFixed(0) ?? "–"} | ${row.memoryBytes ? (row.memoryBytes / 2 ** 20).toFixed(1) : "–"} | ${row.maxAbsDiff.toExponential(1)} |`;
    }),
  ].join("\n");
}

function replaceSection(text: string, name: string, content: string): string {
  const [begin, end] = [`<!-- ${name}:begin -->`, `<!-- ${name}:end -->`];
  const [from, to] = [text.indexOf(begin), text.indexOf(end)];
  if (from < 0 || to < from) throw new Error(`${PAGE} has no section ${name}.`);
  return `${text.slice(0, from + begin.length)}\n${content}\n${text.slice(to)}`;
}

const folders = (JSON.parse(readFileSync(path("models/index.json"), "utf8")) as { folder: string }[]).map(
  ({ folder }) => folder,
);
let measured: BenchFile | undefined = existsSync(BENCH) ? JSON.parse(readFileSync(BENCH, "utf8")) : undefined;
if (!process.argv.includes("--no-bench")) {
  measured = await measure(folders);
  writeFileAtomic(BENCH, manifestText(measured));
}
if (measured) {
  const { rows, device, browser } = measured;
  for (const folder of folders.map((name) => path(`models/${name}`))) {
    const { name } = readManifestFile(folder);
    const latency = rows
      .filter(({ model }) => model === name)
      .map(({ engine, dtype, threads, msMedian, msP10, msP90 }) => ({
        ...{ engine, dtype, threads, msMedian, msP10, msP90 },
        ...{ device, browser },
      }));
    recordMetrics(folder, { latency });
  }
}
let page = readFileSync(path(PAGE), "utf8");
page = replaceSection(page, "models", modelsTable(folders, measured));
if (measured) page = replaceSection(page, "measured", measuredTable(measured));
writeFileAtomic(path(PAGE), page);
say(`figures: ${PAGE} rewritten for ${folders.length} models`);
process.exit();
