import { spawn } from "node:child_process";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { readModelFolder } from "../../tools/models/folders.ts";
import { jobScript } from "../../tools/recipes/slurm.ts";
import type { SweepReport } from "../../tools/recipes/sweep.ts";
import { readSweep } from "../../tools/recipes/sweepFile.ts";
import { withLock } from "../../tools/shared/lock.ts";
import { BIN, makeDense, slimvit, slimvitJson, workplace, writeSweep } from "./fixtures.ts";

const at = workplace("sweep");

beforeAll(async () => {
  await makeDense(at, 5);
});

describe("slimvit sweep", () => {
  const run = () => slimvitJson<SweepReport>("sweep", at("sweep.yaml"), "--jobs", "2");
  const files = (...parts: string[]) => readdirSync(at(...parts)).sort();

  test("makes every point once, one search for all of its budgets, and goes on where it was killed", async () => {
    writeSweep(at("sweep.yaml"), { budgets: [0.8, 0.5], weights: { "w-attn": [0.01, 0.1] }, seeds: [3] });
    const child = spawn(process.execPath, [BIN, "sweep", at("sweep.yaml"), "--jobs", "2"], { stdio: "ignore" });
    const seen = new Promise<string[]>((resolve) => {
      const poll = setInterval(() => {
        const there = existsSync(at("swept", "points"))
          ? files("swept", "points").filter((f) => f.endsWith("json"))
          : [];
        if (there.length === 0) return;
        clearInterval(poll);
        child.kill("SIGTERM");
        resolve(there);
      }, 20);
    });
    await new Promise((resolve) => child.on("exit", resolve));
    const first = await seen;
    const written = readFileSync(at("swept", "points", first[0]), "utf8");

    const report = await run();
    expect(report.points.map(({ label }) => label)).toEqual([
      "macs-0.8-wAttn-0.01-seed-3",
      "macs-0.8-wAttn-0.1-seed-3",
      "macs-0.5-wAttn-0.01-seed-3",
      "macs-0.5-wAttn-0.1-seed-3",
    ]);
    expect(files("swept", "points")).toEqual(report.points.map(({ key }) => `${key}.json`).sort());
    expect(readFileSync(at("swept", "points", first[0]), "utf8")).toBe(written);
    const stages = files("swept", "stages").filter((name) => /^\w+-[0-9a-f]{10}$/.test(name));
    const count = (stage: string) => stages.filter((name) => name.startsWith(stage)).length;
    expect([count("search"), count("compress"), count("retrain")]).toEqual([2, 4, 4]);
    expect(files("swept", "stages").filter((name) => name.endsWith(".lock"))).toEqual([]);
    for (const { budget, macsShare, model, weightsSha256, top1, n } of report.points) {
      expect(macsShare).toBeLessThanOrEqual(budget.macs as number);
      const { manifest } = readModelFolder(at("swept", model));
      expect(manifest.weights.map((file) => file.sha256)).toEqual(weightsSha256);
      expect(manifest.metrics.accuracy).toMatchObject([{ top1, n: 3, split: "test" }]);
      expect(n).toBe(3);
    }
    const html = readFileSync(report.report, "utf8");
    expect(html).toContain("Top-1 accuracy against multiply-accumulates: every seed, and their mean");
    for (const { label } of report.points) expect(label).toContain("seed-3");
    expect(html.match(/<tr>/g)).toHaveLength(5);
    expect(html).toContain(">wAttn 0.1</text>");
  });

  test("makes only what a changed sweep lacks, and prints a table", async () => {
    writeSweep(at("sweep.yaml"), { budgets: [0.8, 0.5, { params: 0.9 }], weights: { "w-attn": [0.1] }, seeds: [3] });
    const { status, stdout, stderr } = await slimvit("sweep", at("sweep.yaml"));
    expect(status, stderr).toBe(0);
    expect(stderr).toMatch(/sweep: 3 points, 2 of them done already/);
    expect(files("swept", "points")).toHaveLength(5);
    expect(stdout.trimEnd().split("\n")).toHaveLength(5);
    expect(stdout).toMatch(/^\| params 0\.9 \| wAttn 0\.1 \| 3 \| [\d.]+ k \([\d.]+ %\) \|.*\| 3 \|$/m);
    const task = await slimvitJson<{ label: string }>("sweep", at("sweep.yaml"), "--task", "1");
    expect(task.label).toBe("macs-0.5-wAttn-0.1-seed-3");
  });

  test("a point that fails is named with its reason, the others are made", async () => {
    writeSweep(at("failing.yaml"), { budgets: [0.7, 0.000001], seeds: [3] }, "failing");
    const { status, stderr } = await slimvit("sweep", at("failing.yaml"));
    expect(status).toBe(1);
    expect(stderr).toMatch(/macs-0\.000001-seed-3 ended with 2: slimvit: slim: --macs 0\.000001 cannot be reached/);
    expect(stderr).toMatch(/slimvit: sweep: 1 of 2 points failed \(macs-0\.000001-seed-3\); .*logs says why/);
    expect(files("failing", "points")).toHaveLength(1);
  });

  test.each<[string, object | string, RegExp]>([
    ["no sweep section", "", /has no section "sweep"/],
    ["an unknown key", { budget: [0.5] }, /"sweep" has the unknown key "budget"; it may have budgets, weights, seeds/],
    ["no budgets", { seeds: [1] }, /"budgets" must be a list with one entry or more/],
    ["a budget that is none", { budgets: ["half"] }, /"budgets" has "half"; expected a share/],
    ["a budget of another option", { budgets: [{ mac: 0.5 }] }, /compress has the unknown key "mac"/],
    [
      "another option than a loss weight",
      { budgets: [0.5], weights: { lr: [1] } },
      /"weights" has the unknown key "lr"/,
    ],
    ["a seed that is none", { budgets: [0.5], seeds: [0.5] }, /"seeds" must be whole numbers/],
    ["a point twice", { budgets: [0.5, 0.5] }, /"sweep" gives macs-0.5-seed-0 twice/],
  ])("%s is said by name", (_, sweep, message) => {
    writeSweep(at("bad.yaml"), sweep, "bad");
    expect(() => readSweep(at("bad.yaml"), {})).toThrow(expect.objectContaining({ code: "bad-option" }));
    expect(() => readSweep(at("bad.yaml"), {})).toThrow(message);
  });

  test("a file that is no sweep is one sentence, exit 2, before anything runs", async () => {
    writeSweep(at("bad.yaml"), { budgets: [0.5], weights: { "w-attn": "much" } }, "bad");
    const { status, stderr } = await slimvit("sweep", at("bad.yaml"));
    expect(stderr).toMatch(/^slimvit: .*bad\.yaml: "weights\.w-attn" must be numbers from 0\.\n$/);
    expect(status).toBe(2);
    expect(existsSync(at("bad"))).toBe(false);
  });

  test("data that is missing is one sentence", async () => {
    writeSweep(at("astray.yaml"), { budgets: [0.5] }, "astray");
    writeFileSync(
      at("astray.yaml"),
      readFileSync(at("astray.yaml"), "utf8").replace("data: pictures", "data: nowhere"),
    );
    const { status, stderr } = await slimvit("sweep", at("astray.yaml"));
    expect(stderr).toMatch(/^slimvit: .*nowhere: no such folder, zip, tar or table\.\n$/);
    expect(status).toBe(1);
    expect(existsSync(at("astray"))).toBe(false);
  });
});

