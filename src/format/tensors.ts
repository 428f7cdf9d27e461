/** The list of a network's tensors, under timm's names. */
import { type Architecture, denseTokens, featureDim, innerDim, patchGrid, pooledDim } from "./architecture.ts";

/** Every tensor of a network in memory, with its shape; linears are [out, in]. A file may lack those that `isOptional`. */
export function tensorShapes(arch: Architecture, classes: number): Map<string, number[]> {
  const { embedDim: d, patchSize: p, prefixTokens, classToken, distilled, finalNorm, projection } = arch;
  const shapes = new Map<string, number[]>();
  const linear = (name: string, out: number, input: number) => {
    shapes.set(`${name}.weight`, [out, input]);
    shapes.set(`${name}.bias`, [out]);
  };
  const norm = (name: string, width = d) => {
    shapes.set(`${name}.weight`, [width]);
    shapes.set(`${name}.bias`, [width]);
  };
  shapes.set("patch_embed.proj.weight", [d, 3, p, p]);
  shapes.set("patch_embed.proj.bias", [d]);
  if (classToken) shapes.set("cls_token", [1, 1, d]);
  if (distilled) shapes.set("dist_token", [1, 1, d]);
  const registers = prefixTokens - Number(classToken) - Number(distilled);
  if (registers) shapes.set("reg_token", [1, registers, d]);
  shapes.set("pos_embed", [1, denseTokens(arch), d]);
  if (arch.preNorm) norm("norm_pre");
  const [rows, columns] = patchGrid(arch);
  arch.blocks.forEach((block, i) => {
    const inner = innerDim(block);
    const heads = block.headDims.length;
    norm(`blocks.${i}.norm1`);
    linear(`blocks.${i}.attn.qkv`, 3 * inner, d);
    if (arch.qkNorm) for (const of of ["q", "k"]) norm(`blocks.${i}.attn.${of}_norm`, inner);
    if (arch.position === "rope") shapes.set(`blocks.${i}.attn.rope_freqs`, [2, inner / 2]);
    if (arch.position === "relative")
      shapes.set(`blocks.${i}.attn.rel_bias`, [heads, (2 * rows - 1) * (2 * columns - 1) + 3]);
    linear(`blocks.${i}.attn.proj`, d, inner);
    norm(`blocks.${i}.norm2`);
    linear(`blocks.${i}.mlp.fc1`, (arch.mlp === "swiglu" ? 2 : 1) * block.mlpHidden, d);
    if (arch.hiddenNorm) norm(`blocks.${i}.mlp.norm`, block.mlpHidden);
    linear(`blocks.${i}.mlp.fc2`, d, block.mlpHidden);
  });
  if (finalNorm === "tokens" || finalNorm === "both") norm("norm");
  if (arch.pooling === "map") {
    shapes.set("attn_pool.query", [arch.poolHeads!, d]);
    linear("attn_pool.v", d, d);
    linear("attn_pool.proj", d, d);
    norm("attn_pool.norm");
    linear("attn_pool.mlp.fc1", arch.poolHidden!, d);
    linear("attn_pool.mlp.fc2", d, arch.poolHidden!);
  }
  if (finalNorm === "pooled" || finalNorm === "both") norm("fc_norm", pooledDim(arch));
  if (projection) shapes.set("projection.weight", [projection, pooledDim(arch)]);
  if (arch.head) {
    linear("head", classes, featureDim(arch));
    if (distilled) linear("head_dist", classes, featureDim(arch));
    if (arch.head.unknown) shapes.set(MEANS, [classes, featureDim(arch)]);
  }
  return shapes;
}

/** Whether a file may leave a tensor out. It then consists of zeros. */
export function isOptional(name: string): boolean {
  return name === "pos_embed" || name.endsWith(".bias");
}

/** The classes' mean features, with which the rule for unknown pictures compares. They are not part of the network. */
export const MEANS = "head.means";

/**
 * Parameters of the network: every element of every tensor that belongs to it, including the full position embeddings.
 */
export function countParams(arch: Architecture, classes: number): number {
  let total = 0;
  for (const [key, shape] of tensorShapes(arch, classes)) if (key !== MEANS) total += shape.reduce((a, b) => a * b, 1);
  return total;
}
