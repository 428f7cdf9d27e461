/**
 * How tensors grow with the widths of a block. A variant has the first channels of each head, the first heads and the
 * first MLP units of a larger one. So its tensors are parts of the larger one's tensors, and a slab adds the rest.
 */
import type { Architecture } from "./architecture.ts";
import type { StoredArray, StoredTensor } from "./safetensors.ts";

/** An axis that is cut with the block's widths. */
export interface Growth {
  axis: 0 | 1;
  /** The axis is so many runs of `parts`: queries, keys and values; gates and values. */
  groups: number;
  /** widths of the heads, or the one width of the MLP */
  parts: number[];
}

/** @returns undefined for a tensor whose shape no width decides */
export function growthOf(arch: Architecture, key: string): Growth | undefined {
  const [, index, name] = key.match(/^blocks\.(\d+)\.(.+)$/) ?? [];
  const block = arch.blocks[Number(index)];
  if (!block) return undefined;
  const { headDims, mlpHidden } = block;
  if (/^attn\.qkv\.(weight|bias|scale)$/.test(name)) return { axis: 0, groups: 3, parts: headDims };
  if (name === "attn.proj.weight") return { axis: 1, groups: 1, parts: headDims };
  if (/^attn\.[qk]_norm\./.test(name)) return { axis: 0, groups: 1, parts: headDims };
  if (name === "attn.rope_freqs") return { axis: 1, groups: 1, parts: headDims.map((width) => width / 2) };
  if (name === "attn.rel_bias") return { axis: 0, groups: 1, parts: headDims.map(() => 1) };
  if (/^mlp\.fc1\.(weight|bias|scale)$/.test(name))
    return { axis: 0, groups: arch.mlp === "swiglu" ? 2 : 1, parts: [mlpHidden] };
  if (name.startsWith("mlp.norm.")) return { axis: 0, groups: 1, parts: [mlpHidden] };
  return name === "mlp.fc2.weight" ? { axis: 1, groups: 1, parts: [mlpHidden] } : undefined;
}

/** A run of an axis: [first, count]. */
type Run = [first: number, count: number];

/** Where the smaller tensor's channels lie in the larger tensor's axis, and where the remaining ones lie. */
export interface Nesting {
  axis: 0 | 1;
  /** of the larger one's axis */
  length: number;
  kept: Run[];
  added: Run[];
}

/** @returns undefined where the smaller tensor is not a part of the larger one */
export function nest(small: Growth, large: Growth): Nesting | undefined {
  if (small.parts.length > large.parts.length || small.parts.some((width, i) => width > large.parts[i]))
    return undefined;
  const [kept, added]: Run[][] = [[], []];
  let at = 0;
  for (let group = 0; group < large.groups; group++) {
    large.parts.forEach((width, i) => {
      const own = small.parts[i] ?? 0;
      if (own) kept.push([at, own]);
      if (width > own) added.push([at + own, width - own]);
      at += width;
    });
  }
  return { axis: large.axis, length: at, kept, added };
}

/** The runs of a tensor's axis, as a tensor of their own. */
export function take<T extends StoredTensor>(tensor: T, axis: number, runs: Run[]): T {
  const length = runs.reduce((sum, [, count]) => sum + count, 0);
  const shape = tensor.shape.map((size, i) => (i === axis ? length : size));
  const { rows, stride } = strides(tensor, axis);
  const unit = stride / (tensor.shape[axis] || 1);
  const data = emptyLike(tensor.data, rows * length * unit);
  for (let row = 0, to = 0; row < rows; row++) {
    for (const [first, count] of runs) {
      const from = row * stride + first * unit;
      data.set(tensor.data.subarray(from, from + count * unit) as never, to);
      to += count * unit;
    }
  }
  return { ...tensor, shape, data };
}

/** Joins a smaller tensor and the values that were added to it; this undoes two `take`s. */
export function join(small: StoredTensor, more: StoredTensor, { axis, length, kept, added }: Nesting): StoredTensor {
  const shape = small.shape.map((size, i) => (i === axis ? length : size));
  const data = emptyLike(small.data, product(shape));
  const joined = { dtype: small.dtype, shape, data };
  const { rows, stride } = strides(joined, axis);
  const unit = stride / (length || 1);
  for (const [part, runs] of [[small, kept] as const, [more, added] as const]) {
    for (let row = 0, from = 0; row < rows; row++) {
      for (const [first, size] of runs) {
        data.set(part.data.subarray(from, from + size * unit) as never, row * stride + first * unit);
        from += size * unit;
      }
    }
  }
  return joined;
}

/** @returns how many times the axis is walked over, and how many values one walk is */
function strides({ shape }: StoredTensor, axis: number): { rows: number; stride: number } {
  return { rows: product(shape.slice(0, axis)), stride: product(shape.slice(axis)) };
}

/** Zeros of the same type. */
export function emptyLike(data: StoredArray, length: number): StoredArray {
  return new (data.constructor as new (length: number) => StoredArray)(length);
}

export const product = (sizes: number[]): number => sizes.reduce((a, b) => a * b, 1);
