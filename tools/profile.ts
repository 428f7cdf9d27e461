/**
 * slimvit profile [MODEL...] -o device.json --engine simd --threads 1: cost tables of a block on this device, measured in
 * a real browser. One synthetic network holds a block for every point of the tables; all networks are timed in turn, round
 * by round. Models given are timed among them, and what the tables say of each is printed beside what was measured.
 */

import { mkdtempSync, rmSync } from "node:fs";
import os, { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { EngineName } from "../src/engines/engine.ts";
import {
  type Architecture,
  type BlockShape,
  denseTokens,
  type Manifest,
  type Tensors,
  tensorShapes,
  type WeightsDtype,
} from "../src/format/model.ts";
import { encodeTensors, writeWeights } from "../src/format/write.ts";
import { openPage } from "./lib/browser.ts";
import { architectureOf, manifestText, readManifestFile, sha256, writeFileAtomic, writeFolder } from "./lib/folders.ts";
import { type DeviceProfile, PROFILE_FORMAT, predictMs } from "./lib/latency.ts";
import { random } from "./lib/random.ts";
import { runtimeFolder } from "./lib/runtime.ts";
import { percent, say } from "./lib/terminal.ts";

export interface ProfileOptions {
  out: string;
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
    /** undisturbed: the blocks' fast deciles, and what is outside of them */
    measuredMs: number;
    /** of whole runs, with all that the machine did meanwhile */
    medianMs: number;
    error: number;
  }[];
}

const DEIT_TINY: DenseShape = {
  imageSize: [224, 224],
  patchSize: 16,
  embedDim: 192,
  headDim: 64,
  layerNormEps: 1e-6,
  prefixTokens: 1,
  heads: 3,
  mlpHidden: 768,
  classes: 1000,
};

interface DenseShape extends Omit<Architecture, "blocks"> {
  heads: number;
  mlpHidden: number;
  classes: number;
}

/** Points of the tables, as shares of the dense width and sequence. */
const SHARES = [0.08, 0.25, 0.5, 0.75, 1];
const WARM_UP = 3;

export async function profileDevice(sources: string[], options: ProfileOptions): Promise<ProfileReport> {
  const dist = runtimeFolder();
  const shape =
    (options.shape ?? sources[0]) ? denseShape(readManifestFile((options.shape ?? sources[0])!)) : DEIT_TINY;
  const grid = gridOf(shape);
  const temporary = mkdtempSync(join(tmpdir(), "slimvit-profile-"));
  const networks = [tableBlocks(shape, grid), twice(shape, grid.tokens.at(-1)!), twice(shape, grid.tokens[1])];
  const mounts: Record<string, string> = { "/dist": dist };
  networks.forEach((blocks, k) => {
    writeSynthetic(join(temporary, String(k)), shape, blocks, options.dtype);
    mounts[`/model${k}`] = join(temporary, String(k));
  });
  sources.forEach((source, k) => void (mounts[`/model${networks.length + k}`] = resolve(source)));
  const busy = os.loadavg()[0] / os.availableParallelism();
  if (busy > 0.5)
    say(`profile: this machine has other work (load ${os.loadavg()[0].toFixed(1)}): ratios hold, milliseconds do not`);

  const { page, browser, close } = await openPage(mounts);
  try {
    const { engine, dtype, threads, rounds } = options;
    const urls = Object.keys(mounts)
      .filter((path) => path.startsWith("/model"))
      .map((path) => `${path}/`);
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
      ...(({ embedDim, headDim, patchSize, imageSize, prefixTokens, classes }) => ({
        embedDim,
        headDim,
        patchSize,
        imageSize,
        prefixTokens,
        classes,
      }))(shape),
      ...tables(shape, grid, samples),
    };
    writeFileAtomic(options.out, manifestText(profile));
    const check = sources.map((source, k) => {
      const predictedMs = predictMs(profile, readManifestFile(source));
      const timed = samples[networks.length + k];
      const measuredMs = blockTimes(timed).reduce((a, b) => a + b, outside(timed));
      const plain = timed.map(({ plainMs }) => plainMs);
      const medianMs = quantile(plain, 0.5);
      const { name } = readManifestFile(source);
      return { model: name, predictedMs, measuredMs, medianMs, error: predictedMs / measuredMs - 1 };
    });
    say(
      `profile: ${profile.tokens.length} × ${profile.channels.length + profile.units.length} points, ${profile.device} → ${options.out}`,
    );
    for (const { model, predictedMs, measuredMs, medianMs, error } of check)
      say(
        `profile: ${model}: ${predictedMs.toFixed(2)} ms predicted, ${measuredMs.toFixed(2)} ms measured undisturbed ` +
          `(${error > 0 ? "+" : ""}${percent(error)}); median of whole runs ${medianMs.toFixed(2)} ms`,
      );
    return { profile, check };
  } finally {
    await close();
    rmSync(temporary, { recursive: true, force: true });
  }
}

