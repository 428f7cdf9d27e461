import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { allocate } from "../../tools/lib/allocate.ts";
import { type DeviceProfile, latencySavings, PROFILE_FORMAT, predictMs } from "../../tools/lib/latency.ts";
import { slimArchitecture } from "../../tools/lib/masks.ts";
import { random } from "../../tools/lib/random.ts";
import type { ProfileReport } from "../../tools/profile.ts";
import {
  CLASSES,
  randomTensors,
  slimvit,
  slimvitJson,
  tinyArchitecture,
  writeCheckpoint,
  writePictures,
} from "./fixtures.ts";

const dir = mkdtempSync(join(tmpdir(), "slimvit-latency-"));
const at = (name: string) => join(dir, name);
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const arch = tinyArchitecture(); // 17 tokens, 16 channels, 24 units, 3 blocks

/** A device on which a channel costs `channel` ms a token, a unit `unit`, and a patch outside of the blocks 0.01. */
function device(channel: number, unit: number): DeviceProfile {
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
    ...{ embedDim: 16, headDim: 8, patchSize: 8, imageSize: [32, 32], prefixTokens: 1, classes: 3 },
    ...{ tokens, channels, units },
    emptyMs: tokens.map((n) => 0.001 * n),
    attentionMs: tokens.map((n) => channels.map((c) => channel * n * c)),
    mlpMs: tokens.map((n) => units.map((u) => unit * n * u)),
    lastShare: 0.5,
    outsideMs: [0.1, 0.26],
  };
}

describe("predicted latency", () => {
  test("is read between the tables' points, the last block by its share, the patches that are embedded", () => {
    const blocks = [
      { headDims: [5], mlpHidden: 7, keepIdx: [0, 1, 2, 3, 4, 5, 6, 7, 8] },
      { headDims: [], mlpHidden: 20, keepIdx: [0, 1, 2] },
    ];
    const inBlocks = 9 * (0.001 + 0.002 * 5 + 0.003 * 7) + 0.5 * 3 * (0.001 + 0.003 * 20);
    expect(predictMs(device(0.002, 0.003), { ...arch, blocks })).toBeCloseTo(0.1 + 8 * 0.01 + inBlocks, 10);
  });

  test("falls by just what each removal is said to save", () => {
    const profile = device(0.002, 0.003);
    const savings = latencySavings(profile, arch);
    const dense = predictMs(profile, arch);
    const without = (change: object, block: number) =>
      dense -
      predictMs(profile, { ...arch, blocks: arch.blocks.map((b, i) => (i === block ? { ...b, ...change } : b)) });
    const cost = { tokens: 17, channels: 16, units: 24 };
    for (const block of [0, 2]) {
      expect(savings.channel(cost, block)).toBeCloseTo(without({ headDims: [8, 7] }, block), 10);
      expect(savings.unit(cost, block)).toBeCloseTo(without({ mlpHidden: 23 }, block), 10);
      const keepIdx = arch.blocks[0].keepIdx.slice(0, 16);
      expect(savings.token!(cost, block)).toBeCloseTo(without({ keepIdx }, block), 10);
    }
  });
});

describe("a split by latency", () => {
  const rng = random(5);
  const draw = (n: number) => Float32Array.from({ length: n }, () => 0.1 + rng());
  const importance = arch.blocks.map(() => ({ attn: draw(16), mlp: draw(24), patch: draw(17) }));
  const frozen = { attn: false, mlp: false, patch: false };
  const cut = (profile: DeviceProfile, share: number) => {
    const masks = allocate(
      arch,
      "channel",
      importance,
      frozen,
      predictMs(profile, arch),
      share,
      latencySavings(profile, arch),
    );
    return slimArchitecture(arch, masks);
  };
  const kept = (net: typeof arch) => ({
    channels: net.blocks.flatMap((b) => b.headDims).reduce((a, b) => a + b, 0),
    units: net.blocks.reduce((sum, b) => sum + b.mlpHidden, 0),
  });

  test("stays under its target, close to it", () => {
    const profile = device(0.002, 0.003);
    for (const share of [0.9, 0.6, 0.3]) {
      const left = predictMs(profile, cut(profile, share)) / predictMs(profile, arch);
      expect(left).toBeLessThanOrEqual(share + 1e-9);
      expect(left).toBeGreaterThan(share - 0.06);
    }
  });

  test("cuts what is dear on the device", () => {
    const [dearChannels, dearUnits] = [kept(cut(device(0.02, 0.001), 0.5)), kept(cut(device(0.001, 0.02), 0.5))];
    expect(dearChannels.channels).toBeLessThan(dearUnits.channels);
    expect(dearChannels.units).toBeGreaterThan(dearUnits.units);
  });
});

