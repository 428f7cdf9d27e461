/** The browser's cache that the package keeps things in, and what it has measured on earlier visits. */

export const CACHE = "slimvit";

export interface Choices {
  get(key: string): Promise<string | undefined>;
  put(key: string, choice: string): Promise<unknown>;
}

/** Beside the weights; undefined where the browser keeps nothing. */
export function openChoices(): Choices | undefined {
  if (typeof caches === "undefined") return undefined;
  const at = (key: string) => `https://slimvit.invalid/auto?${encodeURIComponent(key)}`; // never fetched
  return {
    get: async (key) => (await (await caches.open(CACHE)).match(at(key)))?.text(),
    put: async (key, choice) => (await caches.open(CACHE)).put(at(key), new Response(choice)),
  };
}
