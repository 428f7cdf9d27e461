/**
 * Folds ζ into a model's weights in plain loops, and compares a cut model with one whose parts are multiplied by zero.
 */
import { type Architecture, innerDim, type Model, type Tensors } from "../../src/format/model.ts";
import { float32 } from "../../src/format/read.ts";
import { selfTestPixels } from "../../src/format/write.ts";
import { forward } from "../../src/reference/forward.ts";
import type { BlockMask, BlockZeta } from "./masks.ts";

/** ζ into the weights that `foldZeta` of masks.ts multiplies with it, without a backend. */
export function foldTensors({ manifest, tensors }: Model, zetas: BlockZeta[]): Tensors {
  return scaledParts(manifest, tensors, zetas);
}

/** Factors of channels, [inner], and units, [mlpHidden], on every tensor that has them, before norms and after. */
function scaledParts(
  arch: Architecture,
  tensors: Tensors,
  factors: { attn: ArrayLike<number>; mlp: ArrayLike<number> }[],
): Tensors {
  const out: Tensors = new Map(tensors);
  arch.blocks.forEach((block, i) => {
    const { attn, mlp } = factors[i];
    const inner = innerDim(block);
    const scaled = (name: string, factor: (row: number, column: number) => number) => {
      const key = `blocks.${i}.${name}`;
      const { shape } = tensors.get(key)!;
      const columns = shape[1] ?? 1;
      const data = float32(tensors, key).map((v, k) => v * factor(Math.floor(k / columns), k % columns));
      out.set(key, { dtype: "F32", shape, data });
    };
    const norms = arch.qkNorm ? ["attn.q_norm", "attn.k_norm"] : [];
    for (const part of ["weight", "bias"])
      for (const name of ["attn.qkv", ...norms]) scaled(`${name}.${part}`, (row) => attn[row % inner]);
    if (!arch.hiddenNorm) {
      scaled("mlp.fc2.weight", (_, column) => mlp[column]);
      return;
    }
    for (const part of ["weight", "bias"]) {
      scaled(`mlp.fc1.${part}`, (row) => (row < block.mlpHidden ? 1 : mlp[row - block.mlpHidden]));
      scaled(`mlp.norm.${part}`, (row) => mlp[row]);
    }
  });
  return out;
}

/** Cut channels and units against the same ones multiplied by zero; tokens are dropped in both, being no multiplication. */
export function againstMasked(searched: Model, folded: Tensors, masks: BlockMask[], slim: Model): number {
  const zeros = masks.map(({ attn, mlp }) => ({ attn: attn.map(Number), mlp: mlp.map(Number) }));
  const masked = scaledParts(searched.manifest, folded, zeros);
  const blocks = searched.manifest.blocks.map((block, i) => ({ ...block, keepIdx: slim.manifest.blocks[i].keepIdx }));
  const pixels = selfTestPixels(slim.manifest, 1);
  const a = outputOf(slim, pixels);
  const b = outputOf({ ...searched, manifest: { ...searched.manifest, blocks }, tensors: masked }, pixels);
  return a.reduce((worst, v, k) => Math.max(worst, Math.abs(v - b[k])), 0);
}

/** Logits, or the features of an embedding model. */
function outputOf(model: Model, pixels: Float32Array): Float32Array {
  const { logits, features } = forward(model, pixels);
  return model.manifest.head ? logits : features;
}
