/**
 * The architectures of the network family: the fields that define a slim vision transformer's arithmetic, and the sizes
 * that follow from them. The arithmetic itself is in src/reference/forward.ts.
 */

/** One transformer block after slimming. */
export interface BlockShape {
  /** Channels kept in each surviving head, every one ≥ 1; empty when the block has lost all its heads. Even with RoPE. */
  headDims: number[];
  /** Units kept between fc1 and fc2; 0 when the block has lost its MLP. */
  mlpHidden: number;
  /**
   * Tokens that are represented in the block: original indices, ascending, prefix tokens first; a subset of the block
   * before. After a merge several of them share one row: only `tokenCounts` says how many rows there are.
   */
  keepIdx: number[];
  /** Pairs of patches that become one between attention and MLP; 0 in a block that merges none. */
  merge: number;
}

export type Pooling = "class" | "mean" | "class+mean" | "map";
export type FinalNorm = "tokens" | "pooled" | "both" | "none";
export type Activation = "gelu" | "gelu_tanh" | "quick_gelu" | "relu" | "silu";
export type Position = "learned" | "rope" | "relative";

/** Epsilons of norms that differ from `layerNormEps`. */
export interface NormEps {
  /** norm_pre */
  pre?: number;
  /** norm, over tokens */
  final?: number;
  /** fc_norm, over the pooled vector */
  pooled?: number;
  /** blocks.i.mlp.norm */
  hidden?: number;
  /** blocks.i.attn.q_norm and k_norm */
  qk?: number;
  /** attn_pool.norm */
  pool?: number;
}

/** Coordinates of the patch grid for RoPE: row r lies at start + step × r, and columns likewise. */
export interface RopeGrid {
  rows: [start: number, step: number];
  columns: [start: number, step: number];
}

/** A picture whose features have a lower cosine than `threshold` with every row of head.means shows none of the classes. */
export interface UnknownRule {
  threshold: number;
  /** The share of pictures of its own classes that a rule made without them called unknown … */
  falseRejection: number;
  /** … and how many pictures that was measured on. */
  n: number;
}

export interface Head {
  /** How logits become scores. */
  scores: "softmax" | "sigmoid";
  /** The features are divided by their length first; temperature and logit bias are folded into head.weight and head.bias. */
  cosine?: boolean;
  /** There is head.means: the classes' mean features. */
  unknown?: UnknownRule;
}

/** What fixes a network's arithmetic. */
export interface Architecture {
  /** [height, width] in pixels */
  imageSize: [number, number];
  patchSize: number;
  embedDim: number;
  /** Width of a dense head. The softmax scale is 1/√headDim whatever was cut. */
  headDim: number;
  /** The epsilon of every norm that `normEps` does not name. */
  layerNormEps: number;
  normEps?: NormEps;
  /** Class token, distillation token and registers, in this order: 0 to 16 in all. */
  prefixTokens: number;
  classToken: boolean;
  /** There is a distillation token. Its head's logits are averaged with the class token's. */
  distilled: boolean;
  /** Which tokens the features come from. Means and attention pooling are over patches alone. */
  pooling: Pooling;
  /** tokens: `norm` on each token before the pooling; pooled: `fc_norm` on the pooled vector. */
  finalNorm: FinalNorm;
  activation: Activation;
  /** swiglu: fc1 is [2 × mlpHidden, embedDim], gate rows first, and the hidden units are act(gate) × value. */
  mlp: "plain" | "swiglu";
  /** swiglu's inner norm is there. The number is the dense hidden width that its statistics count; cut units are zeros. */
  hiddenNorm?: number;
  /** norm_pre runs after the positions, on patch rows only: it is folded into the prefix tokens. */
  preNorm: boolean;
  /** q_norm and k_norm run on each head. Their statistics count the dense headDim; cut channels are zeros. */
  qkNorm: boolean;
  /** A learned pos_embed may stand beside RoPE and relative positions too. */
  position: Position;
  /** with position "rope" */
  rope?: RopeGrid;
  /** with pooling "map" */
  poolHeads?: number;
  poolHidden?: number;
  poolActivation?: Activation;
  /** Width of a linear without bias after pooling and norm. The features lie in its space. */
  projection?: number;
  /** Absent from an embedding model, whose list of labels is empty. */
  head?: Head;
  blocks: BlockShape[];
}

/**
 * The fields' values for a DeiT, which is all that format version 1 could describe. Version 2 leaves fields with these
 * values out of its JSON, except `head`.
 */
export const PLAIN = {
  classToken: true,
  distilled: false,
  pooling: "class",
  finalNorm: "tokens",
  activation: "gelu",
  mlp: "plain",
  preNorm: false,
  qkNorm: false,
  position: "learned",
  head: { scores: "softmax" },
} as const satisfies Partial<Architecture>;

/** An architecture for which only the sizes need to be given. */
export type PlainArchitecture = Omit<Partial<Architecture>, "blocks"> &
  Pick<Architecture, "imageSize" | "patchSize" | "embedDim" | "headDim" | "layerNormEps" | "prefixTokens"> & {
    blocks: (Omit<BlockShape, "merge"> & Partial<BlockShape>)[];
  };

/**
 * Fields that are not given are as in DeiT: two prefix tokens are class and distillation token, and no tokens merge.
 */
export function plainArchitecture(given: PlainArchitecture): Architecture {
  const blocks = given.blocks.map((block) => ({ ...block, merge: block.merge ?? 0 }));
  return { ...PLAIN, head: { ...PLAIN.head }, distilled: given.prefixTokens === 2, ...given, blocks };
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

/** Width of the pooled vector. */
export function pooledDim({ pooling, embedDim }: Architecture): number {
  return pooling === "class+mean" ? 2 * embedDim : embedDim;
}

/** Width of the features, which the head takes and `embed` returns. */
export function featureDim(arch: Architecture): number {
  return arch.projection ?? pooledDim(arch);
}

export interface TokenCount {
  /** rows that enter the block: its attention's tokens */
  entering: number;
  /** rows after its merge: its MLP's tokens */
  mlp: number;
}

/** Rows of the residual stream in each block. `keepIdx.length` is that number only until the first merge. */
export function tokenCounts({ blocks }: Pick<Architecture, "blocks">): TokenCount[] {
  const counts: TokenCount[] = [];
  blocks.forEach(({ keepIdx, merge }, i) => {
    const dropped = i ? blocks[i - 1].keepIdx.length - keepIdx.length : 0;
    const entering = i ? counts[i - 1].mlp - dropped : keepIdx.length;
    counts.push({ entering, mlp: entering - merge });
  });
  return counts;
}

/**
 * Rows of the last block that the pooling reads. Queries, `proj` and MLP of the other rows need not be computed, but
 * their keys and values must be.
 */
export function lastRows(arch: Architecture): number {
  if (arch.pooling === "class") return 1 + Number(arch.distilled);
  return tokenCounts(arch).at(-1)!.entering;
}
