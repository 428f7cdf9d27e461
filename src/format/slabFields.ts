/** The fields of a manifest that describe slabs, checked before the first slab is read. */
import { Check } from "./check.ts";
import { LIMITS } from "./limits.ts";
import type { Manifest, WeightsFile } from "./model.ts";
import { show } from "./show.ts";

/**
 * Every weights file has as many slabs as the largest variant needs, each slab makes a variant, and together they are the file.
 *
 * @param name how messages call the manifest
 * @throws SlimViTError `bad-model`
 */
export function checkSlabs({ variants, weights }: Manifest, name: string): void {
  const check = new Check(name);
  const needed = new Set(variants.map(({ slabs }) => slabs));
  if (needed.size === 1 && needed.has(undefined)) {
    weights.forEach(({ slabs }, i) => {
      if (slabs) check.fail(`weights[${i}] has slabs; expected the field in each variant, too.`);
    });
    return;
  }
  variants.forEach(({ slabs }, i) => void check.integer(slabs, `variants[${i}].slabs`, 1, LIMITS.variants));
  const count = Math.max(...variants.map(({ slabs = 0 }) => slabs));
  for (let k = 1; k <= count; k++) if (!needed.has(k)) check.fail(`has no variant of ${k} slabs; each slab makes one.`);
  weights.forEach((entry, i) => void checkFile(check, entry, `weights[${i}]`, count));
}

function checkFile(check: Check, file: WeightsFile, at: string, count: number): void {
  const keys = file.file.endsWith(".zz") ? (["bytes", "unpackedBytes"] as const) : (["bytes"] as const);
  const sums = { bytes: 0, unpackedBytes: 0 };
  check.list(file.slabs, `${at}.slabs`, count, count).forEach((entry, i) => {
    const where = `${at}.slabs[${i}]`;
    const slab = check.object(entry, where);
    for (const key of keys) sums[key] += check.integer(slab[key], `${where}.${key}`, 8, LIMITS.weightsBytes);
    const { sha256 } = slab;
    if (typeof sha256 !== "string" || !/^[0-9a-f]{64}$/.test(sha256))
      check.fail(`${where}.sha256 is ${show(sha256)}; expected 64 hex digits.`);
  });
  for (const key of keys)
    if (sums[key] !== file[key]) check.fail(`${at}.slabs have ${sums[key]} ${key}; the file has ${file[key]}.`);
}
