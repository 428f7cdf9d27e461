/**
 * Work sharing. A phase is a number of items. Threads claim items one by one, and the phase ends when all its items are
 * done. The number of threads plays no role: a thread that the system suspends delays the others only if it holds an
 * item, so more threads than cores do no harm.
 */
import {
  PHASE_DONE,
  PHASE_WORDS,
  PHASES_A_STAGE,
  PLAN_MAY_SLEEP,
  PLAN_SPINS,
  PLAN_SYNC,
  PLAN_THREADS,
  SYNC_ACTIVE,
  SYNC_EPOCH,
  SYNC_FROM,
  SYNC_OPEN,
  SYNC_PHASES,
  SYNC_QUIT,
  SYNC_TO,
} from "../layout";

export let threads: i32 = 1;
export let thread: i32 = 0;
let sync: usize = 0;
let spins: i32 = 0;
let maySleep: bool = true;
let phase: usize = 0; // the current phase's line
let cursor: i32 = 0; // stands in for it when there is one thread
let mine: i32 = 0; // items claimed in this phase
export let epoch: i32 = 0; // of the last run that this worker saw

/**
 * The host's Atomics.wait: code from V8 11.3's baseline compiler (Node 20) waits at a wrong address and is never woken.
 */
// @ts-ignore: decorator
@external("env", "wait")
declare function wait(at: usize, seen: i32): void;

export function joinThreads(plan: usize, index: i32): void {
  thread = index;
  threads = load<i32>(plan, PLAN_THREADS * 4);
  sync = load<i32>(plan, PLAN_SYNC * 4);
  spins = load<i32>(plan, PLAN_SPINS * 4);
  maySleep = index != 0 || load<i32>(plan, PLAN_MAY_SLEEP * 4) != 0;
}

export function firstPhase(): void {
  phase = sync + SYNC_PHASES * 4 - PHASE_WORDS * 4;
}

/** Every thread opens the same phases in the same order. */
export function openPhase(): void {
  phase += PHASE_WORDS * 4;
  cursor = 0;
  mine = 0;
}

/** The next item to do; ≥ the phase's items when none is left. */
export function claim(): i32 {
  if (threads == 1) return cursor++;
  mine++;
  return atomic.add<i32>(phase, 1);
}

/** Returns when all items of the phase are done, by this thread or others. */
export function closePhase(items: i32): void {
  if (threads == 1) return;
  mine--; // the claim that came back empty
  const done = phase + PHASE_DONE * 4;
  if (mine > 0 && atomic.add<i32>(done, mine) + mine == items) {
    atomic.notify(done, -1);
    return;
  }
  let left = spins;
  for (let seen = atomic.load<i32>(done); seen < items; seen = atomic.load<i32>(done)) {
    if (left > 0 || !maySleep) left--;
    else wait(done, seen);
  }
}

/**
 * How many of `total` units make one item: all of them for one thread, else about twelve items a thread, so that the last
 * one to finish keeps the others waiting for a twelfth at most.
 */
export function share(total: i32, least: i32): i32 {
  if (threads == 1) return max(total, 1);
  return max(total / (threads * 12), least);
}

/** The main thread: sets the stages, clears the phases once the last run's stragglers have left, and lets the others in. */
export function openRun(from: i32, to: i32): void {
  if (threads == 1) return;
  const active = sync + SYNC_ACTIVE * 4;
  let left = spins;
  for (let seen = atomic.load<i32>(active); seen != 0; seen = atomic.load<i32>(active)) {
    if (left > 0 || !maySleep) left--;
    else wait(active, seen);
  }
  store<i32>(sync, from, SYNC_FROM * 4);
  store<i32>(sync, to, SYNC_TO * 4);
  memory.fill(sync + SYNC_PHASES * 4, 0, (to - from) * PHASES_A_STAGE * PHASE_WORDS * 4);
  atomic.store<i32>(sync + SYNC_OPEN * 4, 1);
  atomic.add<i32>(sync + SYNC_EPOCH * 4, 1);
  atomic.notify(sync + SYNC_EPOCH * 4, -1);
}

export function closeRun(): void {
  if (threads > 1) atomic.store<i32>(sync + SYNC_OPEN * 4, 0);
}

/** A worker: looks for the next run as often as `spins` says. False when none has begun. Enter with `enterRun`. */
export function awaitRun(): bool {
  const word = sync + SYNC_EPOCH * 4;
  let left = spins;
  while (atomic.load<i32>(word) == epoch) {
    if (left-- == 0) return false;
  }
  epoch = atomic.load<i32>(word);
  return true;
}

export function hasQuit(): bool {
  return atomic.load<i32>(sync + SYNC_QUIT * 4) != 0;
}

/**
 * Announces itself before it looks whether the run is still open; the main thread closes before it looks for those who
 * announced themselves. So the phases are never cleared under a worker that reads them.
 */
export function enterRun(): bool {
  atomic.add<i32>(sync + SYNC_ACTIVE * 4, 1);
  if (atomic.load<i32>(sync + SYNC_OPEN * 4) != 0) return true;
  leaveRun();
  return false;
}

export function leaveRun(): void {
  const active = sync + SYNC_ACTIVE * 4;
  if (atomic.sub<i32>(active, 1) == 1) atomic.notify(active, -1);
}
