/** One SLURM array job with a task for each point, through sbatch, squeue and scontrol. */
import { spawnSync } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";
import { SlimViTError } from "../../src/errors.ts";
import { say } from "../shared/terminal.ts";

/** Milliseconds between two questions to the controller. */
const POLL_MS = 4000;
/** The number of times that a killed task is run again. */
const RESTARTS = 3;
/** Polls after the queue is empty, because a shared file system may show a result late. */
const GRACE = 3;

const OVER = [
  "COMPLETED",
  "FAILED",
  "CANCELLED",
  "TIMEOUT",
  "NODE_FAIL",
  "OUT_OF_MEMORY",
  "PREEMPTED",
  "BOOT_FAIL",
  "DEADLINE",
];
/** States in which a task is not run again: it has ended by itself or by a person's decision. */
const FINAL = ["COMPLETED", "CANCELLED", "DEADLINE"];

/**
 * @param command the words of one task's command, without its number
 * @param tasks the numbers of the points that are missing
 * @param logs file names with SLURM's %A and %a
 */
export function jobScript(command: string[], tasks: number[], logs: string): string {
  return `#!/bin/bash
#SBATCH --job-name=slimvit-sweep
#SBATCH --array=${ranges(tasks)}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=${logs}
${command.map(quoted).join(" ")} "$SLURM_ARRAY_TASK_ID"
status=$?
# Killed from outside, say for want of memory: SLURM would call that failed and leave it so. It goes on from its checkpoint.
if [ $status -gt 128 ] && [ "\${SLURM_RESTART_COUNT:-0}" -lt ${RESTARTS} ]; then
  for try in 1 2 3 4 5 6; do
    scontrol requeue "\${SLURM_ARRAY_JOB_ID}_\${SLURM_ARRAY_TASK_ID}" && break
    sleep 10
  done
fi
exit $status
`;
}

/** @returns the job's number */
export function submit(script: string, options: string[]): string {
  const { status, stdout, stderr, error } = spawnSync("sbatch", ["--parsable", ...options, script], {
    encoding: "utf8",
  });
  if (error || status !== 0) {
    const fault = error ? "sbatch is not on this machine" : stderr.trim().split("\n").at(-1);
    throw new SlimViTError("unsupported", `sweep: SLURM did not take the job (${fault}).`);
  }
  return stdout.trim().split(";")[0];
}

/** Whether the controller still has tasks of the job to run; undefined when it does not answer. */
export function isActive(job: string): boolean | undefined {
  const states = statesOf(job);
  return states && [...states.values()].some((state) => !OVER.includes(state));
}

/**
 * Waits until every task has its result or the controller has none left to run. Killed tasks are put back into the queue.
 * @param missing the tasks whose result is not there
 */
export async function watch(job: string, missing: () => number[], onPoll: (states: string) => void): Promise<void> {
  let [idle, silent] = [0, false];
  for (;;) {
    const left = missing();
    if (left.length === 0) return;
    const states = statesOf(job);
    if (!states && !silent) say("sweep: SLURM's controller does not answer; asking again");
    silent = !states;
    if (states) {
      let active = [...states.values()].some((state) => !OVER.includes(state));
      for (const task of left) if (restart(job, task, states.get(task))) active = true;
      idle = active ? 0 : idle + 1;
      if (idle > GRACE) return;
      onPoll(summary(states));
    }
    await sleep(POLL_MS);
  }
}

/**
 * Puts a task back whose script was killed or ran out of time. When only the command is killed, the script itself puts
 * the task back.
 */
function restart(job: string, task: number, state: string | undefined): boolean {
  if (state === undefined || !OVER.includes(state) || FINAL.includes(state)) return false;
  const { stdout } = spawnSync("scontrol", ["-o", "show", "job", `${job}_${task}`], { encoding: "utf8" });
  const [, code, signal] = stdout.match(/ ExitCode=(\d+):(\d+)/)?.map(Number) ?? [0, 0, 0];
  const restarts = Number(stdout.match(/ Restarts=(\d+)/)?.[1] ?? RESTARTS);
  const killed = code > 128 || signal > 0 || state !== "FAILED";
  if (!killed || restarts >= RESTARTS) return false;
  say(`sweep: task ${task} was lost (${state.toLowerCase()}, signal ${signal || code - 128}); it is queued again`);
  return spawnSync("scontrol", ["requeue", `${job}_${task}`]).status === 0;
}

/** States by task; empty when the controller has forgotten the job, undefined when it does not answer. */
function statesOf(job: string): Map<number, string> | undefined {
  const asked = spawnSync("squeue", ["-h", "-r", "-t", "all", "-j", job, "-o", "%K|%T"], { encoding: "utf8" });
  if (asked.error) throw new SlimViTError("unsupported", "sweep: squeue is not on this machine.");
  if (asked.status !== 0) return /Invalid job id/i.test(asked.stderr) ? new Map() : undefined;
  const lines = asked.stdout.split("\n").filter(Boolean);
  return new Map(lines.map((line) => line.split("|")).map(([task, state]) => [Number(task), state]));
}

function summary(states: Map<number, string>): string {
  const counts = new Map<string, number>();
  for (const state of states.values()) counts.set(state, (counts.get(state) ?? 0) + 1);
  return [...counts].map(([state, count]) => `${count} ${state.toLowerCase()}`).join(", ");
}

/** [0, 1, 2, 5] → "0-2,5" */
function ranges(tasks: number[]): string {
  const runs: [number, number][] = [];
  for (const task of [...tasks].sort((a, b) => a - b)) {
    const last = runs.at(-1);
    if (last && task === last[1] + 1) last[1] = task;
    else runs.push([task, task]);
  }
  return runs.map(([from, to]) => (from === to ? `${from}` : `${from}-${to}`)).join(",");
}

const quoted = (word: string) => `'${word.replaceAll("'", `'\\''`)}'`;
