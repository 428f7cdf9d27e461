/** Families of nested variants to test with: every variant's widths are a part of the next larger one's. */
import {
  type Architecture,
  denseTokens,
  type Manifest,
  type Model,
  type Tensors,
  tensorShapes,
  type WeightsDtype,
} from "../src/format/model.ts";
import { readManifest } from "../src/format/read.ts";
import { encodeTensors, manifestJson, writeSlabs } from "../src/format/write.ts";
import { cutToWidths } from "../tools/elastic/cut.ts";
import { manifestOf, randomValues } from "./helpers.ts";

/** One weights file of a family, and each variant's tensors as they are written. */
export interface NestedWeights {
  slabs: Uint8Array[];
  /** smallest first */
  variants: { manifest: Manifest; tensors: Tensors }[];
}

export interface Nested {
  /** smallest first */
  names: string[];
  weights(dtype: WeightsDtype): NestedWeights;
  /** Without weights files; the largest variant is the first. */
  manifest: Manifest;
}

/**
 * @param large any network
 * @param count of variants, the large one among them
 * @param widthOf a smaller width of one of `width`; 0 drops the head if those behind it go, too
 * @param keepsSize whether all variants take pictures of one size
 */
export function nestedFamily(
  large: Model,
  count: number,
  seed: number,
  widthOf: (width: number, random: number) => number,
  keepsSize = false,
): Nested {
  const random = numbers(seed);
  const archs: Architecture[] = [large.manifest];
  while (archs.length < count) archs.unshift(smaller(archs[0], random, widthOf, keepsSize));
  const names = archs.map((_, i) => `v${i}`);
  const own = archs.map((arch, i) => ownTensors(arch, large, i === count - 1, random));
  const manifest = manifestWith(large.manifest, archs, names);
  return {
    names,
    manifest,
    weights(dtype) {
      const encoded = encodeTensors(large.tensors, dtype);
      const variants = archs.map((arch, i) => {
        const tensors = new Map([...cutToWidths(encoded, large.manifest, arch), ...encodeTensors(own[i], dtype)]);
        return { manifest: manifestOf(arch), tensors };
      });
      return { slabs: writeSlabs(variants), variants };
    },
  };
}

export function numbers(seed: number): () => number {
  let at = 0;
  const values = randomValues(4096, seed);
  return () => (values[at++ % values.length] + 1) / 2;
}

function smaller(
  arch: Architecture,
  random: () => number,
  widthOf: (width: number, random: number) => number,
  keepsSize: boolean,
): Architecture {
  const { patchSize, imageSize, position, prefixTokens, pooling } = arch;
  const canResize = !keepsSize && position !== "relative" && imageSize.some((side) => side > patchSize);
  const size = imageSize.map((side) => (canResize && random() < 0.5 ? Math.max(patchSize, side - patchSize) : side));
  const resized: Architecture = { ...arch, imageSize: size as [number, number] };
  const tokens = [...Array(denseTokens(resized)).keys()];
  const even = (width: number) => (position === "rope" ? width & ~1 : width);
  const blocks = arch.blocks.map(({ headDims, mlpHidden, keepIdx, merge }) => {
    const widths = headDims.map((width) => even(widthOf(width, random())));
    const alive = widths.indexOf(0);
    const heads = alive < 0 ? widths : widths.slice(0, alive);
    const keepsLists = String(size) === String(imageSize);
    return {
      headDims: heads,
      mlpHidden: widthOf(mlpHidden, random()),
      keepIdx: keepsLists ? keepIdx : tokens,
      merge: keepsLists && heads.length ? merge : 0,
    };
  });
  // A block that lost its heads merges nothing, which leaves more tokens to those behind it: still sound.
  if (blocks.some(({ keepIdx }) => keepIdx.length === prefixTokens && pooling !== "class"))
    throw new Error("no patch is left");
  return { ...resized, blocks };
}

/** What a variant has of its own: positions of another size, and at random norms and biases. */
function ownTensors(arch: Architecture, large: Model, isLarge: boolean, random: () => number): Tensors {
  const own: Tensors = new Map();
  if (isLarge) return own;
  const isOther = String(arch.imageSize) !== String(large.manifest.imageSize);
  for (const [key, shape] of tensorShapes(arch, large.manifest.labels.length)) {
    const mayDiffer = /norm.*\.(weight|bias)$|(proj|fc2|fc1|qkv)\.bias$/.test(key) && random() < 0.3;
    if (!mayDiffer && !(key === "pos_embed" && isOther)) continue;
    const count = shape.reduce((a, b) => a * b, 1);
    const zeros = key.endsWith("bias") && random() < 0.3; // which a file leaves out
    const data = randomValues(count, Math.floor(random() * 1e6)).map((v) => (zeros ? 0 : 1 + v / 2));
    own.set(key, { dtype: "F32", shape, data });
  }
  return own;
}

/** @param archs smallest first */
function manifestWith(large: Manifest, archs: Architecture[], names: string[]): Manifest {
  const variants = archs.map((arch, i) => {
    const { preprocess } = manifestOf(arch);
    const { imageSize, blocks } = arch;
    return { name: names[i], imageSize, blocks, macs: 0, metrics: {}, preprocess, slabs: i + 1 };
  });
  const json = manifestJson({ ...large, variants: variants.reverse(), variant: names[names.length - 1] });
  return readManifest(JSON.stringify(json), "nested");
}
