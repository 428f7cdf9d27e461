/** The browser's cache in which the package stores manifests, weights and measurements of earlier visits. */

export const CACHE = "slimvit";

/** @throws where the browser keeps nothing */
export async function readChoice(key: string): Promise<string | undefined> {
  return (await (await caches.open(CACHE)).match(addressOf(key)))?.text();
}

/** @throws where the browser keeps nothing */
export async function keepChoice(key: string, choice: string): Promise<void> {
  await (await caches.open(CACHE)).put(addressOf(key), new Response(choice));
}

/** An address for what the cache holds beside weights; it is never fetched. */
function addressOf(key: string): string {
  return `https://slimvit.invalid/auto?${encodeURIComponent(key)}`;
}
