/**
 * The shared types: what a slim vision transformer is, which tensors it has, and what it costs. The files are read in
 * read.ts and written in write.ts.
 */
import type { Architecture, BlockShape, Head, RopeGrid } from "./architecture.ts";

export * from "./architecture.ts";
export { countMacs } from "./cost.ts";
export { countParams, isOptional, MEANS, tensorShapes } from "./tensors.ts";

export const FORMAT = "slimvit/2";

/** Pillow's filters. */
export const INTERPOLATIONS = ["bicubic", "bilinear", "nearest", "lanczos", "box", "hamming"] as const;

export type Interpolation = (typeof INTERPOLATIONS)[number];

export interface Preprocess {
  /** The shorter side is resized to this many pixels, or the whole picture to [height, width] whatever its shape … */
  resize: number | [number, number];
  /**
   * With [height, width], the picture keeps its shape instead: it covers that size, or is contained in it. What the crop then
   * shows beside the picture is filled with the mean.
   */
  fit?: "cover" | "contain";
  /** … and this [height, width] is cut from the centre. */
  crop: [number, number];
  /** Where the crop begins if it cannot be centred: half to even, as torchvision has it, or rounded down, as transformers. */
  cropOffset?: "floor";
  interpolation: Interpolation;
  /** of RGB in 0..1 */
  mean: [number, number, number];
  std: [number, number, number];
}

export interface Label {
  id: string;
  label: string;
}

export type WeightsDtype = "f32" | "f16" | "int8";

/** The output for a known input, with which an engine is checked before a device is trusted. */
export interface SelfTest {
  /** Seeds `selfTestPixels` */
  seed: number;
  /** of a model with a head */
  logits?: number[];
  /** of an embedding model */
  features?: number[];
}

/** How a model that was trained beside a text tower scores a picture against a text, by the cosine of their embeddings. */
export interface ZeroShot {
  scores: Head["scores"];
  /** Cosines are multiplied by this … */
  scale: number;
  /** … and this is added. */
  bias: number;
}

/** The range of an activation over the pictures of a calibration. */
export type ActivationRange = [min: number, max: number];

/**
 * Ranges by linear: `NAME.input`, and `NAME.output` of each of its parts (`attn.q`, `attn.k` and `attn.v` of
 * `attn.qkv`). Each output is first divided by the length of its row of weights.
 */
export type ActivationRanges = Record<string, ActivationRange>;

export interface WeightsFile {
  dtype: WeightsDtype;
  /** a plain file name inside the model folder; one that ends in .zz is compressed (zlib), whatever the server does */
  file: string;
  /** of the file */
  bytes: number;
  /** of the safetensors in a file that ends in .zz */
  unpackedBytes?: number;
  /** of the safetensors, however they are packed; lower-case hex */
  sha256: string;
  /** of int8: for engines that quantise activations by fixed ranges */
  activations?: ActivationRanges;
  /** The file is these one after the other: the first makes the smallest variants, each further one what larger ones add. */
  slabs?: Slab[];
}

/** A part of a weights file: a safetensors of its own, packed on its own in a file that ends in .zz. */
export interface Slab {
  /** in the file */
  bytes: number;
  /** of the safetensors in a packed one */
  unpackedBytes?: number;
  /** of the safetensors; lower-case hex */
  sha256: string;
}

/** One of the networks that a folder's weights make. */
export interface Variant {
  name: string;
  imageSize: [number, number];
  blocks: BlockShape[];
  /** as `countMacs` gives them; the reader counts for itself */
  macs: number;
  /** measured figures, each with the data and n it was measured on */
  metrics: Record<string, unknown>;
  preprocess: Preprocess;
  rope?: RopeGrid;
  /** How many slabs of the weights files make this variant, from the first on. Absent when it needs the whole file. */
  slabs?: number;
  /** by the dtype of the weights */
  selfTest?: Partial<Record<WeightsDtype, SelfTest>>;
}

/**
 * `slimvit.json`, with one of its variants selected: `imageSize`, `blocks`, `rope`, `preprocess` and `metrics` are that
 * variant's. They count where they differ from its entry in `variants`, so a copy with other blocks is a sound manifest.
 */
export interface Manifest extends Architecture {
  format: typeof FORMAT;
  name: string;
  license: string;
  preprocess: Preprocess;
  labels: Label[];
  weights: WeightsFile[];
  /** where the weights came from and every command that made them */
  provenance: Record<string, unknown> & { zeroShot?: ZeroShot };
  /** measured figures, each with the data and n it was measured on */
  metrics: Record<string, unknown>;
  /** at least one */
  variants: Variant[];
  /** name of the selected one */
  variant: string;
}

export type TensorDtype = "F32" | "F16" | "I8";

export interface Tensor {
  dtype: TensorDtype;
  shape: number[];
  /** F16 as raw bits */
  data: Float32Array | Uint16Array | Int8Array;
}

/**
 * Tensors by timm's names, as in the weights file. int8 linears have `NAME.weight` (I8) and `NAME.scale` (F32, [out];
 * in the file F16 where that is exact).
 */
export type Tensors = Map<string, Tensor>;

export interface Model {
  manifest: Manifest;
  dtype: WeightsDtype;
  tensors: Tensors;
  /** The variants whose weights are there, cheapest first. Absent where there is one. */
  family?: Family;
}

/** Variants of one folder, for engines that change between them. */
export interface Family {
  names: string[];
  /** Tensors that a variant has in place of those of a smaller one. All others are parts of the largest variant's. */
  replaced: ReadonlySet<string>;
  /**
   * The variant's own model. Its tensors are views where they can be, else fresh copies.
   *
   * @param without tensors that are given with their shapes alone, because the caller does not need their numbers
   */
  model(name: string, without?: RegExp): Model;
}
