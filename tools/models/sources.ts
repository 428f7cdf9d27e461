/** How a command names a model: its folder, or one of the folder's variants. */
import { existsSync } from "node:fs";
import type { Manifest } from "../../src/format/model.ts";

/** `MODEL#NAME` names one of the folder's variants; without a name it is the first. */
export function splitSource(source: string): { dir: string; variant?: string } {
  const [, dir, variant] = source.match(/^(.+)#([\w.-]+)$/) ?? [];
  return dir === undefined || existsSync(source) ? { dir: source } : { dir, variant };
}

/** How output calls a model that was read: by its name, and where its folder has several variants by the variant's too. */
export const titleOf = ({ name, variants, variant }: Manifest): string =>
  variants.length > 1 ? `${name}#${variant}` : name;
