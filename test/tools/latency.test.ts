import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { beforeAll, describe, expect, test } from "vitest";
import { checkTable, type ProfileReport } from "../../tools/bench/profile.ts";
import { allocate } from "../../tools/masks/allocate.ts";
import { type DeviceProfile, latencySavings, predictMs } from "../../tools/masks/latency.ts";
import { slimArchitecture } from "../../tools/masks/masks.ts";
import { random } from "../../tools/shared/random.ts";
import {
  deviceProfile,
  makeDense,
  slimvit,
  slimvitJson,
  slimvitProcess,
  tinyArchitecture,
  workplace,
} from "./fixtures.ts";

const at = workplace("latency");

const arch = tinyArchitecture(); // 17 tokens, 16 channels, 24 units, 3 blocks

describe("predicted latency", () => {
  test("is read between the tables' points, heads and MLPs as wide as the kernels see them, the last block by its own", () => {
    const blocks = [
      { headDims: [5], mlpHidden: 7, keepIdx: [0, 1, 2, 3, 4, 5, 6, 7, 8], merge: 0 },
      { headDims: [3, 8], mlpHidden: 0, keepIdx: [0, 1, 2, 3, 4, 5, 6, 7, 8], merge: 0 },
      { headDims: [2], mlpHidden: 20, keepIdx: [0, 1, 2], merge: 0 },
    ];
    const first = 9 * (0.001 + 0.002 * 8 + 0.005 + 0.003 * 8);
    const second = 9 * (0.001 + 0.002 * 16 + 2 * 0.005);
    const last = 3 * (0.0001 + 0.0005 + 0.5 * 0.002 * 8) + 0.003 * 24;
    const profile = deviceProfile(0.002, 0.003, 0.005);
    expect(predictMs(profile, { ...arch, blocks })).toBeCloseTo(0.1 + 8 * 0.01 + first + second + last, 10);
  });

  test("is exact between the tokens of the tables where the cost is quadratic in them", () => {
    const profile = deviceProfile(0, 0);
    profile.attentionMs = profile.tokens.map((n) => [0, 0.001 * n * n + 0.01 * n, 0.002 * n * n + 0.02 * n]);
    const keepIdx = Array.from({ length: 11 }, (_, k) => k);
    const blocks = [
      { headDims: [8, 8], mlpHidden: 0, keepIdx, merge: 0 },
      { headDims: [], mlpHidden: 0, keepIdx, merge: 0 },
    ];
    const inBlocks = 11 * (0.001 + 0.002 * 11 + 0.02) + 11 * 0.0005;
    expect(predictMs(profile, { ...arch, blocks })).toBeCloseTo(0.1 + 10 * 0.01 + inBlocks, 10);
  });

  test("falls by what all removals of a panel's width together are said to save", () => {
    const profile = deviceProfile(0.002, 0.003);
    const savings = latencySavings(profile, arch);
    const dense = predictMs(profile, arch);
    const without = (change: object, block: number) =>
      dense -
      predictMs(profile, { ...arch, blocks: arch.blocks.map((b, i) => (i === block ? { ...b, ...change } : b)) });
    const cost = { tokens: 17, channels: 16, units: 24 };
    const ofEight = (save: (left: number) => number) =>
      Array.from({ length: 8 }, (_, k) => save(k)).reduce((a, b) => a + b, 0);
    for (const block of [0, 2]) {
      const channels = ofEight((k) => savings.channel({ ...cost, channels: 16 - k }, block));
      expect(channels).toBeCloseTo(without({ headDims: [8] }, block), 10);
      const units = ofEight((k) => savings.unit({ ...cost, units: 24 - k }, block));
      expect(units).toBeCloseTo(without({ mlpHidden: 16 }, block), 10);
    }
    const keepIdx = arch.blocks[0].keepIdx.slice(0, 16);
    const blocks = arch.blocks.map((block) => ({ ...block, keepIdx }));
    const tokens = [0, 1, 2].map((block) => savings.token!(cost, block)).reduce((a, b) => a + b, 0);
    expect(tokens).toBeCloseTo(dense - predictMs(profile, { ...arch, blocks }), 10);
  });
});

