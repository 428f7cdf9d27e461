/**
 * slimvit profile [MODEL...] -o device.json --engine simd --threads 1: cost tables of a block on this device, measured in
 * a real browser. One synthetic network holds a block for every point of the tables; all networks are timed in turn, round
 * by round. Models given are timed among them, and what the tables say of each is printed beside what was measured: a table
 * with --check, which exits 1 when one is off by more than 10 %.
 */

import { mkdtempSync, rmSync } from "node:fs";
import os, { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { EngineName } from "../../src/engines/engine.ts";
import {
  type Architecture,
  type BlockShape,
  denseTokens,
  type Manifest,
  PLAIN,
  type Tensors,
  tensorShapes,
  type WeightsDtype,
} from "../../src/format/model.ts";
import { singleVariant } from "../../src/format/variants.ts";
import { encodeTensors, manifestJson, writeWeights } from "../../src/format/write.ts";
import { type DeviceProfile, PROFILE_FORMAT, padded, predictMs } from "../masks/latency.ts";
import {
  architectureOf,
  manifestText,
  readManifestFile,
  sha256,
  splitSource,
  writeFileAtomic,
  writeFolder,
} from "../models/folders.ts";
import { openPage } from "../shared/browser.ts";
import { random } from "../shared/random.ts";
import { runtimeFolder } from "../shared/runtime.ts";
import { percent, say } from "../shared/terminal.ts";

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
    /** undisturbed: the blocks' fast deciles, and that of what is outside of them, as in the tables */
    measuredMs: number;
    /** of whole runs, with all that the machine did meanwhile */
    medianMs: number;
    error: number;
  }[];
}

const DEIT_TINY: DenseShape = {
  ...PLAIN,
  imageSize: [224, 224],
  patchSize: 16,
  embedDim: 192,
  headDim: 64,
  layerNormEps: 1e-6,
  prefixTokens: 1,
  heads: 3,
  mlpHidden: 768,
  classes: 1000,
  depth: 12,
};

interface DenseShape extends Omit<Architecture, "blocks"> {
  heads: number;
  mlpHidden: number;
  classes: number;
  depth: number;
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
  const lasts = lastTokens(grid);
  const networks = [
    tableBlocks(shape, grid),
    deep(shape, grid.tokens.at(-1)!),
    deep(shape, lasts[0]),
    ...lasts.flatMap((n) => [lastBlock(shape, n, 0), lastBlock(shape, n, shape.heads)]),
  ];
  const mounts: Record<string, string> = { "/dist": dist };
  networks.forEach((blocks, k) => {
    writeSynthetic(join(temporary, String(k)), shape, blocks, options.dtype);
    mounts[`/model${k}`] = join(temporary, String(k));
  });
  sources.forEach((source, k) => void (mounts[`/model${networks.length + k}`] = resolve(splitSource(source).dir)));
  const busy = os.loadavg()[0] / os.availableParallelism();
  if (busy > 0.5)
    say(`profile: this machine has other work (load ${os.loadavg()[0].toFixed(1)}): ratios hold, milliseconds do not`);

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
      return { model: manifest.name, predictedMs, measuredMs, medianMs, error: predictedMs / measuredMs - 1 };
    });
    const points = profile.tokens.length * (profile.channels.length + profile.units.length);
    say(`profile: ${points} points, ${profile.device}${options.out ? ` → ${options.out}` : ""}`);
    return { profile, check };
  } finally {
    await close();
    rmSync(temporary, { recursive: true, force: true });
  }
}

/** How far a prediction may be off, as a share of what was measured undisturbed. */
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
    "measured: fast deciles of the blocks and of what is outside of them, as in the tables; median: of whole runs",
    `${within} of ${check.length} within ${percent(CHECK_TOLERANCE)}`,
  ].join("\n");
}

function denseShape(manifest: Manifest): DenseShape {
  const { blocks: _, ...shape } = architectureOf(manifest);
  const dense = (manifest.provenance.dense ?? {}) as { heads?: number; mlpHidden?: number[] };
  return {
    ...shape,
    heads: dense.heads ?? Math.max(...manifest.blocks.map((b) => b.headDims.length)),
    mlpHidden: Math.max(...(dense.mlpHidden ?? manifest.blocks.map((b) => b.mlpHidden))),
    classes: manifest.labels.length,
    depth: manifest.blocks.length,
  };
}

interface Grid {
  tokens: number[];
  /** of each head */
  widths: number[];
  units: number[];
}

function gridOf(shape: DenseShape): Grid {
  const points = (dense: number, least: number, step: number) => {
    const at = (share: number) =>
      share === 1 ? dense : Math.min(dense, Math.max(least, step * Math.round((share * dense) / step)));
    return [...new Set(SHARES.map(at))].sort((a, b) => a - b);
  };
  const all = denseTokens({ ...shape, blocks: [] });
  return {
    tokens: [...new Set([shape.prefixTokens, ...points(all, shape.prefixTokens + 1, 1)])],
    widths: points(shape.headDim, 8, 8),
    units: points(shape.mlpHidden, 8, 8),
  };
}

