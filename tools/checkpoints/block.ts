/** One block of a checkpoint → one block of the format. */
import { SlimViTError } from "../../src/errors.ts";
import type { Draft } from "./draft.ts";
import { adjacentPairs, concat, scaleRows } from "./fold.ts";
import { mixedFrequencies, relativeTable, relativeTableOfMlp, ropeFrequencies } from "./positions.ts";
import type { Weights } from "./weights.ts";

export interface Everywhere {
  keepIdx: number[];
  grid: [number, number];
  /** learned rotary frequencies of all blocks */
  freqs?: Float32Array;
  /** relative positions that all blocks have */
  shared: Float32Array[];
}

export function addBlock(draft: Draft, i: number, depth: number, everywhere: Everywhere): void {
  const { weights, arch, tensors } = draft;
  const { embedDim: d, headDim } = arch;
  const at = `blocks.${i}`;
  const set = (name: string, shape: number[], data: Float32Array) =>
    tensors.set(`${at}.${name}`, { dtype: "F32", shape, data });
  const norm = (name: string, width: number) => {
    set(`${name}.weight`, [width], weights.take(`${at}.${name}.weight`, [width]).data);
    set(`${name}.bias`, [width], weights.takeOrZeros(`${at}.${name}.bias`, [width]));
  };
  const inner = weights.shape(`${at}.attn.proj.weight`, 2)[1];
  const heads = inner / headDim;
  const half = draft.described.rope?.half === true && !everywhere.freqs;
  norm("norm1", d);
  const { weight, bias } = queriesKeysValues(weights, `${at}.attn`, inner, d);
  const permuted = (values: Float32Array, row: number): Float32Array => {
    if (!half) return values;
    const third = inner * row;
    const part = (k: number) => values.subarray(k * third, (k + 1) * third);
    return concat([adjacentPairs(part(0), heads, headDim, row), adjacentPairs(part(1), heads, headDim, row), part(2)]);
  };
  set("attn.qkv.weight", [3 * inner, d], permuted(weight, d));
  set("attn.qkv.bias", [3 * inner], permuted(bias, 1));
  if (arch.qkNorm) {
    for (const name of ["attn.q_norm", "attn.k_norm"]) {
      const every = (values: Float32Array) => concat(Array.from({ length: heads }, () => values));
      const turned = (values: Float32Array) => (half ? adjacentPairs(every(values), heads, headDim, 1) : every(values));
      set(`${name}.weight`, [inner], turned(weights.take(`${at}.${name}.weight`, [headDim]).data));
      set(`${name}.bias`, [inner], turned(weights.takeOrZeros(`${at}.${name}.bias`, [headDim])));
    }
  }
  addPositions(draft, i, depth, heads, everywhere);
  scaled(draft, at, "ls1.gamma", "attn.proj", inner);
  norm("norm2", d);
  const mlpHidden = addMlp(draft, at);
  arch.blocks.push({ headDims: Array(heads).fill(headDim), mlpHidden, keepIdx: everywhere.keepIdx, merge: 0 });
}

/** [3 × inner, dim] and [3 × inner], whether they are stored as one or as three; a bias that is not there is zero. */
function queriesKeysValues(
  weights: Weights,
  at: string,
  inner: number,
  dim: number,
): { weight: Float32Array; bias: Float32Array } {
  const parts = ["q", "k", "v"];
  const weight = weights.has(`${at}.qkv.weight`)
    ? weights.take(`${at}.qkv.weight`, [3 * inner, dim]).data
    : concat(parts.map((part) => weights.take(`${at}.${part}.weight`, [inner, dim]).data));
  const bias = weights.has(`${at}.qkv.bias`)
    ? weights.take(`${at}.qkv.bias`, [3 * inner]).data
    : concat(parts.map((part) => weights.takeOrZeros(`${at}.${part}.bias`, [inner])));
  return { weight, bias };
}

