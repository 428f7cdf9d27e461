/** How many threads the engine gets where a result is wanted soon, and not its time on one thread. */
import { availableParallelism, loadavg } from "node:os";

/** More help networks of this size little. */
const MOST_THREADS = 4;

/** The number of cores, at most 4. */
export const USUAL_THREADS = Math.min(MOST_THREADS, availableParallelism());

/** Processes that want a core, for each core; this one is among them. */
const LOADED = 1.6;

/** The usual number where the cores are idle, else 1, because threads that wait for a core hold up all others. */
export const freeThreads = (): number => (loadavg()[0] > LOADED * availableParallelism() ? 1 : USUAL_THREADS);
