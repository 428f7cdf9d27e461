/** The files that a search writes beside the trained weights. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { SlimViTError } from "../../src/errors.ts";
import type { Architecture } from "../../src/format/model.ts";
import { readSafetensors } from "../../src/format/safetensors.ts";
import { type BlockZeta, blockZetas, type MaskMode, type PatchForm, type TokenRule, zetaShapes } from "./masks.ts";

export const ZETA_FILE = "zetas.safetensors";
export const IMPORTANCE_FILE = "importance.safetensors";
export const SEARCH_FILE = "search.json";

/** @throws SlimViTError `bad-model` for a folder without masks, or with masks of another model */
export function readMasks(source: string, file: string, arch: Architecture): { mode: MaskMode; zetas: BlockZeta[] } {
  const path = join(source, file);
  if (!existsSync(path))
    throw new SlimViTError("bad-model", `${source}: has no ${file}; compress needs the output of "slimvit search".`);
  const stored = readSafetensors(readFileSync(path), path);
  const { masks: mode } = readSearchOptions(source);
  if ([...zetaShapes(arch, mode)].some(([name, shape]) => stored.get(name)?.shape.join() !== shape.join()))
    throw new SlimViTError("bad-model", `${path}: its masks do not fit the model in slimvit.json.`);
  return { mode, zetas: blockZetas(arch, mode, (name) => stored.get(name)!.data as Float32Array) };
}

/**
 * The search's options on which compression depends. They are kept in search.json, the only record of the masks' mode.
 */
export interface SearchRecord {
  masks: MaskMode;
  patchForm: PatchForm;
  tokens: TokenRule;
  /** weights of the L1 terms; 0 froze the family */
  wAttn: number;
  wMlp: number;
  wPatch: number;
}

export const readSearchOptions = (source: string): SearchRecord =>
  JSON.parse(readFileSync(join(source, SEARCH_FILE), "utf8"));

export function searchText({ masks, patchForm, tokens, wAttn, wMlp, wPatch }: SearchRecord): string {
  return `${JSON.stringify({ masks, patchForm, tokens, wAttn, wMlp, wPatch }, null, 2)}\n`;
}
