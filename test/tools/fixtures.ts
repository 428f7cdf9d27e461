/** A tiny ViT checkpoint and a few folders of tiny pictures, made from seeds, for tests of the offline stage. */
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import sharp from "sharp";
import { afterAll, expect, vi } from "vitest";
import {
  type Architecture,
  denseTokens,
  type PlainArchitecture,
  plainArchitecture,
  type Tensors,
  tensorShapes,
} from "../../src/format/model.ts";
import { writeSafetensors } from "../../src/format/safetensors.ts";
import { type DeviceProfile, PROFILE_FORMAT } from "../../tools/masks/latency.ts";
import { random } from "../../tools/shared/random.ts";

export const CLASSES = ["bananas", "cherries", "plums"];

/** 32×32 px, patches of 8, 2 heads of 8 channels. */
export function tinyArchitecture(overrides: Partial<PlainArchitecture> = {}): Architecture {
  const arch = plainArchitecture({
    imageSize: [32, 32],
    patchSize: 8,
    embedDim: 16,
    headDim: 8,
    layerNormEps: 1e-6,
    prefixTokens: 1,
    blocks: [],
    ...overrides,
  });
  const keepIdx = Array.from({ length: denseTokens(arch) }, (_, token) => token);
  const heads = arch.embedDim / arch.headDim;
  const block = { headDims: Array(heads).fill(arch.headDim), mlpHidden: 24, keepIdx, merge: 0 };
  return arch.blocks.length ? arch : { ...arch, blocks: [block, block, block] };
}

/**
 * For {@link tinyArchitecture}: a device on which a channel costs `channel` ms a token, a unit `unit`, a head beside its channels `head` ms a token, and a
 * patch outside of the blocks 0.01. The last block costs half of that in attention.
 */
export function deviceProfile(channel: number, unit: number, head = 0): DeviceProfile {
  const tokens = [1, 5, 17];
  const [channels, units] = [
    [0, 8, 16],
    [0, 12, 24],
  ];
  return {
    format: PROFILE_FORMAT,
    engine: "simd",
    dtype: "f32",
    threads: 1,
    device: "of this test",
    ...{ embedDim: 16, headDim: 8, patchSize: 8, imageSize: [32, 32], prefixTokens: 1, classes: 3, heads: 2 },
    ...{ tokens, channels, units },
    emptyMs: tokens.map((n) => 0.001 * n),
    dropMs: tokens.map((n) => 0.0001 * n),
    attentionMs: tokens.map((n) => channels.map((c) => channel * n * c + (c ? 2 * head * n : 0))),
    headMs: tokens.map((n) => head * n),
    mlpMs: tokens.map((n) => units.map((u) => unit * n * u)),
    last: {
      tokens: [5, 17],
      emptyMs: [5, 17].map((n) => 0.0005 * n),
      fullMs: [5, 17].map((n) => 0.0005 * n + 0.5 * channel * n * 16),
    },
    outsideMs: [0.1, 0.26],
  };
}

export function randomTensors(arch: Architecture, classes: number, seed: number): Tensors {
  const tensors: Tensors = new Map();
  const rng = random(seed);
  for (const [name, shape] of tensorShapes(arch, classes)) {
    const size = shape.reduce((a, b) => a * b, 1);
    const around = name.includes("norm") && name.endsWith("weight") ? 1 : 0;
    const data = Float32Array.from({ length: size }, () => around + (rng() - 0.5) * (around ? 0.4 : 0.8));
    tensors.set(name, { dtype: "F32", shape, data });
  }
  return tensors;
}

export function writeCheckpoint(path: string, tensors: Tensors): void {
  writeFileSync(path, writeSafetensors(tensors));
}

/** Pictures whose hue is their class: CLASSES × `each`, 40×36 px. */
export async function writePictures(dir: string, each: number, classes = CLASSES): Promise<void> {
  const hues = [
    [220, 200, 40],
    [200, 30, 40],
    [90, 40, 140],
  ];
  for (const [c, name] of classes.entries()) {
    mkdirSync(join(dir, name), { recursive: true });
    for (let k = 0; k < each; k++) {
      const rng = random(c, k);
      const data = Buffer.alloc(40 * 36 * 3);
      for (let i = 0; i < data.length; i++) data[i] = Math.max(0, Math.min(255, hues[c][i % 3] + (rng() - 0.5) * 120));
      await sharp(data, { raw: { width: 40, height: 36, channels: 3 } })
        .png()
        .toFile(join(dir, name, `${String(k).padStart(2, "0")}.png`));
    }
  }
}

export function writeLabels(path: string): void {
  writeFileSync(path, CLASSES.map((name) => `${name}\t${name}, a fruit\n`).join(""));
}

