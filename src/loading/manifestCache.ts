/** Manifests that are stored for a visit without a network. */
import { forget } from "./weightsStore.ts";

/** @returns the text that was kept on an earlier visit */
export async function readKeptManifest(cache: Cache | undefined, name: string): Promise<string | undefined> {
  try {
    return await (await cache?.match(name))?.text();
  } catch {
    return undefined;
  }
}

/** Keeps a manifest. Weights that only its previous version names are deleted. */
export async function keepManifest(cache: Cache, name: string, text: string, before = ""): Promise<void> {
  try {
    await cache.put(name, new Response(text));
    for (const [sha256] of before.matchAll(/\b[0-9a-f]{64}\b/g))
      if (!text.includes(sha256)) await forget(cache, sha256);
  } catch {} // without quota the next visit needs the network
}
