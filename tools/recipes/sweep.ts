/**
 * slimvit sweep SWEEP.yaml: every combination of budgets, loss weights and seeds, each a run of `slimvit slim`, here or
 * with --on slurm as one array job. The result of a point is a file named after a hash of everything it depends on, and
 * renamed into place, so an existing result is never made again. Points share their stages, so one search serves all
 * budgets. Prints a table. OUT/report.html has accuracy against MACs.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { basename, join, relative } from "node:path";
import { SlimViTError } from "../../src/errors.ts";
import { countMacs, countParams } from "../../src/format/model.ts";
import { denseOf } from "../models/card.ts";
import { modelDigest, readManifestFile, sha256, writeFileAtomic } from "../models/folders.ts";
import type { AccuracyRecord } from "../models/metrics.ts";
import { STAGES } from "../options/stages.ts";
import { type PointResult, sweepHtml } from "../report/sweepReport.ts";
import { startProgress } from "../shared/progress.ts";
import { besides } from "../shared/runtime.ts";
import { say } from "../shared/terminal.ts";
import { type RecipeFile, stageSettings } from "./recipeFile.ts";
import { hashOf, identity, runRecipe } from "./runRecipe.ts";
import { isActive, jobScript, submit, watch } from "./slurm.ts";
import { readSweep, type Sweep, type SweepPoint } from "./sweepFile.ts";

export interface SweepOptions {
  out?: string;
  /** processes at once */
  jobs: number;
  on: "local" | "slurm";
  /** further options of sbatch */
  sbatch?: string;
  /** run this one point, and nothing else */
  task?: number;
}

export interface SweepReport {
  out: string;
  points: PointResult[];
  report: string;
}

interface KeyedPoint extends SweepPoint {
  key: string;
}

const BIN = besides(import.meta.url, "../bin/slimvit.mjs", "../../bin/slimvit.mjs");

export async function sweep(file: string, options: SweepOptions): Promise<SweepReport | PointResult> {
  const plan = readSweep(file, options);
  const points: KeyedPoint[] = [];
  for (const point of plan.points) points.push({ ...point, key: await keyOf(point.recipe) });
  if (options.task !== undefined) return runTask(plan, points, options.task);

  const missing = () => [...points.keys()].filter((k) => !existsSync(resultPath(plan, points[k])));
  const before = missing().length;
  say(`sweep: ${points.length} points, ${points.length - before} of them done already → ${plan.out}`);
  if (before > 0) {
    const frozen = join(plan.out, "plans", `${sha256(Buffer.from(plan.frozen)).slice(0, 10)}.yaml`);
    writeFileAtomic(frozen, plan.frozen);
    mkdirSync(join(plan.out, "logs"), { recursive: true });
    const progress = startProgress("sweep", points.length, points.length - before);
    const onChange = (figures: string) => progress.update(points.length - missing().length, figures);
    if (options.on === "slurm") await runOnSlurm(plan, frozen, missing, onChange, options.sbatch);
    else await runHere(plan, points, frozen, missing(), options.jobs, onChange);
    progress.stop();
  }
  return collect(plan, points);
}

/** Runs one point, as a task of a job or a process of a local sweep. */
async function runTask(plan: Sweep, points: KeyedPoint[], task: number): Promise<PointResult> {
  const point = points[task];
  if (!point)
    throw new SlimViTError("bad-option", `sweep: has no task ${task}; its points are 0 to ${points.length - 1}.`);
  if (!existsSync(resultPath(plan, point))) {
    const out = join(plan.out, "models", `${point.label}-${point.key.slice(0, 8)}`);
    await runRecipe({ ...point.recipe, out });
    writeFileAtomic(resultPath(plan, point), `${JSON.stringify(resultOf(plan, point, out), null, 2)}\n`);
  }
  say(`sweep: ${point.label} is done`);
  return readResult(plan, point);
}

const resultPath = ({ out }: Sweep, { key }: KeyedPoint) => join(out, "points", `${key}.json`);

/** A hash of everything that a point's result depends on: contents, not places and names. */
export async function keyOf(recipe: RecipeFile): Promise<string> {
  const digestOf = (folder: string) => modelDigest(readManifestFile(folder));
  const sections: Record<string, unknown> = {};
  for (const stage of STAGES) {
    const section = recipe[stage];
    if (typeof section !== "object") sections[stage] = section;
    else if (stage === "import") {
      const { source, labels } = section;
      const { source: _, ...rest } = section;
      const files = [await hashOf(source as string), await hashOf(labels as string | undefined)];
      sections.import = [files, await identity(stageSettings(stage, rest, recipe))];
    } else sections[stage] = await identity(stageSettings(stage, section, recipe));
  }
  const teacher = recipe.teacher && recipe.teacher !== "none" ? digestOf(recipe.teacher) : recipe.teacher;
  const model = recipe.model && digestOf(recipe.model);
  return sha256(Buffer.from(JSON.stringify([model, teacher, sections])));
}