/** A folder of the test file's own, gone after its tests. @returns paths in it */
export function workplace(name: string): (...parts: string[]) => string {
  const dir = mkdtempSync(join(tmpdir(), `slimvit-${name}-`));
  afterAll(() => rmSync(dir, { recursive: true, force: true }));
  return (...parts) => join(dir, ...parts);
}

/** In `at`: tiny.safetensors, labels.tsv, pictures/ of `each` pictures a class, and the model folder dense/ imported from them. */
export async function makeDense(at: ReturnType<typeof workplace>, each: number): Promise<void> {
  writeCheckpoint(at("tiny.safetensors"), randomTensors(tinyArchitecture(), CLASSES.length, 1));
  writeLabels(at("labels.tsv"));
  await writePictures(at("pictures"), each);
  await slimvitJson("import", at("tiny.safetensors"), "-o", at("dense"), "--heads", "2", "--labels", at("labels.tsv"));
}

/** A sweep over what `makeDense` left beside it. @param sweep its section; text is written as it stands */
export function writeSweep(file: string, sweep: object | string, out = "swept", retrainEpochs = 1): void {
  const lines = [
    "model: dense",
    "data: pictures",
    `out: ${out}`,
    "batch: 3",
    "epochs: 1",
    `retrain: { epochs: ${retrainEpochs} }`,
    "export: { dtype: [f32] }",
    "eval: { engine: reference }",
    typeof sweep === "string" ? sweep : `sweep: ${JSON.stringify(sweep)}`,
  ];
  writeFileSync(file, lines.join("\n"));
}

const ROOT = fileURLToPath(new URL("../../", import.meta.url));

/**
 * The command line: as it is built, which starts in a third of the time, where nothing was changed since, as under `npm
 * test`; else from its sources.
 */
export const BIN = join(ROOT, isBuilt() ? "tools/dist/cli.js" : "tools/bin/slimvit.mjs");

function isBuilt(): boolean {
  const built = statSync(join(ROOT, "tools/dist/cli.js"), { throwIfNoEntry: false });
  const folders = ["src", ...readdirSync(join(ROOT, "tools")).map((name) => join("tools", name))];
  const sources = folders
    .filter((name) => !/dist$|node_modules$/.test(name) && statSync(join(ROOT, name)).isDirectory())
    .flatMap((name) => readdirSync(join(ROOT, name), { recursive: true }).map((file) => join(ROOT, name, String(file))))
    .filter((file) => file.endsWith(".ts"));
  return built !== undefined && sources.every((file) => statSync(file).mtimeMs <= built.mtimeMs);
}

/** Runs the command line as a user does. */
export function slimvitProcess(...args: string[]): CommandResult {
  const { status, stdout, stderr } = spawnSync(process.execPath, [BIN, ...args], { encoding: "utf8" });
  return { status, stdout, stderr };
}

interface CommandResult {
  status: number | null;
  stdout: string;
  stderr: string;
}

/** Runs the command line in the test's own process: TensorFlow is loaded once, and what it covers is known. */
export async function slimvit(...args: string[]): Promise<CommandResult> {
  const { runCommandLine } = await import("../../tools/commands/commandLine.ts");
  const { argv, exitCode } = process;
  const written = { stdout: "", stderr: "" };
  const spies = (["stdout", "stderr"] as const).map((name) =>
    vi.spyOn(process[name], "write").mockImplementation((chunk) => {
      written[name] += chunk;
      return true;
    }),
  );
  process.argv = [process.execPath, BIN, ...args];
  try {
    const status = await runCommandLine(args);
    return { status, ...written };
  } finally {
    for (const spy of spies) spy.mockRestore();
    Object.assign(process, { argv, exitCode });
  }
}

export async function slimvitJson<T>(...args: string[]): Promise<T> {
  const { status, stdout, stderr } = await slimvit(...args, "--json");
  if (status !== 0) throw new Error(`slimvit ${args.join(" ")} exited ${status}: ${stderr}`);
  return JSON.parse(stdout);
}

/** Options of `eval`: every picture of `at("pictures")`, on the plain engine. */
export const onAllPictures = (at: ReturnType<typeof workplace>): string[] => [
  ...["--data", at("pictures"), "--split", "all", "--engine", "reference"],
];

/** Runs a command that must fail with one clear sentence. */
export async function expectFailure(args: string[], status: number, message: RegExp): Promise<void> {
  const result = await slimvit(...args);
  expect(result.stderr).toMatch(message);
  expect(result.stderr).not.toMatch(/\n\s+at /); // no stack trace
  expect(result.status).toBe(status);
}
