/** slimvit sweep --on slurm against a real SLURM, which the test brings up itself. */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { SweepReport } from "../../tools/recipes/sweep.ts";
import { BIN, makeDense, workplace, writeSweep } from "./fixtures.ts";
import { type Cluster, startCluster, until } from "./slurm-cluster.ts";

const at = workplace("slurm");
let cluster: Cluster;
const sweeps: ChildProcess[] = [];

beforeAll(async () => {
  await makeDense(at, 5);
  mkdirSync(at("cluster"));
  cluster = await startCluster(at("cluster"));
});
afterAll(async () => {
  for (const child of sweeps) child.kill("SIGKILL");
  await cluster?.stop();
});

test("tasks killed with kill -9 are queued again, the daemons may be killed too, every point is there once", async () => {
  writeSweep(at("sweep.yaml"), { budgets: [0.8, 0.5], weights: { "w-attn": [0.01] }, seeds: [1, 2] }, "swept", 30);
  const sweep = run();

  // Task 0 loses its command; task 1 its script as well, so that nothing on the node can ask for it again.
  const [first, second] = [await workerAtItsSearch(0), await workerAtItsSearch(1)];
  process.kill(first, "SIGKILL");
  process.kill(parentOf(second), "SIGKILL");
  process.kill(second, "SIGKILL");
  const job = JSON.parse(readFileSync(at("swept", "slurm.json"), "utf8")).job as string;
  await until("task 0 to be queued again", () => restarts(job, 0) === 1);
  await until("task 1 to be queued again", () => restarts(job, 1) === 1);

  // What the controller has not written yet is lost with it: it is killed when all that it knows is on disk.
  let [states, changed] = ["", 0];
  await until("a running task and the controller's state on disk", () => {
    const now = cluster.ask("squeue", "-h", "-r", "-t", "all", "-o", "%K %T");
    if (now !== states) [states, changed] = [now, Date.now()];
    return /RUNNING/.test(now) && statSync(at("cluster", "state", "job_state")).mtimeMs > changed;
  });
  for (const daemon of ["slurmctld", "slurmd"] as const) await cluster.kill(daemon);
  for (const daemon of ["slurmctld", "slurmd"] as const) cluster.start(daemon);
  await until("the node", () => cluster.ask("sinfo", "-h", "-o", "%T").trim() !== "");
  await sleep(5000);
  // Should something have been lost all the same, the node's second report tells, which on its own comes half an hour later.
  await cluster.kill("slurmd");
  cluster.start("slurmd");

  const { status, stdout, stderr } = await sweep;
  expect(status, stderr).toBe(0);
  expect(stderr).toMatch(/sweep: submitted array job \d+/);
  expect(stderr).toMatch(/sweep: task 1 was lost \(failed, signal 9\); it is queued again/);
  const { points } = JSON.parse(stdout) as SweepReport;
  expect(points.map(({ label }) => label)).toEqual([
    "macs-0.8-wAttn-0.01-seed-1",
    "macs-0.8-wAttn-0.01-seed-2",
    "macs-0.5-wAttn-0.01-seed-1",
    "macs-0.5-wAttn-0.01-seed-2",
  ]);
  expect(readdirSync(at("swept", "points")).sort()).toEqual(points.map(({ key }) => `${key}.json`).sort());
  expect(readdirSync(at("swept", "models"))).toHaveLength(4);
  const searches = readdirSync(at("swept", "stages")).filter((name) => /^search-[0-9a-f]{10}$/.test(name));
  expect(searches).toHaveLength(2);
  await until("an empty queue", () => cluster.ask("squeue", "-h").trim() === "" && cluster.ask("sinfo", "-h") !== "");

  const again = await run(); // all is there: nothing is submitted
  expect(again.stderr).toMatch(/sweep: 4 points, 4 of them done already/);
  expect(again.stderr).not.toMatch(/submitted/);
  expect(JSON.parse(again.stdout).points).toEqual(points);
});

test("a job that SLURM does not take is one sentence", async () => {
  writeSweep(at("refused.yaml"), { budgets: [0.5], seeds: [1] }, "refused");
  const { status, stderr } = await run("refused.yaml", "--sbatch=--partition=none");
  expect(stderr).toMatch(/^slimvit: sweep: SLURM did not take the job \(sbatch: error: .*\)\.$/m);
  expect(status).toBe(1);
});

function run(file = "sweep.yaml", ...args: string[]) {
  const child = spawn(process.execPath, [BIN, "sweep", at(file), "--on", "slurm", "--json", ...args], {
    env: cluster.env,
    stdio: ["ignore", "pipe", "pipe"],
  });
  sweeps.push(child);
  let [stdout, stderr] = ["", ""];
  child.stdout.on("data", (chunk) => void (stdout += chunk));
  child.stderr.on("data", (chunk) => void (stderr += chunk));
  return new Promise<{ status: number | null; stdout: string; stderr: string }>((resolve) => {
    child.on("close", (status) => resolve({ status, stdout, stderr }));
  });
}

/** @returns the task's process, once it holds the lock on its search */
async function workerAtItsSearch(task: number): Promise<number> {
  let found: number | undefined;
  await until(`task ${task} to search`, () => {
    if (!existsSync(at("swept", "stages"))) return false;
    const held = readdirSync(at("swept", "stages"))
      .filter((name) => /^\.search-.*\.lock$/.test(name))
      .map((name) => Number(text(at("swept", "stages", name)).split(" ")[1]));
    found = held.find((pid) => text(`/proc/${pid}/cmdline`).endsWith(`\0--task\0${task}\0`));
    return found !== undefined;
  });
  return found!;
}

const parentOf = (pid: number) => Number(text(`/proc/${pid}/status`).match(/PPid:\s+(\d+)/)![1]);

const restarts = (job: string, task: number) =>
  Number(cluster.ask("scontrol", "-o", "show", "job", `${job}_${task}`).match(/ Restarts=(\d+)/)?.[1]);

/** "" for what is gone meanwhile */
function text(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
