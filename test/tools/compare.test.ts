/** The yardsticks of tools/compare that need no Python. */
import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, expect, test } from "vitest";
import { countMacs, countParams } from "../../src/format/model.ts";
import { predictMs } from "../../tools/masks/latency.ts";
import { readModelFolder, writeModelFolder } from "../../tools/models/folders.ts";
import { deviceProfile, makeDense, onAllPictures, slimvitJson, workplace } from "./fixtures.ts";

const at = workplace("compare");

beforeAll(async () => {
  await makeDense(at, 10);
  const train = ["--data", at("pictures"), "--batch", "6", "--epochs", "4", "--warmup", "0"];
  const searched = ["--patch-form", "score", "--tokens", "intersect", "--w-attn", "0.01"];
  await slimvitJson("search", at("dense"), "-o", at("search"), ...train, ...searched);
});

function compare(script: string, ...args: string[]) {
  const path = join(import.meta.dirname, "../../tools/research", script);
  return spawnSync(process.execPath, ["--import", "tsx", path, ...args], { encoding: "utf8" });
}

test("budgets.ts: equal budgets get as many MACs and hardly one unit more, and are measured on the same pictures", async () => {
  const args = ["--data", at("pictures"), "--split", "all", "--macs", "0.5,0.8", "-o", at("held"), "--engine"];
  const { status, stdout, stderr } = compare("budgets.ts", at("search"), ...args, "reference", "--json");
  expect(stderr).not.toMatch(/budgets:/);
  expect(status).toBe(0);
  const report = JSON.parse(stdout);
  expect(JSON.parse(readFileSync(at("held", "budgets.json"), "utf8"))).toEqual(report);
  expect(report).toMatchObject({ split: "all", tokens: "intersect" }); // the search's rule
  expect(report.rows.map(({ target }: { target: number }) => target)).toEqual([0.8, 0.5]);
  for (const { importance, equal, n } of report.rows) {
    expect(n).toBe(30);
    const [a, b] = [importance, equal].map(({ out }) => readModelFolder(out).manifest);
    expect(countMacs(b, 3)).toBeGreaterThanOrEqual(countMacs(a, 3));
    // One step of the budget moves one channel, unit and token at most: what those are worth here.
    expect(equal.macsShare - importance.macsShare).toBeLessThan(0.03);
    const { attn, mlp, patch } = (b.provenance.steps as Record<string, number>[]).at(-1)!;
    expect([attn, mlp, patch]).toEqual([equal.budget, equal.budget, equal.budget]);
    const again = await slimvitJson("eval", equal.out, ...onAllPictures(at));
    expect(again).toMatchObject({ top1: equal.top1, top5: equal.top5, n });
  }
});

test("budgets.ts --latency-ms: equal budgets get as many milliseconds of the profile and hardly one unit more", () => {
  // Channels cost much and units next to nothing: as many MACs would be another cut.
  const profile = deviceProfile(0.005, 0.0001);
  writeFileSync(at("device.json"), JSON.stringify(profile));
  const dense = predictMs(profile, readModelFolder(at("dense")).manifest);
  const args = [...onAllPictures(at), "--profile", at("device.json")];
  const { status, stdout, stderr } = compare(
    "budgets.ts",
    at("search"),
    ...args,
    ...["--latency-ms", `${dense / 2}`, "-o", at("timed"), "--json"],
  );
  expect(status, stderr).toBe(0);
  const [{ importance, equal }] = JSON.parse(stdout).rows;
  const [a, b] = [importance, equal].map(({ out }) => predictMs(profile, readModelFolder(out).manifest));
  expect([importance.predictedMs, equal.predictedMs]).toEqual([a, b]);
  expect(a).toBeLessThanOrEqual(dense / 2);
  expect(b).toBeGreaterThanOrEqual(a);
  expect(b).toBeLessThan(a + 0.06 * dense); // a channel's panel, a unit's and a token
  const table = compare("budgets.ts", at("search"), ...args, "--latency-ms", "2", "-o", at("timed-table"));
  expect(table.stdout).toMatch(/^\| 2 ms \| [12]\.\d\d \| [\d.]+ % \|/m);
});

test.each([
  ["neither", []],
  ["both", ["--macs", "0.5", "--latency-ms", "2", "--profile", "device.json"]],
  ["milliseconds of no device", ["--latency-ms", "2"]],
])("budgets.ts: one target, not %s", (_, target) => {
  const args = ["--data", at("pictures"), "-o", at("unsaid"), ...target];
  const { status, stderr } = compare("budgets.ts", at("search"), ...args);
  expect(stderr).toMatch(/^budgets: give --macs, or --latency-ms with --profile\.$/m);
  expect(status).toBe(1);
});

