/** The inputs, the intermediate results and the outputs of the forward pass. */
import type { MergePairs } from "../reference/merge.ts";
import type { Tensor } from "./ops.ts";
import type { Turns } from "./positions.ts";

/** Tensors by timm name, f32, shaped as `tensorShapes` says. */
export type Weights = ReadonlyMap<string, Tensor>;

export type BlockLinear = "attn.qkv" | "attn.proj" | "mlp.fc1" | "mlp.fc2";

/** y = x Wᵀ + b, or a norm's gain and shift */
export type Linear = { weight: Tensor; bias: Tensor };

/** The tokens between two blocks. */
export type Stream = {
  /** [batch, tokens, embedDim] */
  x: Tensor;
  /** From the first merge on: patches that each row stands for, [batch, tokens]; 1 for a prefix token. */
  sizes?: Tensor;
  /** From the first merge on, with RoPE: [batch, tokens, 2] */
  coordinates?: Tensor;
};

/** A block's weights as `runBlock` multiplies with them: for training made anew each step, for inference once. */
export interface BlockWeights {
  /** gain and shift of the norms, where they are not part of the linears after them */
  norm1?: Linear;
  norm2?: Linear;
  hiddenNorm?: Linear;
  /** heads padded to the widest; absent without heads */
  qkv?: Linear;
  /** with norms of queries and keys: gain and shift, [heads, 1, width] */
  qNorm?: Linear;
  kNorm?: Linear;
  /** of a block that merges: the shift of its keys, which the softmax does not see, [heads, 1, width] */
  keyShift?: Tensor;
  /** with RoPE: [2, heads × width / 2] */
  frequencies?: Tensor;
  /** the turns of the block's tokens while none has merged */
  turns?: Turns;
  /** with relative positions: [heads, tokens, tokens] */
  scoreBias?: Tensor;
  proj: Linear;
  /** absent without hidden units */
  fc1?: Linear;
  fc2: Linear;
}

export interface ForwardOptions {
  /**
   * A factor for each token that enters a block, [keepIdx.length], on the output of both its norms (ViT-Slim's tanh ζ). Not
   * in a network that merges.
   */
  tokenGates?: Tensor[];
  /**
   * The attention-score form: a factor G ≥ 0 for each token, [keepIdx.length], on its exponential in every softmax.
   * Where G is 0 the token has no effect, as if it were removed. Not in a network that merges.
   */
  scoreGates?: Tensor[];
  /** A factor ≥ 0 for each token of the last block, [keepIdx.length], its weight in a mean or in attention pooling. */
  poolGates?: Tensor;
  /**
   * One ghost for each block: a constant key and value, those of the qkv bias, which count as this many tokens in every
   * softmax. A token leaves a ghost behind when its norm output is multiplied by zero instead of being removed. At 0
   * there is none. A ghost has no place, so it cannot be used with RoPE or relative positions.
   */
  ghosts?: (number | Tensor)[];
  /** Stochastic depth: whether a residual branch runs for each picture, [batch, 1, 1], already divided by its keep rate. */
  branchGates?: { attn: Tensor; mlp: Tensor }[];
  /**
   * Computes the last block for `lastRows` alone, which are all that the pooling reads; other tokens serve as keys and
   * values. Not with `tokenGates`.
   */
  lastRowsOnly?: boolean;
  /** For each block the pairs that merge, in every picture, instead of the most similar ones. */
  forcedPairs?: MergePairs[];
  /** For each block that merges, the row that each of its rows becomes in each picture, as `onMerge` receives it. */
  mergeRows?: (Tensor | undefined)[];
  /** Receives what enters a block's linear, [batch × tokens, inputs]. */
  onInput?: (x: Tensor, name: BlockLinear, i: number) => void;
  /** Receives what enters a head, [batch, featureDim]. */
  onHead?: (x: Tensor, name: "head" | "head_dist") => void;
  /** Receives attention in block i, [batch, heads, rows, tokens]: the class token's, or all tokens' where there is none. */
  onAttention?: (p: Tensor, i: number) => void;
  /** Receives, of block i that merges, the row that each of its rows becomes, [batch, tokens]. */
  onMerge?: (rows: Tensor, i: number) => void;
  /** Receives the residual stream after each block, [batch, tokens, embedDim]. */
  onBlock?: (x: Tensor) => void;
}

export interface ForwardOutput {
  /** [batch, classes], [batch, 0] without a head; with a distillation token, the mean of the two heads, as at inference */
  logits: Tensor;
  classLogits: Tensor;
  distLogits?: Tensor;
  /** [batch, featureDim]: the pooled tokens after norm and projection */
  features: Tensor;
}
