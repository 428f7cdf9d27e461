/** Loads a sentence from dist/advice.js. */

/** @param otherwise where code cannot be loaded later, as in a service worker */
export function advise(pick: (texts: typeof import("./advice.ts")) => string, otherwise: string): Promise<string> {
  return import("./advice.ts").then(pick).catch(() => otherwise);
}