test("budgets.ts prints a table; a target that cannot be met is one sentence", () => {
  const args = ["--data", at("pictures"), "--split", "val", "--engine", "reference"];
  const { status, stdout } = compare("budgets.ts", at("search"), ...args, "--macs", "0.7", "-o", at("table"));
  expect(status).toBe(0);
  expect(stdout).toMatch(
    /^\| 70\.0 % \| (69|70)\.\d % \| [\d.]+ % \(.*\) \| 0\.\d{4} \| (69|7\d)\.\d % \|.* \| [+−][\d.]+ \|$/m,
  );
  const bad = compare("budgets.ts", at("search"), ...args, "--macs", "0.000001", "-o", at("never"));
  expect(bad.stderr).toMatch(/^budgets: compress: --macs 0\.000001 cannot be reached/);
  expect(bad.status).toBe(1);
});

test("magnitude.ts: channels and units of small weights go first, and every token stays", async () => {
  const folder = at("small");
  const { manifest, tensors } = readModelFolder(at("search"), "f32");
  const { format: _, weights: __, ...draft } = manifest;
  const [d, hidden] = [manifest.embedDim, manifest.blocks[0].mlpHidden];
  const fc1 = Float32Array.from(tensors.get("blocks.0.mlp.fc1.weight")!.data);
  const fc2 = Float32Array.from(tensors.get("blocks.0.mlp.fc2.weight")!.data);
  for (const unit of [3, 7]) {
    fc1.fill(1e-4, unit * d, (unit + 1) * d);
    for (let row = 0; row < d; row++) fc2[row * hidden + unit] = 1e-4;
  }
  const small = new Map(tensors)
    .set("blocks.0.mlp.fc1.weight", { dtype: "F32", shape: [hidden, d], data: fc1 })
    .set("blocks.0.mlp.fc2.weight", { dtype: "F32", shape: [d, hidden], data: fc2 });
  const records = Object.fromEntries(
    ["zetas.safetensors", "importance.safetensors", "search.json"].map((name) => [
      name,
      readFileSync(at("search", name)),
    ]),
  );
  writeModelFolder(folder, draft, small, ["f32"], records);
  const { status, stderr } = compare("magnitude.ts", folder, "-o", at("magnitude"));
  expect(status, stderr).toBe(0);
  const two = 2 * (2 * d + 1);
  const share = 1 - (two - 0.5) / countParams(manifest, 3); // both of the small units, and no more
  await slimvitJson("compress", at("magnitude"), "--params", String(share), "-o", at("cut"));
  const cut = readModelFolder(at("cut")).manifest;
  expect(cut.blocks.map((block) => block.mlpHidden)).toEqual(manifest.blocks.map((b, i) => b.mlpHidden - (i ? 0 : 2)));
  expect(cut.blocks.map(({ headDims, keepIdx }) => ({ headDims, keepIdx }))).toEqual(
    manifest.blocks.map(({ headDims, keepIdx }) => ({ headDims, keepIdx })),
  );
  expect(compare("magnitude.ts", at("dense"), "-o", at("none")).stderr).toMatch(/^magnitude: .*has no zetas/m);
});

test("sensitivity.ts: every kind of linear has its say, and a coarser step does more harm", () => {
  const run = (step: string) => {
    const args = ["--data", at("pictures"), "--split", "all", "--pictures", "8", "--weight-step", step];
    const { status, stdout, stderr } = compare("sensitivity.ts", at("dense"), ...args);
    expect(status, stderr).toBe(0);
    return new Map(
      [...stdout.matchAll(/^\| ([\w.]+) \| (\d+) \| ([\d.]+) \|/gm)].map(([, kind, n, harm]) => [kind, [+n, +harm]]),
    );
  };
  const [fine, coarse] = [run("0.5"), run("2")];
  const { embedDim: d, blocks, patchSize } = readModelFolder(at("dense")).manifest;
  expect([...fine].map(([kind, [weights]]) => [kind, weights])).toEqual([
    ["patch_embed.proj", d * 3 * patchSize ** 2],
    ["attn.qkv", blocks.length * 3 * d * d],
    ["attn.proj", blocks.length * d * d],
    ["mlp.fc1", blocks.length * d * blocks[0].mlpHidden],
    ["mlp.fc2", blocks.length * d * blocks[0].mlpHidden],
    ["head", 3 * d],
  ]);
  for (const [kind, [, harm]] of coarse) expect(harm, kind).toBeGreaterThan(fine.get(kind)![1]);
});