function denseShape(manifest: Manifest): DenseShape {
  const { blocks: _, ...shape } = architectureOf(manifest);
  const dense = (manifest.provenance.dense ?? {}) as { heads?: number; mlpHidden?: number[] };
  return {
    ...shape,
    heads: dense.heads ?? Math.max(...manifest.blocks.map((b) => b.headDims.length)),
    mlpHidden: Math.max(...(dense.mlpHidden ?? manifest.blocks.map((b) => b.mlpHidden))),
    classes: manifest.labels.length,
  };
}

interface Grid {
  tokens: number[];
  channels: number[];
  units: number[];
}

function gridOf(shape: DenseShape): Grid {
  const points = (dense: number, least: number) =>
    [...new Set(SHARES.map((share) => Math.max(least, Math.round(share * dense))))].sort((a, b) => a - b);
  const all = denseTokens({ ...shape, blocks: [] });
  return {
    tokens: [...new Set([shape.prefixTokens, ...points(all, shape.prefixTokens + 1)])],
    channels: [0, ...points(shape.heads * shape.headDim, shape.heads)],
    units: [0, ...points(shape.mlpHidden, 1)],
  };
}

/** For every number of tokens, most first so that keep-lists nest: nothing; attention of each width; an MLP of each. */
function tableBlocks(shape: DenseShape, { tokens, channels, units }: Grid): BlockShape[] {
  const last = { headDims: [], mlpHidden: 0, keepIdx: firstTokens(tokens[0]) };
  const points = [...tokens].reverse().flatMap((n) => {
    const keepIdx = firstTokens(n);
    return [
      { headDims: [], mlpHidden: 0, keepIdx }, // drops the tokens: not measured
      ...channels.map((c) => ({ headDims: spread(c, shape.heads), mlpHidden: 0, keepIdx })),
      ...units.map((mlpHidden) => ({ headDims: [], mlpHidden, keepIdx })),
    ];
  });
  return [...points, last];
}

/** A dense block, and another as the last. */
function twice({ heads, headDim, mlpHidden }: DenseShape, tokens: number): BlockShape[] {
  const block = { headDims: Array(heads).fill(headDim), mlpHidden, keepIdx: firstTokens(tokens) };
  return [block, block, block];
}

const firstTokens = (n: number) => Array.from({ length: n }, (_, token) => token);

/** `channels` over `heads`, as evenly as whole numbers can be. */
function spread(channels: number, heads: number): number[] {
  return Array.from(
    { length: heads },
    (_, h) => Math.floor(((h + 1) * channels) / heads) - Math.floor((h * channels) / heads),
  ).filter(Boolean);
}

