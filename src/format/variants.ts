/** A folder's variants: several networks that share one set of weights. */
import { SlimViTError } from "../errors.ts";
import {
  countMacs,
  FORMAT,
  type Manifest,
  type SelfTest,
  type Slab,
  type Variant,
  type WeightsDtype,
  type WeightsFile,
} from "./model.ts";

/** The name of the only variant of a version-1 folder. */
export const DEFAULT_VARIANT = "default";

/** What is known before a manifest's variants are listed. */
export type SingleManifest = Omit<Manifest, "format" | "variants" | "variant">;

/** The manifest of a folder with one variant. */
export function singleVariant(fields: SingleManifest, selfTest?: Variant["selfTest"]): Manifest {
  const manifest: Manifest = { ...fields, format: FORMAT, variants: [], variant: DEFAULT_VARIANT };
  manifest.variants = [{ ...selectedVariant(manifest), ...(selfTest && { selfTest }) }];
  return manifest;
}

/** The entry of the selected variant, from the manifest's own fields. A self-test of other arithmetic is left out. */
export function selectedVariant(manifest: Manifest): Variant {
  const { imageSize, blocks, metrics, preprocess, rope, variant: name } = manifest;
  const known = manifest.variants.find((variant) => variant.name === name);
  const isSame = known && JSON.stringify([known.imageSize, known.blocks]) === JSON.stringify([imageSize, blocks]);
  return {
    name,
    imageSize,
    blocks,
    macs: countMacs(manifest, manifest.labels.length),
    metrics,
    preprocess,
    ...(rope && { rope }),
    ...(isSame && known.slabs && { slabs: known.slabs }),
    ...(isSame && known.selfTest && { selfTest: known.selfTest }),
  };
}

/** All variants. The selected one has the values of the manifest's own fields. */
export function currentVariants(manifest: Manifest): Variant[] {
  const selected = selectedVariant(manifest);
  const others = manifest.variants.filter(({ name }) => name !== selected.name);
  if (others.length === manifest.variants.length) return [...others, selected];
  return manifest.variants.map((variant) => (variant.name === selected.name ? selected : variant));
}

/**
 * @returns the manifest with another of its variants selected
 * @throws SlimViTError `bad-option` for an unknown name
 */
export function withVariant(manifest: Manifest, name: string): Manifest {
  const variants = currentVariants(manifest);
  const found = variants.find((variant) => variant.name === name);
  if (!found) {
    const names = variants.map((variant) => JSON.stringify(variant.name)).join(", ");
    throw new SlimViTError(
      "bad-option",
      `${manifest.name} has no variant ${JSON.stringify(name)}; expected one of ${names}.`,
    );
  }
  const { imageSize, blocks, metrics, preprocess, rope } = found;
  return { ...manifest, imageSize, blocks, metrics, preprocess, ...(rope && { rope }), variants, variant: name };
}

/** The selected variant's slabs of a weights file; undefined for one that is a single piece, as the file of a single variant. */
export function slabsOf({ variants, variant }: Manifest, { slabs }: WeightsFile): Slab[] | undefined {
  const known = variants.find(({ name }) => name === variant);
  return variants.length > 1 ? slabs?.slice(0, known?.slabs) : undefined;
}

/** The selected variant's known output in weights of `dtype`, if there is one. */
export function selfTestOf({ variants, variant }: Manifest, dtype: WeightsDtype): SelfTest | undefined {
  return variants.find(({ name }) => name === variant)?.selfTest?.[dtype];
}