test("a lock is held by one at a time, and a dead holder's is taken", async () => {
  const path = at("locks", "a.lock");
  let [inside, most, waits] = [0, 0, 0];
  const work = async () => {
    most = Math.max(most, ++inside);
    await new Promise((resolve) => setTimeout(resolve, 20));
    inside--;
  };
  await Promise.all([1, 2, 3].map(() => withLock(path, () => waits++, work)));
  expect([most, waits]).toEqual([1, 2]);
  expect(existsSync(path)).toBe(false);

  const dead = spawn(process.execPath, ["-e", ""]);
  await new Promise((resolve) => dead.on("exit", resolve));
  const { hostname } = await import("node:os");
  writeFileSync(path, `${hostname()} ${dead.pid} 00`);
  await withLock(path, () => {}, work);
  expect(existsSync(path)).toBe(false);
  expect(readdirSync(at("locks"))).toEqual([]);
});

test("a job's script names the missing tasks and quotes its words", () => {
  const script = jobScript(["/a b/node", "it's"], [0, 1, 2, 5, 7, 8], "/logs/%A_%a.log");
  expect(script).toContain("#SBATCH --array=0-2,5,7-8\n");
  expect(script).toContain(`'/a b/node' 'it'\\''s' "$SLURM_ARRAY_TASK_ID"\n`);
});

test("the Kubernetes job runs as many indexes as its sweep has points", async () => {
  const { parse } = await import("yaml");
  const folder = join(import.meta.dirname, "../../docs/sweep");
  const job = parse(readFileSync(join(folder, "kubernetes.yaml"), "utf8"));
  const { sweep, ...recipe } = parse(readFileSync(join(folder, "sweep.yaml"), "utf8"));
  writeFileSync(at("example.yaml"), JSON.stringify({ ...recipe, sweep }));
  const { points } = readSweep(at("example.yaml"), {});
  expect(job).toMatchObject({ apiVersion: "batch/v1", kind: "Job" });
  expect(job.spec).toMatchObject({ completionMode: "Indexed", completions: points.length });
  expect(job.spec.template.spec.containers[0].command.join(" ")).toContain('--task "$JOB_COMPLETION_INDEX"');
});
