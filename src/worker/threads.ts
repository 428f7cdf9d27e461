/** The number of threads that an engine is asked to use. */
import { SlimViTError } from "../errors.ts";

/** Each thread is a worker with its own stack; no model has work for more. */
const MAX_THREADS = 64;

/** Small networks do not keep more threads busy. */
const MOST_BY_CHOICE = 4;

/**
 * "auto" is half of the cores, because the other half are often slow ones or no cores at all; at most 4; and 1 on iOS,
 * where each thread costs memory that a page lacks there.
 *
 * @throws SlimViTError `bad-option` for a value that is not a number of threads
 */
export function chooseThreads(wanted: number | "auto"): number {
  if (wanted !== "auto") {
    if (Number.isSafeInteger(wanted) && wanted >= 1 && wanted <= MAX_THREADS) return wanted;
    throw new SlimViTError(
      "bad-option",
      `threads is ${wanted}; expected "auto" or a whole number from 1 to ${MAX_THREADS}.`,
    );
  }
  const { userAgent = "", hardwareConcurrency = 1 } = globalThis.navigator ?? {};
  if (/iPhone|iPad|iPod/.test(userAgent)) return 1;
  return hardwareConcurrency <= 2 ? hardwareConcurrency : Math.min(MOST_BY_CHOICE, Math.ceil(hardwareConcurrency / 2));
}
