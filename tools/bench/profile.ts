/**
 * slimvit profile [MODEL...] -o device.json --engine simd --threads 1: cost tables of blocks on this device, measured in
 * a real browser. Synthetic networks have a block for every point of the tables, and are timed in interleaved rounds.
 * Given models are timed among them, and predictions are printed beside measurements. With --check the command exits
 * with 1 when a prediction is off by more than 10 %.
 */

import { mkdtempSync, rmSync } from "node:fs";
import os, { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { EngineName } from "../../src/engines/engine.ts";
import type { WeightsDtype } from "../../src/format/model.ts";
import { type DeviceProfile, PROFILE_FORMAT, predictMs } from "../masks/latency.ts";
import { claimFile, manifestText, readManifestFile, splitSource, writeFileAtomic } from "../models/folders.ts";
import { titleOf } from "../models/sources.ts";
import { openPage } from "../shared/browser.ts";
import { runtimeFolder } from "../shared/runtime.ts";
import { percent, say } from "../shared/terminal.ts";
import { DEIT_TINY, denseShape, gridOf, networksOf, writeSynthetic } from "./profileNetworks.ts";
import { blockTimes, outside, quantile, type Timed, tables } from "./profileTables.ts";

export interface ProfileOptions {
  /** device.json; written when named */
  out?: string;
  /** model whose dense shape is measured; default the first of the models, else DeiT-Ti at 224 px */
  shape?: string;
  engine: EngineName;
  dtype: WeightsDtype;
  threads: number;
  rounds: number;
}

export interface ProfileReport {
  profile: DeviceProfile;
  check: {
    model: string;
    predictedMs: number;
    /** undisturbed: the fast deciles of the blocks and of the layers outside them, as in the tables */
    measuredMs: number;
    /** of whole runs, including disturbances by other processes */
    medianMs: number;
    error: number;
  }[];
}

const WARM_UP = 3;

export async function profileDevice(sources: string[], options: ProfileOptions): Promise<ProfileReport> {
  if (options.out) claimFile(options.out, (text) => text.includes(PROFILE_FORMAT));
  const dist = runtimeFolder();
  const shape =
    (options.shape ?? sources[0]) ? denseShape(readManifestFile((options.shape ?? sources[0])!)) : DEIT_TINY;
  const grid = gridOf(shape);
  const temporary = mkdtempSync(join(tmpdir(), "slimvit-profile-"));
  const networks = networksOf(shape, grid);
  const mounts: Record<string, string> = { "/dist": dist };
  networks.forEach((blocks, k) => {
    writeSynthetic(join(temporary, String(k)), shape, blocks, options.dtype);
    mounts[`/model${k}`] = join(temporary, String(k));
  });
  sources.forEach((source, k) => void (mounts[`/model${networks.length + k}`] = resolve(splitSource(source).dir)));
  const busy = os.loadavg()[0] / os.availableParallelism();
  if (busy > 0.5)
    say(
      `profile: this machine is busy with other work (load ${os.loadavg()[0].toFixed(1)}); compare ratios, not milliseconds`,
    );

  const { page, browser, close } = await openPage(mounts);
  try {
    const { engine, dtype, threads, rounds } = options;
    const variants = sources.map((source) => readManifestFile(source).variant);
    const urls = Object.keys(mounts)
      .filter((path) => path.startsWith("/model"))
      .map((path, k) => ({ url: `${path}/`, variant: variants[k - networks.length] }));
    const [height, width] = shape.imageSize;
    await page.evaluate(loadInPage, { urls, engine, dtype, threads, height, width });
    const samples: Timed[][] = urls.map(() => []);
    for (let round = 0; round < WARM_UP + rounds; round++) {
      const timed = await page.evaluate(timeOneRound);
      if (round >= WARM_UP) timed.forEach((one, k) => void samples[k].push(one));
    }
    const profile: DeviceProfile = {
      format: PROFILE_FORMAT,
      engine,
      dtype,
      threads,
      device: `${os.cpus()[0].model}, ${os.availableParallelism()} cores; Chromium ${browser.version()}`,
      ...(({ embedDim, headDim, patchSize, imageSize, prefixTokens, classes, heads }) => ({
        embedDim,
        headDim,
        patchSize,
        imageSize,
        prefixTokens,
        classes,
        heads,
      }))(shape),
      ...tables(shape, grid, samples),
    };
    if (options.out) writeFileAtomic(options.out, manifestText(profile));
    const check = sources.map((source, k) => {
      const manifest = readManifestFile(source);
      const predictedMs = predictMs(profile, manifest);
      const timed = samples[networks.length + k];
      const measuredMs = blockTimes(timed).reduce((a, b) => a + b, outside(timed));
      const medianMs = quantile(
        timed.map(({ plainMs }) => plainMs),
        0.5,
      );
      return { model: titleOf(manifest), predictedMs, measuredMs, medianMs, error: predictedMs / measuredMs - 1 };
    });
    const points = profile.tokens.length * (profile.channels.length + profile.units.length);
    say(`profile: ${points} points, ${profile.device}${options.out ? ` → ${options.out}` : ""}`);
    return { profile, check };
  } finally {
    await close();
    rmSync(temporary, { recursive: true, force: true });
  }
}

/** The largest error of a prediction, as a share of the undisturbed measurement. */
export const CHECK_TOLERANCE = 0.1;

/** What `--check` prints: a line a model, and the worst. */
export function checkTable(check: ProfileReport["check"]): string {
  const signed = (share: number) => `${share > 0 ? "+" : ""}${percent(share)}`;
  const rows = check.map(({ model, predictedMs, measuredMs, medianMs, error }) => [
    model,
    predictedMs.toFixed(2),
    measuredMs.toFixed(2),
    signed(error),
    medianMs.toFixed(2),
    signed(predictedMs / medianMs - 1),
  ]);
  const head = ["model", "predicted ms", "measured ms", "error", "median ms", "error"];
  const widths = head.map((name, c) => Math.max(name.length, ...rows.map((row) => row[c].length)));
  const lines = [head, ...rows].map((row) =>
    row.map((cell, c) => (c ? cell.padStart(widths[c]) : cell.padEnd(widths[c]))).join("  "),
  );
  const within = check.filter(({ error }) => Math.abs(error) <= CHECK_TOLERANCE).length;
  return [
    ...lines,
    "",
    "measured: fast deciles of the blocks and of the layers outside them, as in the tables; median: of whole runs",
    `${within} of ${check.length} within ${percent(CHECK_TOLERANCE)}`,
  ].join("\n");
}

/** Runs in the page. */
async function loadInPage(options: {
  urls: { url: string; variant?: string }[];
  engine: EngineName;
  dtype: WeightsDtype;
  threads: number;
  height: number;
  width: number;
}) {
  const url = "/dist/index.js";
  const { SlimViT } = await import(/* @vite-ignore */ url);
  const { urls, engine, dtype, threads, height, width } = options;
  const all = [];
  for (const { url, variant } of urls)
    all.push(await SlimViT.load(url, { ...(variant && { variant }), engine, dtype, threads, cache: false }));
  const picture = { data: new Uint8ClampedArray(4 * height * width).fill(120), height, width };
  Object.assign(globalThis, { profiled: { all, picture } });
}

/** Runs in the page: each network once plain and once block by block, in turn. */
async function timeOneRound(): Promise<Timed[]> {
  interface Loaded {
    classify(image: unknown, options?: object): Promise<{ latencyMs: { inference: number }; blockMs?: number[] }>;
  }
  const { all, picture } = (globalThis as unknown as { profiled: { all: Loaded[]; picture: unknown } }).profiled;
  const times: Timed[] = [];
  for (const vit of all) {
    const plain = await vit.classify(picture);
    const { latencyMs, blockMs } = await vit.classify(picture, { profile: true });
    const outsideMs = latencyMs.inference - blockMs!.reduce((a, b) => a + b, 0);
    times.push({ plainMs: plain.latencyMs.inference, blockMs: blockMs!, outsideMs });
  }
  return times;
}