function resultOf(plan: Sweep, { key, label, budget, weights, seed }: KeyedPoint, out: string): PointResult {
  const manifest = readManifestFile(out);
  const classes = manifest.labels.length;
  const dense = denseOf(manifest);
  const [macs, params] = [countMacs(manifest, classes), countParams(manifest, classes)];
  const { top1, top5, n, data, split } = (manifest.metrics.accuracy as AccuracyRecord[]).at(-1)!;
  return {
    ...{ key, label, budget, weights, seed, model: relative(plan.out, out) },
    weightsSha256: manifest.weights.map((file) => file.sha256),
    ...{ macs, params, macsShare: macs / countMacs(dense, classes), paramsShare: params / countParams(dense, classes) },
    ...{ top1, top5, n, data, split },
  };
}

function readResult(plan: Sweep, point: KeyedPoint): PointResult {
  const path = resultPath(plan, point);
  const result: PointResult = JSON.parse(readFileSync(path, "utf8"));
  if (result.key !== point.key) throw new SlimViTError("integrity", `${path}: holds another point; remove it.`);
  return result;
}

/** Runs one process for each point, `jobs` at once. A point that fails does not stop the others. */
async function runHere(
  plan: Sweep,
  points: KeyedPoint[],
  frozen: string,
  tasks: number[],
  jobs: number,
  onChange: (figures: string) => void,
): Promise<void> {
  const queue = [...tasks];
  const running = new Set<ChildProcess>();
  const stop = (signal: NodeJS.Signals) => {
    for (const child of running) child.kill(signal);
    process.exit(1);
  };
  process.once("SIGINT", stop).once("SIGTERM", stop);
  const worker = async () => {
    for (let task = queue.shift(); task !== undefined; task = queue.shift()) {
      const path = join(plan.out, "logs", `${points[task].label}.log`);
      const log = openSync(path, "a");
      const args = [BIN, "sweep", frozen, "--task", String(task)];
      const child = spawn(process.execPath, args, { stdio: ["ignore", "ignore", log] });
      running.add(child);
      const status = await new Promise((resolve) => child.on("exit", (code, signal) => resolve(code ?? signal)));
      running.delete(child);
      closeSync(log);
      if (status !== 0) say(`sweep: ${points[task].label} ended with ${status}: ${lastLine(path)}`);
      onChange(points[task].label);
    }
  };
  await Promise.all(Array.from({ length: Math.min(jobs, tasks.length) }, worker));
  process.off("SIGINT", stop).off("SIGTERM", stop);
}

const lastLine = (path: string) => readFileSync(path, "utf8").trimEnd().split("\n").at(-1);

/** Goes on with the job that is in the queue for this very plan, else submits what is missing. */
async function runOnSlurm(
  plan: Sweep,
  frozen: string,
  missing: () => number[],
  onChange: (figures: string) => void,
  sbatch = "",
): Promise<void> {
  const record = join(plan.out, "slurm.json");
  const before = existsSync(record)
    ? (JSON.parse(readFileSync(record, "utf8")) as { job: string; plan: string })
    : undefined;
  let job = before?.plan === basename(frozen) ? before.job : undefined;
  if (job !== undefined && isActive(job) !== false) {
    say(`sweep: job ${job} is in the queue already; waiting for it`);
  } else {
    const command = [process.execPath, BIN, "sweep", frozen, "--task"];
    const script = frozen.replace(/yaml$/, "sh");
    writeFileSync(script, jobScript(command, missing(), join(plan.out, "logs", "%A_%a.log")));
    job = submit(script, sbatch.split(/\s+/).filter(Boolean));
    writeFileAtomic(record, `${JSON.stringify({ job, plan: basename(frozen) })}\n`);
    say(`sweep: submitted array job ${job}`);
  }
  await watch(job, missing, onChange);
}

function collect(plan: Sweep, points: KeyedPoint[]): SweepReport {
  const lost = points.filter((point) => !existsSync(resultPath(plan, point)));
  const results = points.filter((point) => !lost.includes(point)).map((point) => readResult(plan, point));
  const report = join(plan.out, "report.html");
  if (results.length) writeFileAtomic(report, sweepHtml(basename(plan.out), results));
  if (lost.length) {
    throw new SlimViTError(
      "bad-input",
      `sweep: ${lost.length} of ${points.length} points failed (${lost.map(({ label }) => label).join(", ")}); ` +
        `${join(plan.out, "logs")} says why. The same command runs them again.`,
    );
  }
  say(`sweep: ${results.length} points; accuracy against MACs in ${report}`);
  return { out: plan.out, points: results, report };
}