describe("on the command line", () => {
  beforeAll(async () => {
    writeCheckpoint(at("tiny.safetensors"), randomTensors(arch, CLASSES.length, 1));
    await writePictures(at("pictures"), 4, ["0", "1", "2"]);
    slimvitJson("import", at("tiny.safetensors"), "-o", at("dense"), "--heads", "2");
    const data = ["--data", at("pictures"), "--split", "all", "--epochs", "1", "--batch", "6"];
    slimvitJson("search", at("dense"), "-o", at("search"), ...data);
    writeFileSync(at("device.json"), JSON.stringify(device(0.002, 0.003)));
  });

  test("compress meets --latency-ms by the profile's tables, and says what they say", () => {
    const target = 0.6 * predictMs(device(0.002, 0.003), arch);
    const args = ["compress", at("search"), "-o", at("slim"), "--profile", at("device.json")];
    const { predictedMs, maxAbsDiff } = slimvitJson<{ predictedMs: number; maxAbsDiff: number }>(
      ...args,
      "--latency-ms",
      String(target),
    );
    expect(predictedMs).toBeLessThanOrEqual(target);
    expect(predictedMs).toBeGreaterThan(0.85 * target);
    expect(maxAbsDiff).toBeLessThan(1e-4);
  });

  test.each<[string, string[], number, RegExp]>([
    ["a target without a profile", ["--latency-ms", "3"], 2, /--latency-ms and --profile need each other/],
    ["two targets", ["--latency-ms", "3", "--profile", at("device.json"), "--macs", "0.5"], 2, /a target of its own/],
    [
      "a target below what is left",
      ["--latency-ms", "0.01", "--profile", at("device.json")],
      2,
      /cannot be reached: 0\.1/,
    ],
    [
      "a file that is no profile",
      ["--latency-ms", "1", "--profile", at("dense/slimvit.json")],
      1,
      /is no device profile/,
    ],
    [
      "a profile of another shape",
      ["--latency-ms", "1", "--profile", at("other.json")],
      2,
      /measured for embedDim 192, the model has 16/,
    ],
  ])("%s is one sentence", (_, args, status, message) => {
    writeFileSync(at("other.json"), JSON.stringify({ ...device(1, 1), embedDim: 192 }));
    const result = slimvit("compress", at("search"), "-o", at("never"), ...args);
    expect(result.stderr).toMatch(message);
    expect(result.status).toBe(status);
    expect(existsSync(at("never"))).toBe(false);
  });

  test("profile measures the tables in a browser and holds them against a model", () => {
    const { profile, check } = slimvitJson<ProfileReport>(
      "profile",
      at("dense"),
      "-o",
      at("here.json"),
      "--rounds",
      "3",
    );
    expect(JSON.parse(readFileSync(at("here.json"), "utf8"))).toEqual(profile);
    expect(profile).toMatchObject({ engine: "simd", dtype: "f32", threads: 1, embedDim: 16, classes: 3 });
    expect(profile.tokens).toEqual([1, 2, 4, 9, 13, 17]);
    expect(profile.channels.at(-1)).toBe(16);
    expect(profile.units).toHaveLength(profile.mlpMs[0].length);
    for (const row of [...profile.attentionMs, ...profile.mlpMs]) expect(row).toEqual([...row].sort((a, b) => a - b));
    expect(check).toHaveLength(1);
    expect(check[0].predictedMs).toBeGreaterThan(0);
    expect(check[0].measuredMs).toBeGreaterThan(0);
  });
});
