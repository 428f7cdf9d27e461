/**
 * The functions that the host calls. Each thread has one instance, and all share one memory. Nothing is allocated here.
 */
import { PLAN_SYNC, SYNC_FROM, SYNC_TO } from "../layout";
import { runStage } from "./forward";
import { writeConstants } from "./math";
import { plan, readPlan } from "./model";
import { awaitRun, closeRun, enterRun, epoch, firstPhase, hasQuit, joinThreads, leaveRun, openRun } from "./sync";

import { chooseProduct } from "./linear";
export { linearPhase } from "./linear"; // for the benchmark of kernels
export { pack, scaleWeights, sumWeights } from "./pack";

let sync: usize = 0;

/** @param index 0 is the main thread */
export function start(at: usize, index: i32): void {
  chooseProduct();
  if (index == 0) writeConstants();
  joinThreads(at, index);
  readPlan(at);
  sync = load<i32>(at, PLAN_SYNC * 4);
}

/** Stages `from` up to but not `to`, on the main thread with the others' help. */
export function run(from: i32, to: i32): void {
  openRun(from, to);
  runStages(from, to);
  closeRun();
}

/**
 * A worker's part: helps with runs as long as one soon follows another.
 * @returns the last SYNC_EPOCH that this worker saw; the host waits until it changes. −1 to quit
 */
export function help(): i32 {
  while (awaitRun()) {
    if (hasQuit()) return -1;
    if (!enterRun()) continue;
    runStages(load<i32>(sync, SYNC_FROM * 4), load<i32>(sync, SYNC_TO * 4));
    leaveRun();
  }
  return epoch;
}

function runStages(from: i32, to: i32): void {
  readPlan(plan); // another variant's, perhaps
  firstPhase();
  for (let stage = from; stage < to; stage++) runStage(stage);
}
