/** The browser's cache that the package keeps things in, and what it has measured on earlier visits. */

export const CACHE = "slimvit";

/** Both fail where the browser keeps nothing. */
export async function readChoice(key: string): Promise<string | undefined> {
  return (await (await caches.open(CACHE)).match(at(key)))?.text();
}

export async function keepChoice(key: string, choice: string): Promise<void> {
  await (await caches.open(CACHE)).put(at(key), new Response(choice));
}

/** Beside the weights; never fetched. */
const at = (key: string) => `https://slimvit.invalid/auto?${encodeURIComponent(key)}`;
