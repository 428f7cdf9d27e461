/** Checks whether a recipe can reach its target, before anything is trained. */
import { existsSync } from "node:fs";
import { SlimViTError } from "../../src/errors.ts";
import { type Architecture, countMacs, countParams, type Manifest } from "../../src/format/model.ts";
import { openDataset } from "../data/data.ts";
import { predictMs, readProfile } from "../masks/latency.ts";
import { architectureOf, readManifestFile } from "../models/folders.ts";
import { percent } from "../shared/terminal.ts";
import type { RecipeFile, StageSettings } from "./recipeFile.ts";

/**
 * Opens everything that later stages read.
 *
 * @throws SlimViTError naming the first thing that is missing
 */
export async function checkInputs(recipe: RecipeFile): Promise<void> {
  if (recipe.model !== undefined) readManifestFile(recipe.model);
  if (recipe.teacher !== undefined && recipe.teacher !== "none") readManifestFile(recipe.teacher);
  for (const { teacher, data } of [recipe.search, recipe.retrain]) {
    if (typeof teacher === "string") readManifestFile(teacher);
    for (const source of [data ?? []].flat()) await openDataset([String(source)], "all", { unlabelled: true });
  }
  const measured = recipe.eval.data;
  for (const source of [measured ?? []].flat()) await openDataset([String(source)], "all");
  const { weights, profile } = recipe.compress;
  if (typeof weights === "string") readManifestFile(weights);
  if (typeof profile === "string" && !existsSync(profile))
    throw new SlimViTError("bad-input", `${profile}: no such file; make it with "slimvit profile -o ${profile}".`);
}

/**
 * @throws SlimViTError `bad-option` for a target below what is left when every head, unit and token that the search has masks
 *   for is gone
 */
export function checkTarget(
  manifest: Manifest,
  classes: number,
  search: Pick<StageSettings<"search">, "wAttn" | "wMlp" | "wPatch">,
  compress: StageSettings<"compress">,
): void {
  const arch = architectureOf(manifest);
  const least = emptied(arch, search);
  for (const [cost, of] of [
    ["macs", countMacs],
    ["params", countParams],
  ] as const) {
    const asked = compress[cost];
    if (typeof asked !== "number") continue;
    const floor = of(least, classes) / of(arch, classes);
    if (asked < floor) fail(`--${cost} ${asked}`, `${percent(floor)} of the dense model`);
  }
  if (compress.latencyMs !== undefined && compress.profile !== undefined) {
    const floor = predictMs(readProfile(compress.profile, arch), least);
    if (compress.latencyMs < floor) fail(`--latency-ms ${compress.latencyMs}`, `${floor.toFixed(3)} ms`);
  }
}

function fail(option: string, left: string): never {
  throw new SlimViTError(
    "bad-option",
    `slim: ${option} cannot be reached: ${left} is left when all that the search has masks for is gone. Give a larger target.`,
  );
}

function emptied(
  arch: Architecture,
  { wAttn, wMlp, wPatch }: { wAttn: number; wMlp: number; wPatch: number },
): Architecture {
  const prefix = Array.from({ length: arch.prefixTokens }, (_, token) => token);
  const blocks = arch.blocks.map((block) => ({
    ...block,
    ...(wAttn > 0 && { headDims: [] }),
    ...(wMlp > 0 && { mlpHidden: 0 }),
    ...(wPatch > 0 && { keepIdx: prefix }),
  }));
  return { ...arch, blocks };
}