describe("a split by latency", () => {
  const wide = { headDims: [64, 64], mlpHidden: 192, keepIdx: Array.from({ length: 17 }, (_, k) => k) };
  const arch = tinyArchitecture({ embedDim: 128, headDim: 64, blocks: [wide, wide, wide] });
  const rng = random(5);
  const draw = (n: number) => Float32Array.from({ length: n }, () => 0.1 + rng());
  const importance = arch.blocks.map(() => ({ attn: draw(128), mlp: draw(192), patch: draw(17) }));
  const frozen = { attn: false, mlp: false, patch: false };
  const cut = (profile: DeviceProfile, share: number, patch = false) => {
    const masks = allocate(
      arch,
      "channel",
      importance,
      { ...frozen, patch },
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

  test("comes close to its target: channels go one by one, and are paid for in panels of 8", () => {
    const profile = deviceProfile(0.002, 0.003);
    for (const share of [0.9, 0.6, 0.3]) {
      const left = predictMs(profile, cut(profile, share)) / predictMs(profile, arch);
      expect(Math.abs(left - share)).toBeLessThan(0.04);
    }
  });

  test("cuts what is dear on the device", () => {
    const [dearChannels, dearUnits] = [
      kept(cut(deviceProfile(0.02, 0.001), 0.5, true)),
      kept(cut(deviceProfile(0.001, 0.02), 0.5, true)),
    ];
    expect(dearChannels.channels).toBeLessThan(dearUnits.channels);
    expect(dearChannels.units).toBeGreaterThan(dearUnits.units);
  });
});

describe("on the command line", () => {
  beforeAll(async () => {
    await makeDense(at, 4);
    const data = ["--data", at("pictures"), "--split", "all", "--epochs", "1", "--batch", "6"];
    await slimvitJson("search", at("dense"), "-o", at("search"), ...data);
    writeFileSync(at("device.json"), JSON.stringify(deviceProfile(0.002, 0.003)));
  });

  test("compress meets --latency-ms by the profile's tables, and says what they say", async () => {
    const target = 0.6 * predictMs(deviceProfile(0.002, 0.003), arch);
    const args = ["compress", at("search"), "-o", at("slim"), "--profile", at("device.json")];
    const { predictedMs, maxAbsDiff } = await slimvitJson<{ predictedMs: number; maxAbsDiff: number }>(
      ...args,
      "--latency-ms",
      String(target),
    );
    expect(predictedMs).toBeLessThanOrEqual(target);
    expect(predictedMs).toBeGreaterThan(0.85 * target);
    expect(maxAbsDiff).toBeLessThan(1e-4);
  });

  test.each<[string, string[], number, RegExp]>([
    ["a target without a profile", ["--latency-ms", "3"], 2, /--latency-ms and --profile must be given together/],
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
  ])("%s is one sentence", async (_, args, status, message) => {
    writeFileSync(at("other.json"), JSON.stringify({ ...deviceProfile(1, 1), embedDim: 192 }));
    const result = await slimvit("compress", at("search"), "-o", at("never"), ...args);
    expect(result.stderr).toMatch(message);
    expect(result.status).toBe(status);
    expect(existsSync(at("never"))).toBe(false);
  });

  test("profile measures the tables in a browser and holds them against a model; --check fails where they are off", () => {
    const args = ["profile", at("dense"), "-o", at("here.json"), "--rounds", "3", "--check", "--json"];
    const { status, stdout } = slimvitProcess(...args);
    const { profile, check } = JSON.parse(stdout) as ProfileReport;
    expect(JSON.parse(readFileSync(at("here.json"), "utf8"))).toEqual(profile);
    expect(profile).toMatchObject({ engine: "simd", dtype: "f32", threads: 1, embedDim: 16, classes: 3, heads: 2 });
    expect(profile.tokens).toEqual([1, 2, 4, 9, 13, 17]);
    expect(profile.channels).toEqual([0, 16]);
    expect(profile.units).toEqual([0, 8, 16, 24]);
    expect(profile.last.tokens).toEqual([4, 9, 17]);
    for (const row of [...profile.attentionMs, ...profile.mlpMs]) expect(row).toEqual([...row].sort((a, b) => a - b));
    for (const row of [profile.emptyMs, profile.dropMs, profile.headMs]) expect(row).toHaveLength(6);
    expect(check).toHaveLength(1);
    expect(check[0].predictedMs).toBeGreaterThan(0);
    expect(check[0].measuredMs).toBeGreaterThan(0);
    expect(status).toBe(Math.abs(check[0].error) <= 0.1 ? 0 : 1);
  });

  test("--check prints a line a model, and how many are near enough", () => {
    const text = checkTable([
      { model: "a", predictedMs: 9.5, measuredMs: 10, medianMs: 11, error: -0.05 },
      { model: "bigger", predictedMs: 12, measuredMs: 10, medianMs: 12, error: 0.2 },
    ]);
    expect(text).toMatch(
      /^model +predicted ms +measured ms +error +median ms +error\na +9\.50 +10\.00 +-5\.0 % +11\.00 +-13\.6 %\n/,
    );
    expect(text).toMatch(/\nbigger +12\.00 +10\.00 +\+20\.0 % +12\.00 +0\.0 %\n/);
    expect(text).toMatch(/1 of 2 within 10\.0 %$/);
  });

  test.each<[string, string[], RegExp]>([
    ["nothing to do", ["profile"], /give -o device\.json, or --check and models/],
    ["a check of nothing", ["profile", "--check"], /--check needs models/],
  ])("profile with %s is one sentence", async (_, args, message) => {
    const { status, stderr } = await slimvit(...args);
    expect([status, stderr]).toEqual([2, expect.stringMatching(message)]);
  });
});
