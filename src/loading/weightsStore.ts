/** Weights that are stored between visits, by their sha256. */
import type { WeightsStore } from "../protocol.ts";
import { digest } from "./digest.ts";

/** The weights of a model, as their file holds them. */
export interface Weights {
  bytes: Uint8Array;
  /** they were in the store */
  cached: boolean;
}

/** A store in the browser's cache. */
export function storeIn(cache: Cache): WeightsStore {
  return {
    async get(sha256) {
      const blob = await (await cache.match(addressOf(sha256)))?.blob(); // in two steps, which take two thirds of the time
      return blob && new Uint8Array(await blob.arrayBuffer());
    },
    put: (sha256, bytes) => cache.put(addressOf(sha256), new Response(bytes as Uint8Array<ArrayBuffer>)),
  };
}

/** The stored bytes, if they are complete. A store that fails or has the wrong bytes counts as empty. */
export async function readKept(store: WeightsStore | undefined, sha256: string): Promise<Weights | undefined> {
  try {
    const bytes = await store?.get(sha256);
    return bytes instanceof Uint8Array && (await digest(bytes)) === sha256 ? { bytes, cached: true } : undefined;
  } catch {
    return undefined;
  }
}

export async function forget(cache: Cache, sha256: string): Promise<void> {
  await cache.delete(addressOf(sha256));
}

/** The key in the cache, an address that is never fetched. */
function addressOf(sha256: string): string {
  return `https://slimvit.invalid/${sha256}`;
}
