/** How a command names a model: its folder, or one of the folder's variants. */
import { existsSync } from "node:fs";

/** `MODEL#NAME` names one of the folder's variants; without a name it is the first. */
export function splitSource(source: string): { dir: string; variant?: string } {
  const [, dir, variant] = source.match(/^(.+)#([\w.-]+)$/) ?? [];
  return dir === undefined || existsSync(source) ? { dir: source } : { dir, variant };
}
