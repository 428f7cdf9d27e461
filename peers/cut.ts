/** A dense model cut to other widths, the first channels and units being those that stay: for speed, not for accuracy. */
import { type BlockShape, countMacs, type Model, type Tensors } from "../src/format/model.ts";
import { float32 } from "../src/format/read.ts";

/** @param dense heads all of width headDim; @returns f32 */
export function cutModel(dense: Model, blocks: BlockShape[]): Model {
  const { headDim } = dense.manifest;
  const tensors: Tensors = new Map();
  for (const [key, { shape }] of dense.tensors)
    tensors.set(key, { dtype: "F32", shape, data: float32(dense.tensors, key) });
  blocks.forEach(({ headDims, mlpHidden }, i) => {
    const at = `blocks.${i}`;
    const channels = headDims.flatMap((width, h) => range(width).map((c) => h * headDim + c));
    const inner = headDims.length * headDim;
    const qkv = [0, 1, 2].flatMap((part) => channels.map((c) => part * inner + c));
    take(tensors, `${at}.attn.qkv.weight`, 0, qkv);
    take(tensors, `${at}.attn.qkv.bias`, 0, qkv);
    take(tensors, `${at}.attn.proj.weight`, 1, channels);
    take(tensors, `${at}.mlp.fc1.weight`, 0, range(mlpHidden));
    take(tensors, `${at}.mlp.fc1.bias`, 0, range(mlpHidden));
    take(tensors, `${at}.mlp.fc2.weight`, 1, range(mlpHidden));
  });
  return { manifest: { ...dense.manifest, blocks }, dtype: "f32", tensors };
}

/**
 * The result for the same budget of a tool that cuts every head and block alike (Torch-Pruning's grouping of a ViT): one
 * head width and one MLP width for all blocks, all tokens.
 */
export function uniformBlocks({ manifest }: Model, macs: number): BlockShape[] {
  const classes = manifest.labels.length;
  const at = (share: number) =>
    manifest.blocks.map(({ headDims, mlpHidden, keepIdx, merge }) => ({
      headDims: headDims.map((width) => Math.max(1, Math.round(width * share))),
      mlpHidden: Math.max(1, Math.round(mlpHidden * share)),
      keepIdx,
      merge,
    }));
  let share = 1;
  while (share > 0.05 && countMacs({ ...manifest, blocks: at(share) }, classes) > macs) share -= 0.005;
  return at(share);
}

function take(tensors: Tensors, key: string, axis: 0 | 1, indices: number[]): void {
  const { data, shape } = tensors.get(key)!;
  const columns = shape[1] ?? 1;
  const out = axis === 0 ? [indices.length, columns] : [shape[0], indices.length];
  const values = new Float32Array(out[0] * out[1]);
  for (let r = 0; r < out[0]; r++) {
    for (let c = 0; c < out[1]; c++) {
      values[r * out[1] + c] = data[axis === 0 ? indices[r] * columns + c : r * columns + indices[c]];
    }
  }
  tensors.set(key, { dtype: "F32", shape: shape.length === 1 ? [out[0]] : out, data: values });
}

const range = (count: number) => [...Array(count).keys()];
