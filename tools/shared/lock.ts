/** One process at a time, also over machines that share a file system. */
import { randomBytes } from "node:crypto";
import { linkSync, mkdirSync, readFileSync, renameSync, rmSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { dirname } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const BEAT_MS = 10_000;
/** A holder on another machine that has not moved for so long is taken for dead. Longer than a stage blocks its event loop. */
const DEAD_MS = 600_000;
const POLL_MS = 500;

/**
 * Runs `work` while `path` is a file of this process's. A holder that was killed is noticed at once on its own machine, on
 * others when its file has not been touched for ten minutes.
 *
 * The lock saves work and is not what keeps results whole: should two processes ever hold it, both make the same bytes and
 * rename them into place.
 *
 * @param onWait called once, when another process is found to hold it
 */
export async function withLock<T>(path: string, onWait: () => void, work: () => Promise<T>): Promise<T> {
  mkdirSync(dirname(path), { recursive: true });
  const mine = `${hostname()} ${process.pid} ${randomBytes(8).toString("hex")}`;
  for (let waited = false; !take(path, mine); waited = true) {
    if (!waited) onWait();
    if (!dropIfDead(path)) await sleep(POLL_MS);
  }
  const beat = setInterval(() => {
    try {
      utimesSync(path, new Date(), new Date());
    } catch {
      // taken over: nothing to keep alive
    }
  }, BEAT_MS);
  beat.unref();
  try {
    return await work();
  } finally {
    clearInterval(beat);
    if (read(path) === mine) rmSync(path, { force: true });
  }
}

/** By link, so that the file is never seen without its holder's name. */
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
  if (Date.now() - touched < DEAD_MS && (host !== hostname() || isRunning(Number(pid)))) return false;
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
