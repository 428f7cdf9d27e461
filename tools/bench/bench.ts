/**
 * slimvit bench MODEL... [--engine E,...] [--dtype T,...] [--threads N,...]: milliseconds an image in a real browser.
 * Every combination is loaded into one page, and its output is checked against the reference engine. Then all are timed
 * in interleaved rounds, each round in another order, so that drifts of the machine's speed and effects of the previous
 * run affect all alike. A MODEL may also be random:deit-small and the like (models/shapes.ts).
 */
import { createRequire } from "node:module";
import { availableParallelism, loadavg } from "node:os";
import { dirname, resolve } from "node:path";
import type { EngineName } from "../../src/engines/engine.ts";
import { SlimViTError } from "../../src/errors.ts";
import { countMacs, type WeightsDtype } from "../../src/format/model.ts";
import { preprocess, type RawImage } from "../../src/image/resample.ts";
import type { WebnnOptions } from "../../src/protocol.ts";
import { forward } from "../../src/reference/forward.ts";
import { readManifestFile, readModelFolder, splitSource } from "../models/folders.ts";
import { titleOf } from "../models/sources.ts";
import { openPage } from "../shared/browser.ts";
import { random, shuffled } from "../shared/random.ts";
import { runtimeFolder } from "../shared/runtime.ts";
import { say } from "../shared/terminal.ts";
import { testImage, timedDtypes, withFolders } from "./benchModels.ts";

export interface BenchOptions {
  engine: EngineName[];
  /** default all that a model has */
  dtype?: WeightsDtype[];
  threads: number[];
  rounds: number;
  /** of engine "webnn"; default what the browser chooses */
  webnnDevice?: DeviceType[];
}

type DeviceType = NonNullable<WebnnOptions["deviceType"]>;

export interface BenchRow {
  model: string;
  engine: EngineName;
  dtype: WeightsDtype;
  threads: number;
  /** that engine "webnn" asked for */
  deviceType?: DeviceType;
  /** of inference, preprocessing left out */
  msMedian: number;
  msP10: number;
  msP90: number;
  /** from an ImageBitmap of `PHOTO`'s size to the network's input */
  preprocessMs: number;
  /** the first time, with files over this machine's own network */
  loadMs: number;
  /** in a page opened anew, code and weights from the browser's caches, first run left out; median of `COLD_LOADS` */
  coldMs: number;
  /** weights, activations and everything else, where the engine reports it */
  memoryBytes?: number;
  /** against the reference engine on the f32 weights: largest difference of a log-probability */
  maxAbsDiff: number;
  gmacs: number;
}

export const WARM_UP = 3;

const COLD_LOADS = 7;

/** Milliseconds in which the browser becomes idle, before a page loads a model and after a page is closed. */
const SETTLE_MS = 300;

/** The size of a 12-megapixel photo after the browser has reduced it for the SDK (src/image/decode.ts). */
const PHOTO = { width: 1365, height: 1024 };

export async function bench(names: string[], options: BenchOptions): Promise<BenchRow[]> {
  const busy = loadavg()[0];
  if (busy > 0.3 * availableParallelism())
    say(`bench: this machine is busy with other work (load ${busy.toFixed(1)}); compare ratios, not milliseconds`);
  const isCalibrated = options.engine.includes("webnn");
  return withFolders(names, options.dtype, isCalibrated, (sources) => benchFolders(sources, options));
}

