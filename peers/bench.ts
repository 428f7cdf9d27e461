/**
 * npm run bench:peers [-- --on wasm|webgpu|webnn --rounds N --threads 1,2 --dense MODEL --slim MODEL --name NAME --only TEXT]: our engines and other
 * runtimes on the same networks, in one page a thread count. `--on webgpu` runs on this machine's adapter, or with --swiftshader on the CPU, where
 * only ratios count; `--on webnn` in the Chromium that has WebNN. Outputs are held against the reference engine first, then all are timed in turn,
 * every round in another order. Writes docs/peers.json, docs/peers.md and docs/peers.svg (or NAME.json and so on), unless --only is given.
 * MODEL may be random:deit-small and the like.
 */
import { mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { availableParallelism, cpus, loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";
import { adapterName } from "../src/engines/adapter.ts";
import { messageOf } from "../src/errors.ts";
import { countMacs, type Model } from "../src/format/model.ts";
import { preprocess } from "../src/image/resample.ts";
import { forward } from "../src/reference/forward.ts";
import { testImage } from "../tools/bench/benchModels.ts";
import { manifestText, writeFileAtomic } from "../tools/models/folders.ts";
import { openPage, SWIFTSHADER } from "../tools/shared/browser.ts";
import { random, shuffled } from "../tools/shared/random.ts";
import { say } from "../tools/shared/terminal.ts";
import { CASES, type Case, type Network, PLATFORMS, type Platform } from "./cases.ts";
import { writeModels } from "./models.ts";
import { type PeersFile, type PeersRow, peersChart, peersTable } from "./report.ts";

const path = (name: string) => fileURLToPath(new URL(name, import.meta.url));
const PICTURE = path("../demo/samples/china.jpg");
/** Rounds that are not counted, and rounds from a JPEG file. A CPU that plays the GPU takes a minute for a round, and only ratios count there. */
const ROUNDS = { gpu: { warmUp: 3, jpeg: 7 }, swiftshader: { warmUp: 1, jpeg: 0 } };
/** Largest difference of a log-probability from the reference: f32 rounds; int8 of any runtime is only near. */
const TOLERANCE = { f32: 0.01, f16: 0.05, int8: 1.5 };

/** The row that a table compares the others with. */
const BASE: Record<Platform, PeersFile["base"]> = {
  wasm: { name: "SlimViT simd", network: "slim", dtype: "int8" },
  webgpu: { name: "SlimViT webgpu", network: "dense", dtype: "f32" },
  webnn: { name: "SlimViT webnn", network: "dense", dtype: "f32" },
};

/** Bytes in gzip, by file. */
const compressed = new Map<string, number>();

const options = readOptions();
const { warmUp, jpeg: jpegRounds } = ROUNDS[options.swiftshader ? "swiftshader" : "gpu"];

const temporary = mkdtempSync(join(tmpdir(), "slimvit-peers-"));
const platform = PLATFORMS.find((name) => name === options.on) ?? unknownPlatform(options.on);
const cases = CASES[platform].filter((c) => `${c.name} ${c.network} ${c.dtype}`.includes(options.only));
try {
  if (loadavg()[0] > 0.3 * availableParallelism())
    say(`bench:peers: this machine has other work (load ${loadavg()[0].toFixed(1)}): ratios hold, milliseconds do not`);
  await bundle(join(temporary, "workers"));
  say("bench:peers: writing the models");
  const networks = await writeModels(join(temporary, "models"), { dense: options.dense, slim: options.slim }, platform);
  const rows: PeersRow[] = [];
  let [browser, adapter] = ["", ""];
  const threadCounts = options.threads ?? (platform === "wasm" ? "1,2" : "1");
  for (const threads of threadCounts.split(",").map(Number)) {
    const measured = await measure(networks, threads);
    rows.push(...measured.rows);
    ({ browser, adapter } = measured);
  }
  const file: PeersFile = {
    device: `${cpus()[0].model.trim()}, ${cpus().length} cores${adapter && `, WebGPU on ${adapter}`}`,
    browser,
    base: BASE[platform],
    command: ["npm run bench:peers", ...(process.argv.length > 2 ? ["--", ...process.argv.slice(2)] : [])].join(" "),
    rounds: Number(options.rounds),
    peers: JSON.parse(readFileSync(path("package.json"), "utf8")).dependencies,
    rows,
  };
  const table = peersTable(file);
  process.stdout.write(`${table}\n`);
  if (!options.only) {
    const name = options.name ?? (platform === "wasm" ? "peers" : `peers-${platform}`);
    const docs = (ending: string) => path(`../docs/${name}.${ending}`);
    writeFileAtomic(docs("json"), manifestText(file));
    writeFileAtomic(docs("md"), `# Beside other runtimes\n\n${table}\n\n![Milliseconds an image](${name}.svg)\n`);
    writeFileAtomic(docs("svg"), peersChart(file));
  }
} finally {
  rmSync(temporary, { recursive: true, force: true });
}
process.exit();

function unknownPlatform(name: string): never {
  throw new Error(`--on is "${name}"; expected one of ${PLATFORMS.join(", ")}.`);
}

function readOptions() {
  try {
    const { values } = parseArgs({
      options: {
        on: { type: "string", default: "wasm" },
        swiftshader: { type: "boolean", default: false },
        rounds: { type: "string", default: "20" },
        threads: { type: "string" },
        dense: { type: "string", default: path("../models/deit-tiny") },
        slim: { type: "string", default: path("../models/deit-tiny-slim") },
        name: { type: "string" },
        only: { type: "string", default: "" },
      },
    });
    return values;
  } catch (error) {
    say(
      `bench:peers: ${messageOf(error)} The options are --on, --swiftshader, --rounds, --threads, --dense, --slim, --name and --only (peers/README.md).`,
    );
    process.exit(2);
  }
}

async function bundle(outdir: string): Promise<void> {
  const common = {
    bundle: true,
    minify: true,
    outdir,
    platform: "browser" as const,
    target: "es2022",
    logLevel: "error" as const,
  };
  const entry = (name: string) => path(`workers/${name}.ts`);
  await build({ ...common, format: "esm", entryPoints: ["ort", "ortWebnn", "tfjs", "transformers"].map(entry) });
  await build({ ...common, format: "iife", entryPoints: [entry("litert")] });
  await build({ ...common, format: "iife", entryPoints: [path("page.ts")] });
}

type InPage = {
  peers: {
    prepare(...input: unknown[]): void;
    open(c: Case, k: number, threads: number): Promise<{ coldMs: number; threads: number; logProbabilities: number[] }>;
    round(order: number[]): Promise<number[]>;
    endToEnd(order: number[]): Promise<(number | string | null)[]>;
    memory(order: number[]): Promise<(number | undefined)[]>;
  };
};

async function measure(networks: Record<Network, Model>, threads: number) {
  const mounts: Record<string, string> = {};
  const modules = path("node_modules");
  cases.forEach((_, k) => {
    mounts[`/c${k}/dist`] = path("../dist");
    mounts[`/c${k}/workers`] = join(temporary, "workers");
    mounts[`/c${k}/ort`] = join(modules, "onnxruntime-web/dist");
    mounts[`/c${k}/litert`] = join(modules, "@litertjs/core/wasm");
    mounts[`/c${k}/tfjs`] = join(modules, "@tensorflow/tfjs-backend-wasm/wasm-out");
    mounts[`/c${k}/tfjs-core`] = path("../node_modules/@tensorflow/tfjs-core/dist");
    mounts[`/c${k}/tfjs-webgpu`] = path("../node_modules/@tensorflow/tfjs-backend-webgpu/dist");
    mounts[`/c${k}/transformers-ort`] = join(modules, "@huggingface/transformers/node_modules/onnxruntime-web/dist");
    mounts[`/c${k}`] = join(temporary, "models");
  });
  const asked = cases.map(() => new Set<string>());
  const seen = (url: string) => {
    const [, k] = url.match(/^\/c(\d+)\//) ?? [];
    if (k) asked[Number(k)].add(url.split("?")[0]);
  };
  const flags = platform === "webgpu" ? (options.swiftshader ? SWIFTSHADER : ["--enable-unsafe-webgpu"]) : [];
  const opened = await openPage(mounts, true, flags, seen, [], platform === "webnn");
  const { page } = opened;
  try {
    const picture = testImage();
    const pixels = Object.fromEntries(
      Object.entries(networks).map(([network, { manifest }]) => [network, preprocess(picture, manifest.preprocess)]),
    );
    const numbers = Object.fromEntries(
      Object.entries(pixels).map(([network, values]) => [network, Array.from(values)]),
    );
    await page.addScriptTag({ path: join(temporary, "workers/page.js") });
    await page.evaluate(
      ([image, values, jpeg]) => (globalThis as unknown as InPage).peers.prepare(image, values, jpeg),
      [{ ...picture, data: Array.from(picture.data) }, numbers, Array.from(readFileSync(PICTURE))] as const,
    );
    const wanted = new Map<Network, Float64Array>();
    const rows: PeersRow[] = [];
    const good: number[] = [];
    for (const [k, c] of cases.entries()) {
      const { manifest } = networks[c.network];
      const row: PeersRow = {
        name: c.name,
        network: c.network,
        dtype: c.dtype,
        threads,
        gmacs: countMacs(manifest, manifest.labels.length) / 1e9,
      };
      rows.push(row);
      if (!wanted.has(c.network)) wanted.set(c.network, logProbabilities(networks[c.network], pixels[c.network]));
      const expected = wanted.get(c.network)!;
      try {
        const result = await page.evaluate(
          ([c, k, threads]) => (globalThis as unknown as InPage).peers.open(c, k, threads),
          [c, k, threads] as const,
        );
        row.maxAbsDiff = expected.reduce((worst, v, i) => Math.max(worst, Math.abs(v - result.logProbabilities[i])), 0);
        row.coldMs = result.coldMs;
        row.threads = result.threads;
        row.bytes = [...asked[k]].reduce((sum, url) => sum + servedBytes(url, mounts), 0);
        if (!(row.maxAbsDiff <= (c.tolerance ?? TOLERANCE[c.dtype])))
          row.failed = `off by ${row.maxAbsDiff.toExponential(1)} from the reference`;
        else good.push(k);
      } catch (error) {
        row.failed = String((error as Error).message).split("\n")[0];
      }
      say(`bench:peers: ${threads} threads, ${c.name}, ${c.network} ${c.dtype}: ${row.failed ?? "right"}`);
    }
    const samples = cases.map(() => [] as number[]);
    for (let round = 0; round < warmUp + Number(options.rounds); round++) {
      const order = shuffled(good, random(threads, round));
      const times = await page.evaluate((order) => (globalThis as unknown as InPage).peers.round(order), order);
      if (round >= warmUp) times.forEach((ms, i) => void samples[order[i]].push(ms));
    }
    const whole = cases.map(() => [] as number[]);
    for (let round = 0; round < jpegRounds; round++) {
      const times = await page.evaluate((order) => (globalThis as unknown as InPage).peers.endToEnd(order), good);
      for (const [i, ms] of times.entries()) {
        if (typeof ms === "number" && round > 0) whole[good[i]].push(ms); // the first one warms up
        if (typeof ms === "string" && round === 0) say(`bench:peers: ${cases[good[i]].name} took no JPEG: ${ms}`);
      }
    }
    const memory = await page.evaluate((order) => (globalThis as unknown as InPage).peers.memory(order), good);
    for (const [i, k] of good.entries()) {
      const row = rows[k];
      [row.msP10, row.msMedian, row.msP90] = [0.1, 0.5, 0.9].map((q) => quantile(samples[k], q));
      if (whole[k].length) row.endToEndMs = quantile(whole[k], 0.5);
      row.memoryBytes = memory[i];
    }
    const adapter = platform === "webgpu" ? adapterName(await page.evaluate(adapterInfo)) : "";
    return { rows, browser: `Chromium ${opened.browser.version()}`, adapter };
  } finally {
    await opened.close();
  }
}

function logProbabilities(model: Model, pixels: Float32Array): Float64Array {
  const { logits } = forward(model, pixels);
  const max = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const total = logits.reduce((sum, v) => sum + Math.exp(v - max), 0);
  return Float64Array.from(logits, (v) => v - max - Math.log(total));
}

/** Runs in the page. */
async function adapterInfo() {
  const { vendor, architecture, device, description } = (await navigator.gpu.requestAdapter())!.info;
  return { vendor, architecture, device, description };
}

/** In gzip, as a server would send it; 0 for what is not there (optional files that a runtime looks for). */
function servedBytes(url: string, mounts: Record<string, string>): number {
  const prefix = Object.keys(mounts).find((mount) => url.startsWith(`${mount}/`))!;
  const file = join(mounts[prefix], decodeURIComponent(url.slice(prefix.length)));
  if (!statSync(file, { throwIfNoEntry: false })?.isFile()) return 0;
  if (!compressed.has(file)) compressed.set(file, gzipSync(readFileSync(file)).length);
  return compressed.get(file)!;
}

function quantile(values: number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))];
}
