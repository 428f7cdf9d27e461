/** The folders beside the tools: in a clone of the repository, and where the package `slimvit-tools` is installed. */
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { SlimViTError } from "../../src/errors.ts";

/**
 * The built runtime, for pages to load.
 *
 * @throws SlimViTError `unsupported` when there is none
 */
export function runtimeFolder(): string {
  const isThere = (dist: string) => existsSync(join(dist, "index.js"));
  const clone = fileURLToPath(new URL("../../dist", import.meta.url));
  if (isThere(clone)) return clone;
  try {
    const dist = join(dirname(createRequire(import.meta.url).resolve("slimvit/package.json")), "dist");
    if (isThere(dist)) return dist;
  } catch {} // A package that cannot be found is reported by the error below.
  throw new SlimViTError("unsupported", 'The package "slimvit" is not built: run "npm run build" first.');
}

/**
 * The address of a file that lies beside the code in the packed tools and elsewhere in a clone; `path` is relative to
 * the folder of `url`.
 */
export function besides(url: string, packed: string, path: string): string {
  const beside = fileURLToPath(new URL(packed, url));
  return existsSync(beside) ? beside : fileURLToPath(new URL(path, url));
}
