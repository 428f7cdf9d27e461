/** Touches a file every few seconds from a thread of its own, also while the process computes. */
import { Worker } from "node:worker_threads";

const THREAD = `
  const { workerData } = require("node:worker_threads");
  const { utimesSync } = require("node:fs");
  setInterval(() => {
    try { utimesSync(workerData.path, new Date(), new Date()); } catch { /* the file is another's now */ }
  }, workerData.ms);
`;

/** @returns stops it */
export function startBeat(path: string, ms: number): () => void {
  const thread = new Worker(THREAD, { eval: true, workerData: { path, ms } });
  thread.unref();
  thread.on("error", () => {}); // without a beat the lock is taken for dead sooner; the results stay whole
  return () => void thread.terminate();
}
