/** Files beside worker.js, which only pages that need them download. */
import { messageOf, SlimViTError } from "../errors.ts";
import type { EngineOptions } from "./engine.ts";
import { importUrl } from "./installedPackages.ts";

/** A file beside worker.js. An app may serve it elsewhere and give its address under `name` in `engineUrls`. */
export interface Chunk<T> {
  name: `slimvit/${string}.js`;
  /** Imports the file where there is no page to ask for its address, as in the tools. */
  load(): Promise<T>;
}

/** @throws SlimViTError `unsupported` when the file does not load */
export async function loadChunk<T>(
  { name, load }: Chunk<T>,
  { engineUrls, locate }: Pick<EngineOptions, "engineUrls" | "locate">,
): Promise<T> {
  try {
    const found = engineUrls?.[name] ?? (await locate?.(name)) ?? (await load());
    if (typeof found !== "string") return found as T;
    const module = await importUrl(found);
    return ((globalThis as Record<string, unknown>)[name] ?? module) as T; // Parcel's scripts export nothing
  } catch (error) {
    if (error instanceof SlimViTError) throw error;
    throw new SlimViTError(
      "unsupported",
      `The package's ${name.replace("slimvit/", "")} did not load (${messageOf(error)}). Serve it from your own origin ` +
        `and pass engineUrls: { "${name}": "its URL" }.`,
      { cause: error },
    );
  }
}
