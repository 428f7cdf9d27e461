/** The cost of a forward pass. */
import { type Architecture, denseTokens, featureDim, innerDim, pooledDim, tokenCounts } from "./architecture.ts";

/**
 * Multiply-accumulates of one forward pass: linears, attention products, and the similarities of blocks that merge. Biases,
 * norms, activations, RoPE and softmax are not counted. Only the patches that the first block keeps are embedded. The last
 * block is counted in full, dense and slim alike, although pooling by the class token needs its query, proj and MLP for
 * the class and distillation tokens only.
 */
export function countMacs(arch: Architecture, classes: number): number {
  const { embedDim: d, patchSize: p, prefixTokens, blocks } = arch;
  const embedded = (blocks[0]?.keepIdx.length ?? denseTokens(arch)) - prefixTokens;
  let total = embedded * d * 3 * p * p;
  const counts = tokenCounts(arch);
  blocks.forEach((block, i) => {
    const { entering: n, mlp } = counts[i];
    const s = innerDim(block);
    total += n * d * 3 * s + 2 * n * n * s + n * s * d;
    if (block.merge) total += Math.floor((n - prefixTokens) / 2) * Math.ceil((n - prefixTokens) / 2) * s;
    total += mlp * (arch.mlp === "swiglu" ? 3 : 2) * d * block.mlpHidden;
  });
  if (arch.pooling === "map") {
    const patches = (counts.at(-1)?.mlp ?? denseTokens(arch)) - prefixTokens;
    total += patches * d * arch.poolHeads! + patches * d * d + patches * d; // scores, values, their weighted sum
    total += d * d + 2 * d * arch.poolHidden!;
  }
  if (arch.projection) total += pooledDim(arch) * arch.projection;
  if (arch.head) total += (1 + Number(arch.distilled)) * featureDim(arch) * classes;
  return total;
}
