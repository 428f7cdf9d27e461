/** timm's blocks of parallel branches (vit_*_18x2): x + a₁(x) + a₂(x) is one attention of twice the heads, and one MLP of twice the units. */
import { concat, concatColumns, foldNorm, scaleRows } from "./fold.ts";
import type { Weights } from "./weights.ts";

/** @returns how many branches each block has; 1 where there are none to join */
export function joinBranches(weights: Weights, embedDim: number, depth: number): number {
  let branches = 0;
  while (weights.has(`blocks.0.attns.${branches}.attn.qkv.weight`)) branches++;
  if (!branches) return 1;
  for (let i = 0; i < depth; i++) {
    joinAttention(weights, `blocks.${i}`, branches, embedDim);
    joinMlp(weights, `blocks.${i}`, branches, embedDim);
    for (const norm of ["norm1", "norm2"]) {
      weights.put(`blocks.${i}.${norm}.weight`, [embedDim], new Float32Array(embedDim).fill(1));
      weights.put(`blocks.${i}.${norm}.bias`, [embedDim], new Float32Array(embedDim));
    }
  }
  return branches;
}

function joinAttention(weights: Weights, block: string, branches: number, dim: number): void {
  const parts = Array.from({ length: branches }, (_, k) =>
    branch(weights, `${block}.attns.${k}`, "attn.qkv", "attn.proj", dim),
  );
  const thirds = (values: Float32Array) =>
    [0, 1, 2].map((t) => values.subarray((t * values.length) / 3, ((t + 1) * values.length) / 3));
  const joined = (of: "weight" | "bias") => {
    const split = parts.map((part) => thirds(part.first[of]));
    return concat([0, 1, 2].flatMap((t) => split.map((part) => part[t])));
  };
  const bias = joined("bias");
  weights.put(`${block}.attn.qkv.weight`, [bias.length, dim], joined("weight"));
  weights.put(`${block}.attn.qkv.bias`, [bias.length], bias);
  putSecond(weights, `${block}.attn.proj`, parts, dim);
}

function joinMlp(weights: Weights, block: string, branches: number, dim: number): void {
  const parts = Array.from({ length: branches }, (_, k) =>
    branch(weights, `${block}.ffns.${k}`, "mlp.fc1", "mlp.fc2", dim),
  );
  const bias = concat(parts.map(({ first }) => first.bias));
  weights.put(`${block}.mlp.fc1.weight`, [bias.length, dim], concat(parts.map(({ first }) => first.weight)));
  weights.put(`${block}.mlp.fc1.bias`, [bias.length], bias);
  putSecond(weights, `${block}.mlp.fc2`, parts, dim);
}

interface Linear {
  weight: Float32Array;
  bias: Float32Array;
}

/** The second linears read their own branch's channels and add up. */
function putSecond(weights: Weights, name: string, parts: { second: Linear }[], dim: number): void {
  const weight = concatColumns(
    parts.map(({ second }) => second.weight),
    dim,
  );
  weights.put(`${name}.weight`, [dim, weight.length / dim], weight);
  weights.put(
    `${name}.bias`,
    [dim],
    parts.map(({ second }) => second.bias).reduce((a, b) => a.map((v, i) => v + b[i])),
  );
}

/** One branch's two linears, its norm folded into the first and its LayerScale into the second. */
function branch(
  weights: Weights,
  at: string,
  first: string,
  second: string,
  dim: number,
): { first: Linear; second: Linear } {
  const linear = (name: string): Linear => {
    const weight = weights.take(`${name}.weight`);
    return { weight: weight.data, bias: weights.takeOrZeros(`${name}.bias`, [weight.shape[0]]) };
  };
  const norm = {
    weight: weights.take(`${at}.norm.weight`, [dim]).data,
    bias: weights.takeOrZeros(`${at}.norm.bias`, [dim]),
  };
  const one = linear(`${at}.${first}`);
  const two = linear(`${at}.${second}`);
  const scale = `${at}.ls.gamma`;
  const factors = weights.has(scale) ? weights.take(scale, [dim]).data : new Float32Array(dim).fill(1);
  return {
    first: foldNorm(one.weight, one.bias, norm),
    second: { weight: scaleRows(two.weight, factors), bias: scaleRows(two.bias, factors) },
  };
}