/** The numbers of tokens at which a last block is measured. */
function lastTokens({ tokens }: Grid): number[] {
  return [...new Set([tokens[Math.min(2, tokens.length - 1)], tokens[tokens.length >> 1], tokens.at(-1)!])];
}

/**
 * For every number of tokens, most first so that keep-lists nest: nothing, once as tokens drop and once after; all heads of
 * each width; one head; an MLP of each width.
 */
function tableBlocks(shape: DenseShape, { tokens, widths, units }: Grid): BlockShape[] {
  const block = (keepIdx: number[], headDims: number[] = [], mlpHidden = 0) => ({
    headDims,
    mlpHidden,
    keepIdx,
    merge: 0,
  });
  const points = [...tokens].reverse().flatMap((n) => {
    const keepIdx = firstTokens(n);
    return [
      block(keepIdx),
      block(keepIdx),
      ...widths.map((width) => block(keepIdx, Array(shape.heads).fill(width))),
      block(keepIdx, [shape.headDim]),
      ...units.map((mlpHidden) => block(keepIdx, [], mlpHidden)),
    ];
  });
  return [...points, block(firstTokens(tokens[0]))]; // the last is not like the others
}

/** As deep as networks are, so that what is outside of the blocks is as much as theirs. */
function deep({ heads, headDim, mlpHidden, depth }: DenseShape, tokens: number): BlockShape[] {
  const block = { headDims: Array(heads).fill(headDim), mlpHidden, keepIdx: firstTokens(tokens), merge: 0 };
  return Array(depth).fill(block);
}

/** An empty block, then one with attention as the last. */
function lastBlock({ headDim }: DenseShape, tokens: number, heads: number): BlockShape[] {
  const keepIdx = firstTokens(tokens);
  return [
    { headDims: [], mlpHidden: 0, keepIdx, merge: 0 },
    { headDims: Array(heads).fill(headDim), mlpHidden: 0, keepIdx, merge: 0 },
  ];
}

const firstTokens = (n: number) => Array.from({ length: n }, (_, token) => token);

/** Small random weights: what they are does not change the time. No known logits: nobody reads these. */
function writeSynthetic(folder: string, shape: DenseShape, blocks: BlockShape[], dtype: WeightsDtype): void {
  const { heads: _, mlpHidden: __, depth: ___, classes, ...rest } = shape;
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
  const manifest = singleVariant({
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
  });
  writeFolder(folder, { [file]: bytes, "slimvit.json": manifestText(manifestJson(manifest)) });
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

function tables(shape: DenseShape, grid: Grid, [points, full, few, ...lastOnes]: Timed[][]) {
  const ms = blockTimes(points);
  const { tokens, widths, units } = grid;
  const stride = 2 + widths.length + 1 + units.length;
  const rows = tokens.map((_, k) => {
    const at = (tokens.length - 1 - k) * stride;
    const [drop, empty, ...more] = ms.slice(at, at + stride);
    return {
      drop,
      empty,
      attention: more.slice(0, widths.length),
      one: more[widths.length],
      mlp: more.slice(widths.length + 1),
    };
  });
  const emptyMs = ascending(rows.map(({ empty }) => empty));
  const over = (part: "attention" | "mlp") =>
    rising(rows.map((row) => [0, ...row[part].map((v) => Math.max(0, v - row.empty))]));
  const attentionMs = over("attention");
  const channels = [0, ...widths.map((width) => shape.heads * padded(width))];
  const lasts = lastTokens(grid);
  const lastMs = lastOnes.map((samples) => blockTimes(samples).at(-1)!);
  const patches = (n: number) => n - shape.prefixTokens;
  const share = patches(lasts[0]) / patches(tokens.at(-1)!);
  const [most, some] = [outside(full), outside(few)];
  const slope = share < 1 ? Math.max(0, (most - some) / (1 - share)) : 0;
  const profile = {
    tokens,
    channels,
    units: [0, ...units.map(padded)],
    emptyMs,
    dropMs: rows.map(({ drop, empty }, k) => (k === rows.length - 1 ? 0 : Math.max(0, drop - empty))),
    attentionMs,
    mlpMs: over("mlp"),
    last: {
      tokens: lasts,
      emptyMs: ascending(lasts.map((_, k) => lastMs[2 * k])),
      fullMs: ascending(lasts.map((_, k) => Math.max(lastMs[2 * k], lastMs[2 * k + 1]))),
    },
    outsideMs: [Math.max(0, most - slope), most] as [number, number],
  };
  const headMs = rows.map(({ one, empty }, k) => oneHeadMs(shape, channels, attentionMs[k], one - empty));
  return { ...profile, headMs };
}

/** All heads with the channels of one, against that one: what the others cost by being there. */
function oneHeadMs({ heads, headDim }: DenseShape, channels: number[], allMs: number[], oneMs: number): number {
  if (heads === 1 || channels.length < 3) return 0; // or not to be told from the width
  const [, low, high] = channels;
  const slope = (allMs[2] - allMs[1]) / (high - low);
  const all = allMs[1] + slope * (padded(headDim) - low);
  return Math.max(0, (all - oneMs) / (heads - 1));
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