/** A linear, with its branch's LayerScale folded into its rows. */
function scaled({ weights, arch, tensors }: Draft, at: string, gamma: string, name: string, input: number): void {
  const { embedDim: d } = arch;
  const factors = weights.has(`${at}.${gamma}`) ? weights.take(`${at}.${gamma}`, [d]).data : undefined;
  const fold = (values: Float32Array) => (factors ? scaleRows(values, factors) : values);
  const weight = fold(weights.take(`${at}.${name}.weight`, [d, input]).data);
  const bias = fold(weights.takeOrZeros(`${at}.${name}.bias`, [d]));
  tensors.set(`${at}.${name}.weight`, { dtype: "F32", shape: [d, input], data: weight });
  tensors.set(`${at}.${name}.bias`, { dtype: "F32", shape: [d], data: bias });
}

/** @returns its hidden units */
function addMlp(draft: Draft, at: string): number {
  const { weights, arch, tensors } = draft;
  const { embedDim: d } = arch;
  const set = (name: string, shape: number[], data: Float32Array) =>
    tensors.set(`${at}.mlp.${name}`, { dtype: "F32", shape, data });
  const hidden = weights.shape(`${at}.mlp.fc2.weight`, 2)[1];
  const rows = arch.mlp === "swiglu" ? 2 * hidden : hidden;
  if (weights.has(`${at}.mlp.gate.weight`)) {
    const parts = ["gate", "up"].map((part) => `${at}.mlp.${part}`);
    set("fc1.weight", [rows, d], concat(parts.map((part) => weights.take(`${part}.weight`, [hidden, d]).data)));
    set("fc1.bias", [rows], concat(parts.map((part) => weights.takeOrZeros(`${part}.bias`, [hidden]))));
  } else {
    set("fc1.weight", [rows, d], weights.take(`${at}.mlp.fc1.weight`, [rows, d]).data);
    set("fc1.bias", [rows], weights.takeOrZeros(`${at}.mlp.fc1.bias`, [rows]));
  }
  if (weights.has(`${at}.mlp.norm.weight`)) {
    if (arch.mlp !== "swiglu")
      throw new SlimViTError(
        "unsupported",
        `${weights.source}: has a norm inside an MLP that is not SwiGLU ("${at}.mlp.norm").`,
      );
    arch.hiddenNorm = hidden;
    set("norm.weight", [hidden], weights.take(`${at}.mlp.norm.weight`, [hidden]).data);
    set("norm.bias", [hidden], weights.takeOrZeros(`${at}.mlp.norm.bias`, [hidden]));
  }
  scaled(draft, at, "ls2.gamma", "mlp.fc2", hidden);
  return hidden;
}

/** The block's rotary frequencies or its table of relative positions. */
function addPositions(
  draft: Draft,
  i: number,
  depth: number,
  heads: number,
  { grid, freqs, shared }: Everywhere,
): void {
  const { weights, arch, tensors, described, stored } = draft;
  const at = `blocks.${i}.attn`;
  const set = (name: string, shape: number[], data: Float32Array) =>
    tensors.set(`${at}.${name}`, { dtype: "F32", shape, data });
  const inner = heads * arch.headDim;
  if (arch.position === "rope") {
    const rule = described.rope!;
    const one = freqs ? undefined : ropeFrequencies(rule, arch.headDim);
    const axis = (a: number) =>
      concat(Array.from({ length: heads }, () => one!.subarray((a * arch.headDim) / 2, ((a + 1) * arch.headDim) / 2)));
    const all = freqs ? mixedFrequencies(freqs, depth, i, rule.columnsFirst) : concat([axis(0), axis(1)]);
    set("rope_freqs", [2, inner / 2], all);
  }
  if (arch.position !== "relative") return;
  const shape = [heads, (2 * grid[0] - 1) * (2 * grid[1] - 1) + 3];
  const own = [...shared];
  if (weights.has(`${at}.rel_table`))
    own.push(relativeTable(weights.take(`${at}.rel_table`).data, heads, stored.grid, grid));
  if (weights.has(`${at}.rel_mlp.fc1.weight`)) own.push(relativeTableOfMlp(weights, `${at}.rel_mlp`, heads, grid));
  if (!own.length) own.push(new Float32Array(shape[0] * shape[1]));
  set(
    "rel_bias",
    shape,
    own.reduce((a, b) => a.map((v, k) => v + b[k])),
  );
}
