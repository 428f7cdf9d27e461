/** ζ folded into a model's weights in plain loops, and a cut held against multiplying by zero. */
import { innerDim, type Model, type Tensors } from "../../src/format/model.ts";
import { float32 } from "../../src/format/read.ts";
import { selfTestPixels } from "../../src/format/write.ts";
import { forward } from "../../src/reference/forward.ts";
import type { BlockMask, BlockZeta } from "./masks.ts";

/** ζ into the rows of q, k, v and their biases, and into the columns of fc2: `foldZeta` of masks.ts without a backend. */
export function foldTensors({ manifest, tensors }: Model, zetas: BlockZeta[]): Tensors {
  const out: Tensors = new Map(tensors);
  manifest.blocks.forEach((block, i) => {
    const { attn, mlp } = zetas[i];
    const inner = innerDim(block);
    const scaled = (name: string, factor: (row: number, column: number) => number) => {
      const { shape } = tensors.get(name)!;
      const columns = shape[1] ?? 1;
      const data = float32(tensors, name).map((v, k) => v * factor(Math.floor(k / columns), k % columns));
      out.set(name, { dtype: "F32", shape, data });
    };
    scaled(`blocks.${i}.attn.qkv.weight`, (row) => attn[row % inner]);
    scaled(`blocks.${i}.attn.qkv.bias`, (row) => attn[row % inner]);
    scaled(`blocks.${i}.mlp.fc2.weight`, (_, column) => mlp[column]);
  });
  return out;
}

/** Cut channels and units against the same ones multiplied by zero; tokens are dropped in both, being no multiplication. */
export function againstMasked(searched: Model, folded: Tensors, masks: BlockMask[], slim: Model): number {
  const masked: Tensors = new Map(folded);
  const zeroed = (name: string, kept: (row: number, column: number) => boolean) => {
    const { shape, data } = masked.get(name)!;
    const columns = shape[1] ?? 1;
    masked.set(name, {
      dtype: "F32",
      shape,
      data: (data as Float32Array).map((v, k) => (kept(Math.floor(k / columns), k % columns) ? v : 0)),
    });
  };
  masks.forEach(({ attn, mlp }, i) => {
    for (const part of ["weight", "bias"]) zeroed(`blocks.${i}.attn.qkv.${part}`, (row) => attn[row % attn.length]);
    zeroed(`blocks.${i}.mlp.fc2.weight`, (_, column) => mlp[column]);
  });
  const blocks = searched.manifest.blocks.map((block, i) => ({ ...block, keepIdx: slim.manifest.blocks[i].keepIdx }));
  const pixels = selfTestPixels(slim.manifest, 1);
  const a = forward(slim, pixels).logits;
  const b = forward({ ...searched, manifest: { ...searched.manifest, blocks }, tensors: masked }, pixels).logits;
  return a.reduce((worst, v, k) => Math.max(worst, Math.abs(v - b[k])), 0);
}