async function benchFolders(sources: string[], options: BenchOptions): Promise<BenchRow[]> {
  const dist = runtimeFolder();
  const require = createRequire(import.meta.url);
  const mounts: Record<string, string> = { "/dist": dist, "/ort": dirname(require.resolve("onnxruntime-web")) };
  const cases: Case[] = sources.flatMap((source, k) => {
    mounts[`/model${k}`] = resolve(splitSource(source).dir);
    const manifest = readManifestFile(source);
    const { variant } = manifest;
    const dtypes = timedDtypes(source, manifest, options.dtype);
    return options.engine.flatMap((engine) => {
      const isWebnn = engine === "webnn";
      const devices = (isWebnn && options.webnnDevice) || [undefined];
      return dtypes.flatMap((dtype) =>
        (isWebnn ? [1] : options.threads).flatMap((threads) =>
          devices.map((deviceType) => {
            const webnn = deviceType && { deviceType };
            return { source, url: `/model${k}/`, variant, engine, dtype, threads, webnn };
          }),
        ),
      );
    });
  });
  const image = testImage();
  const expected = new Map(sources.map((source) => [source, referenceLogProbabilities(source, image)]));

  const ort = "/ort/ort.wasm.bundle.min.mjs";
  const withWebnn = options.engine.includes("webnn");
  const { page, visit, close } = await openPage(mounts, true, [], () => {}, ["/dist", "/ort"], withWebnn);
  try {
    const picture = { ...image, data: Array.from(image.data) };
    const loaded = await page.evaluate(loadInPage, { cases, ort, image: picture });
    const cold = cases.map(() => [] as number[]);
    for (let round = 0; round <= COLD_LOADS; round++) {
      for (const [k, one] of cases.entries()) {
        const opened = await visit();
        await settle();
        const ms = await opened.evaluate(coldLoad, { one, ort });
        if (round > 0) cold[k].push(ms); // the first finds the caches cleared
        await opened.close();
        await settle();
      }
    }
    await page.evaluate(keepInPage, { cases, ort, image: picture, photo: PHOTO });
    const samples: Timing[][] = cases.map(() => []);
    for (let round = 0; round < WARM_UP + options.rounds; round++) {
      const order = shuffled([...cases.keys()], random(1, round));
      const times = await page.evaluate(timeOneRound, order);
      if (round >= WARM_UP) times.forEach((time, k) => void samples[order[k]].push(time));
    }
    return cases.map((c, k) => {
      const manifest = readManifestFile(c.source);
      const wanted = expected.get(c.source)!;
      const inference = samples[k].map((time) => time.inference);
      return {
        model: titleOf(manifest),
        engine: c.engine,
        dtype: c.dtype,
        threads: loaded[k].threads,
        ...(c.webnn && { deviceType: c.webnn.deviceType }),
        msMedian: quantile(inference, 0.5),
        msP10: quantile(inference, 0.1),
        msP90: quantile(inference, 0.9),
        preprocessMs: quantile(
          samples[k].map((time) => time.preprocess),
          0.5,
        ),
        loadMs: loaded[k].loadMs,
        coldMs: quantile(cold[k], 0.5),
        memoryBytes: loaded[k].memoryBytes,
        maxAbsDiff: loaded[k].logProbabilities.reduce((worst, v, i) => Math.max(worst, Math.abs(v - wanted[i])), 0),
        gmacs: countMacs(manifest, manifest.labels.length) / 1e9,
      };
    });
  } catch (error) {
    throw new SlimViTError("unsupported", `bench: the page failed: ${String((error as Error).message).split("\n")[0]}`);
  } finally {
    await close();
  }
}

interface Case {
  source: string;
  url: string;
  variant: string;
  engine: EngineName;
  dtype: WeightsDtype;
  threads: number;
  webnn?: WebnnOptions;
}

interface Timing {
  preprocess: number;
  inference: number;
}

function settle(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
}

/** Runs in the page: each case once, from nothing, and its answer. */
async function loadInPage({
  cases,
  ort,
  image,
}: {
  cases: Case[];
  ort: string;
  image: { data: number[]; width: number; height: number };
}) {
  const url = "/dist/index.js";
  const { SlimViT } = await import(/* @vite-ignore */ url);
  const picture = { ...image, data: new Uint8ClampedArray(image.data) };
  const results: { loadMs: number; memoryBytes?: number; threads: number; logProbabilities: number[] }[] = [];
  for (const { url, variant, engine, dtype, threads, webnn } of cases) {
    const engineUrls = { "onnxruntime-web": new URL(ort, location.href).href };
    await caches.delete("slimvit");
    const start = performance.now();
    const vit = await SlimViT.load(url, { variant, engine, dtype, threads, engineUrls, webnn });
    const loadMs = performance.now() - start;
    const { classes } = await vit.classify(picture, { topK: vit.info.labels.length });
    const logProbabilities: number[] = [];
    for (const { index, score } of classes) logProbabilities[index] = Math.log(Math.max(score, 1e-30));
    const { memoryBytes, threads: taken } = vit.info;
    results.push({ loadMs, memoryBytes, threads: taken, logProbabilities });
    vit.dispose();
  }
  return results;
}

