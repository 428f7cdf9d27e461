/** All faults, by group. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { ROOT } from "../section.ts";
import { BROWSER } from "./browser.ts";
import { FAMILY } from "./family.ts";
import { KERNELS } from "./kernels.ts";
import { OFFLINE } from "./offline.ts";
import type { Plant } from "./plant.ts";
import { RUNTIME } from "./runtime.ts";

export const GROUPS: Record<string, Plant[]> = {
  offline: OFFLINE,
  family: FAMILY,
  runtime: RUNTIME,
  kernels: KERNELS,
  browser: BROWSER,
};

/** How often the text that a fault takes the place of is in its file. It must be there once. */
export function timesInSources({ file, find }: Plant, root = ROOT): number {
  const path = join(root, file);
  return existsSync(path) ? readFileSync(path, "utf8").split(find).length - 1 : 0;
}