/** Small random weights: what they are does not change the time. No known logits: nobody reads these. */
function writeSynthetic(folder: string, shape: DenseShape, blocks: BlockShape[], dtype: WeightsDtype): void {
  const { heads: _, mlpHidden: __, classes, ...rest } = shape;
  const arch: Architecture = { ...rest, blocks };
  const rng = random(1);
  const noise = Float32Array.from({ length: 1 << 16 }, () => (rng() - 0.5) * 0.05);
  const tensors: Tensors = new Map();
  for (const [name, dims] of tensorShapes(arch, classes)) {
    const isNorm = name.includes("norm") && name.endsWith("weight");
    const data = Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, (_, i) =>
      isNorm ? 1 : noise[i & 0xffff],
    );
    tensors.set(name, { dtype: "F32", shape: dims, data });
  }
  const bytes = writeWeights(encodeTensors(tensors, dtype));
  const file = `model.${dtype}.safetensors`;
  const manifest: Manifest = {
    format: "slimvit/1",
    name: "synthetic",
    license: "CC0-1.0",
    ...arch,
    preprocess: {
      resize: Math.max(...arch.imageSize),
      crop: arch.imageSize,
      interpolation: "bilinear",
      mean: [0.5, 0.5, 0.5],
      std: [0.5, 0.5, 0.5],
    },
    labels: Array.from({ length: classes }, (_, k) => ({ id: String(k), label: String(k) })),
    weights: [{ dtype, file, bytes: bytes.length, sha256: sha256(bytes) }],
    provenance: {},
    metrics: {},
  };
  writeFolder(folder, { [file]: bytes, "slimvit.json": manifestText(manifest) });
}

interface Timed {
  /** of a run that does not look at the blocks */
  plainMs: number;
  blockMs: number[];
  /** of the same run: what is not in the blocks */
  outsideMs: number;
}

/** Runs in the page. */
async function loadInPage(options: {
  urls: string[];
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
  for (const url of urls) all.push(await SlimViT.load(url, { engine, dtype, threads, cache: false }));
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

function tables(shape: DenseShape, grid: Grid, [points, full, quarter]: Timed[][]) {
  const ms = blockTimes(points);
  const stride = 1 + grid.channels.length + grid.units.length;
  const rows = grid.tokens.map((_, k) => {
    const at = (grid.tokens.length - 1 - k) * stride + 1;
    return {
      attention: ms.slice(at, at + grid.channels.length),
      mlp: ms.slice(at + grid.channels.length, at + stride - 1),
    };
  });
  const emptyMs = ascending(rows.map(({ attention, mlp }) => (attention[0] + mlp[0]) / 2));
  const over = (part: "attention" | "mlp") =>
    rising(rows.map((row) => row[part].map((v, c) => (c === 0 ? 0 : Math.max(0, v - row[part][0])))));
  const patches = (n: number) => n - shape.prefixTokens;
  const share = patches(grid.tokens[1]) / patches(grid.tokens.at(-1)!);
  const [most, some] = [outside(full), outside(quarter)];
  const slope = Math.max(0, (most - some) / (1 - share));
  const [, inner, last] = blockTimes(full);
  return {
    ...grid,
    emptyMs,
    attentionMs: over("attention"),
    mlpMs: over("mlp"),
    lastShare: Math.min(1, last / inner),
    outsideMs: [Math.max(0, most - slope), most] as [number, number],
  };
}

/** More tokens or more width never cost less: what says otherwise is noise. */
function rising(table: number[][]): number[][] {
  const out = table.map(ascending);
  for (let k = 1; k < out.length; k++) out[k] = out[k].map((v, c) => Math.max(v, out[k - 1][c]));
  return out;
}

function ascending(values: number[]): number[] {
  let most = 0;
  return values.map((v) => (most = Math.max(most, v)));
}

const blockTimes = (samples: Timed[]) =>
  samples[0].blockMs.map((_, i) => undisturbed(samples.map(({ blockMs }) => blockMs[i])));

const outside = (samples: Timed[]) => undisturbed(samples.map(({ outsideMs }) => outsideMs));

/** The fast decile: what else the machine does only ever adds. */
const undisturbed = (values: number[]) => quantile(values, 0.1);

function quantile(values: number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return Math.max(0, sorted[Math.floor(q * sorted.length)]);
}