/** Runs in a page of its own. */
async function coldLoad({
  one: { url, variant, engine, dtype, threads, webnn },
  ort,
}: {
  one: Case;
  ort: string;
}): Promise<number> {
  const code = "/dist/index.js";
  const { SlimViT } = await import(/* @vite-ignore */ code);
  const engineUrls = { "onnxruntime-web": new URL(ort, location.href).href };
  const start = performance.now();
  const vit = await SlimViT.load(url, { variant, engine, dtype, threads, engineUrls, webnn });
  return performance.now() - start - vit.info.loadMs.firstRun;
}

/** Runs in the page: loads all cases and a picture for `timeOneRound`. */
async function keepInPage({
  cases,
  ort,
  image: { data, width, height },
  photo,
}: {
  cases: Case[];
  ort: string;
  image: { data: number[]; width: number; height: number };
  photo: { width: number; height: number };
}): Promise<void> {
  const code = "/dist/index.js";
  const { SlimViT } = await import(/* @vite-ignore */ code);
  const engineUrls = { "onnxruntime-web": new URL(ort, location.href).href };
  const all = [];
  for (const { url, variant, engine, dtype, threads, webnn } of cases) {
    all.push(await SlimViT.load(url, { variant, engine, dtype, threads, engineUrls, webnn }));
  }
  const bitmap = await createImageBitmap(new ImageData(new Uint8ClampedArray(data), width, height), {
    resizeWidth: photo.width,
    resizeHeight: photo.height,
  });
  Object.assign(globalThis, { bench: { all, bitmap } });
}

/** Runs in the page: each case once, in this order. */
async function timeOneRound(order: number[]): Promise<Timing[]> {
  const { all, bitmap } = (
    globalThis as unknown as {
      bench: { all: { classify(image: unknown): Promise<{ latencyMs: Timing }> }[]; bitmap: ImageBitmap };
    }
  ).bench;
  const times: Timing[] = [];
  for (const k of order) {
    const { preprocess, inference } = (await all[k].classify(bitmap)).latencyMs;
    times.push({ preprocess, inference });
    await new Promise((resolve) => setTimeout(resolve, 30)); // until the engine's threads have stopped spinning
  }
  return times;
}

function referenceLogProbabilities(source: string, image: RawImage): number[] {
  const model = readModelFolder(source);
  return logProbabilities(forward(model, preprocess(image, model.manifest.preprocess)).logits);
}

export function logProbabilities(logits: Float32Array): number[] {
  const max = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const total = logits.reduce((sum, v) => sum + Math.exp(v - max), 0);
  return Array.from(logits, (v) => v - max - Math.log(total));
}

export function quantile(values: number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))];
}

export function benchTable(rows: BenchRow[]): string {
  say(
    `medians of interleaved rounds; outputs checked against the reference engine first; ms: inference only; preprocess ms: a bitmap of ${PHOTO.width}×${PHOTO.height}, the size that large photos are reduced to`,
  );
  const lines = rows.map((r) =>
    [
      r.model,
      r.deviceType ? `${r.engine}, ${r.deviceType}` : r.engine,
      r.dtype,
      r.threads,
      `${r.msMedian.toFixed(1)} (${r.msP10.toFixed(1)}–${r.msP90.toFixed(1)})`,
      ((r.gmacs / r.msMedian) * 1000).toFixed(1),
      r.preprocessMs.toFixed(1),
      r.loadMs.toFixed(0),
      r.coldMs.toFixed(0),
      r.memoryBytes === undefined ? "–" : (r.memoryBytes / 2 ** 20).toFixed(1),
      r.maxAbsDiff.toExponential(1),
    ].join(" | "),
  );
  return [
    "| model | engine | weights | threads | ms, median (p10–p90) | GMAC/s | preprocess ms | load ms | from cache ms | memory MiB | max log-probability error |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ...lines.map((line) => `| ${line} |`),
  ].join("\n");
}
