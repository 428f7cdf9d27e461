/** The weights of several variants → the selected one's checked `Model`, and the others. */
import type { Manifest, Model, WeightsDtype } from "./model.ts";
import { modelOf } from "./read.ts";
import { readSafetensors } from "./safetensors.ts";
import { fromSlabs, MORE, type Stored } from "./slabs.ts";
import { withVariant } from "./variants.ts";

/**
 * @param bytes the weights file's slabs from the first on, unpacked, or the file if it is a single piece; their integrity is
 *   the caller's business
 * @returns the selected variant's network, with those that these slabs make
 * @throws SlimViTError as `readModel`
 */
export function readFamily(manifest: Manifest, dtype: WeightsDtype, bytes: readonly Uint8Array[], name: string): Model {
  const slabs = bytes.map((slab) => readSafetensors(slab, name));
  const model = (variant: string, without?: RegExp) =>
    readVariant(withVariant(manifest, variant), dtype, slabs, name, without);
  const there = manifest.variants.filter((variant) => (variant.slabs ?? 1) <= slabs.length);
  const names = there.sort((a, b) => a.macs - b.macs).map((variant) => variant.name);
  const replaced = new Set(slabs.slice(1).flatMap((slab) => [...slab.keys()].filter((key) => !key.endsWith(MORE))));
  return { ...model(manifest.variant), family: { names, replaced, model } };
}

function readVariant(manifest: Manifest, dtype: WeightsDtype, slabs: Stored[], name: string, without?: RegExp): Model {
  const { variants, variant } = manifest;
  const count = variants.find((one) => one.name === variant)?.slabs ?? 1;
  const made = slabs.slice(0, count).map((stored, i) => {
    const completed = variants.find((one) => one.slabs === i + 1);
    return { stored, manifest: completed ? withVariant(manifest, completed.name) : manifest };
  });
  return modelOf(manifest, dtype, fromSlabs(made, name, without), name);
}
