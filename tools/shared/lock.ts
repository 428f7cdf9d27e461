/** A lock for one process at a time, also across machines that share a file system. */
import { randomBytes } from "node:crypto";
import { linkSync, mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { dirname } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { startBeat } from "./beat.ts";

const BEAT_MS = 5000;
/**
 * Milliseconds. A holder that has not touched its file for this long, by the file system's own clock, counts as dead.
 */
const DEAD_MS = 60_000;
const POLL_MS = 500;

/** Files of the locks that this process holds. */
const held = new Set<string>();

/**
 * Runs `work` while `path` is a file of this process's. A holder that was killed is noticed at once on its own machine, on
 * others when its file has not been touched for a minute.
 *
 * The lock saves work, but correct results do not depend on it. Should two processes ever hold it, both make the same
 * bytes and rename them into place.
 *
 * @param onWait called once, when another process is found to hold it
 */
export async function withLock<T>(path: string, onWait: () => void, work: () => Promise<T>): Promise<T> {
  mkdirSync(dirname(path), { recursive: true });
  const mine = `${hostname()} ${process.pid} ${randomBytes(8).toString("hex")}`;
  held.add(mine);
  const stopBeat = await taken(path, mine, onWait);
  try {
    return await work();
  } finally {
    stopBeat();
    held.delete(mine);
    if (read(path) === mine) rmSync(path, { force: true });
  }
}

async function taken(path: string, mine: string, onWait: () => void): Promise<() => void> {
  for (let waited = false; !take(path, mine); ) {
    if (dropIfDead(path)) continue;
    if (!waited) onWait();
    waited = true;
    await sleep(POLL_MS);
  }
  return startBeat(path, BEAT_MS);
}

/** Takes the lock by a link, so that the file is never seen without its holder's name. */
function take(path: string, mine: string): boolean {
  const temporary = `${path}.${mine.split(" ")[2]}`;
  writeFileSync(temporary, mine);
  try {
    linkSync(temporary, path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw error;
  } finally {
    rmSync(temporary, { force: true });
  }
}

/** @returns whether the lock may be free now */
function dropIfDead(path: string): boolean {
  const holder = read(path);
  const touched = statSync(path, { throwIfNoEntry: false })?.mtimeMs;
  if (holder === undefined || touched === undefined) return true;
  const [host, pid] = holder.split(" ");
  // After a container's restart another process may have the holder's number, this one included.
  const isAlive = Number(pid) === process.pid ? held.has(holder) : isRunning(Number(pid));
  if (clockOf(path) - touched < DEAD_MS && (host !== hostname() || isAlive)) return false;
  // By rename, so that of several who wait only one removes it.
  const aside = `${path}.dead-${randomBytes(4).toString("hex")}`;
  try {
    renameSync(path, aside);
    rmSync(aside, { force: true });
  } catch {
    // another one was faster
  }
  return true;
}

/** The time by the clock of the file system, which may be another machine's. */
function clockOf(path: string): number {
  const probe = `${path}.clock-${randomBytes(4).toString("hex")}`;
  writeFileSync(probe, "");
  const { mtimeMs } = statSync(probe);
  rmSync(probe, { force: true });
  return mtimeMs;
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}
