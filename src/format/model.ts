/**
 * The words everyone shares: what a slim vision transformer is, which tensors it has, and what it costs.
 * The maths behind `blocks` is in src/reference/forward.ts; the files are read in read.ts and written in write.ts.
 */

export const FORMAT = "slimvit/1";

/** One transformer block after slimming. */
export interface BlockShape {
  /** Channels kept in each surviving head, every one ≥ 1; empty when the block has lost all its heads. */
  headDims: number[];
  /** Units kept between fc1 and fc2; 0 when the block has lost its MLP. */
  mlpHidden: number;
  /** Tokens that enter the block: original indices, ascending, prefix tokens first; a subset of the block before. */
  keepIdx: number[];
}

/** What fixes a network's arithmetic. */
export interface Architecture {
  /** [height, width] in pixels */
  imageSize: [number, number];
  patchSize: number;
  embedDim: number;
  /** Width of a dense head. The softmax scale is 1/√headDim whatever was cut. */
  headDim: number;
  layerNormEps: number;
  /** 1: class token; 2: class and distillation token, whose two heads' logits are averaged. */
  prefixTokens: 1 | 2;
  blocks: BlockShape[];
}

export interface Preprocess {
  /** The shorter side is resized to this many pixels, or the whole picture to [height, width] whatever its shape … */
  resize: number | [number, number];
  /** … and this [height, width] is cut from the centre. */
  crop: [number, number];
  interpolation: "bicubic" | "bilinear";
  /** of RGB in 0..1 */
  mean: [number, number, number];
  std: [number, number, number];
}

export interface Label {
  id: string;
  label: string;
}

export type WeightsDtype = "f32" | "f16" | "int8";

/** A known input's logits, to be checked on a device before it is trusted. */
export interface SelfTest {
  /** Seeds `selfTestPixels` */
  seed: number;
  logits: number[];
}

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
  selfTest?: SelfTest;
}

/** `slimvit.json` */
export interface Manifest extends Architecture {
  format: typeof FORMAT;
  name: string;
  license: string;
  preprocess: Preprocess;
  labels: Label[];
  weights: WeightsFile[];
  /** where the weights came from and every command that made them */
  provenance: Record<string, unknown>;
  /** measured figures, each with the data and n it was measured on */
  metrics: Record<string, unknown>;
}

export type TensorDtype = "F32" | "F16" | "I8";

export interface Tensor {
  dtype: TensorDtype;
  shape: number[];
  /** F16 as raw bits */
  data: Float32Array | Uint16Array | Int8Array;
}

/**
 * By timm's names, as in the weights file. int8 linears have `NAME.weight` (I8) and `NAME.scale` (F32, [out]; in the file F16
 * where that is exact).
 */
export type Tensors = Map<string, Tensor>;

export interface Model {
  manifest: Manifest;
  dtype: WeightsDtype;
  tensors: Tensors;
}

/** Patches down and across. */
export function patchGrid({ imageSize, patchSize }: Architecture): [number, number] {
  return [imageSize[0] / patchSize, imageSize[1] / patchSize];
}

/** Length of the dense sequence: patches and prefix tokens. */
export function denseTokens(arch: Architecture): number {
  const [rows, columns] = patchGrid(arch);
  return rows * columns + arch.prefixTokens;
}

/** Attention channels that survive in a block: the width of q, of k and of v. */
export function innerDim(block: BlockShape): number {
  return block.headDims.reduce((sum, width) => sum + width, 0);
}

/** Every tensor a network must have, by timm name, with its shape; linears are [out, in]. */
export function tensorShapes(arch: Architecture, classes: number): Map<string, number[]> {
  const { embedDim: d, patchSize: p, prefixTokens } = arch;
  const shapes = new Map<string, number[]>();
  const linear = (name: string, out: number, input: number) => {
    shapes.set(`${name}.weight`, [out, input]);
    shapes.set(`${name}.bias`, [out]);
  };
  const norm = (name: string) => {
    shapes.set(`${name}.weight`, [d]);
    shapes.set(`${name}.bias`, [d]);
  };
  shapes.set("patch_embed.proj.weight", [d, 3, p, p]);
  shapes.set("patch_embed.proj.bias", [d]);
  shapes.set("cls_token", [1, 1, d]);
  if (prefixTokens === 2) shapes.set("dist_token", [1, 1, d]);
  shapes.set("pos_embed", [1, denseTokens(arch), d]);
  arch.blocks.forEach((block, i) => {
    const inner = innerDim(block);
    norm(`blocks.${i}.norm1`);
    linear(`blocks.${i}.attn.qkv`, 3 * inner, d);
    linear(`blocks.${i}.attn.proj`, d, inner);
    norm(`blocks.${i}.norm2`);
    linear(`blocks.${i}.mlp.fc1`, block.mlpHidden, d);
    linear(`blocks.${i}.mlp.fc2`, d, block.mlpHidden);
  });
  norm("norm");
  linear("head", classes, d);
  if (prefixTokens === 2) linear("head_dist", classes, d);
  return shapes;
}

/** Parameters of the network: every element of every tensor, the full position embeddings included. */
export function countParams(arch: Architecture, classes: number): number {
  let total = 0;
  for (const shape of tensorShapes(arch, classes).values()) total += shape.reduce((a, b) => a * b, 1);
  return total;
}

/**
 * Multiply-accumulates of one forward pass: linears and attention products; biases, norms, GELU and softmax are not
 * counted. Only the patches that the first block keeps are embedded. The last block is counted in full, dense and slim
 * alike, although its query, proj and MLP are needed for the prefix tokens only.
 */
export function countMacs(arch: Architecture, classes: number): number {
  const { embedDim: d, patchSize: p, prefixTokens, blocks } = arch;
  const embedded = (blocks[0]?.keepIdx.length ?? denseTokens(arch)) - prefixTokens;
  let total = embedded * d * 3 * p * p + prefixTokens * d * classes;
  for (const block of blocks) {
    const n = block.keepIdx.length;
    const s = innerDim(block);
    total += n * d * 3 * s + 2 * n * n * s + n * s * d + 2 * n * d * block.mlpHidden;
  }
  return total;
}
