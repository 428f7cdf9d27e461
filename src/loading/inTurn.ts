/** Runs work of all workers and tabs of one origin one after the other. */
import { throwIfAborted } from "../errors.ts";

/**
 * Loads of the same file wait for the first one and then find the file in the store. Insecure origins have no locks, so
 * there each load does the work for itself.
 */
export async function inTurn<T>(name: string, work: () => Promise<T>, signal?: AbortSignal): Promise<T> {
  let turn: Promise<T> | undefined;
  try {
    await globalThis.navigator?.locks?.request(name, { signal }, () => (turn = work()));
  } catch {
    throwIfAborted(signal);
  }
  return turn ?? work();
}
