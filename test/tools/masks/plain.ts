/** ViT-Slim's search model in plain loops: every ζ multiplies an activation, nothing is folded, cut or batched. */
import { type Architecture, denseTokens, innerDim, patchGrid, type Tensors } from "../../../src/format/model.ts";
import { gelu, layerNorm, linear } from "../../../src/reference/ops.ts";

/** Factors of one block's activations. */
export interface Gates {
  /** [inner], on q, k and v with their biases */
  attn: ArrayLike<number>;
  /** [mlpHidden], after GELU */
  mlp: ArrayLike<number>;
  /** [tokens], on the output of both norms */
  norms?: ArrayLike<number>;
  /** [tokens], on a key's exponential in the softmax */
  keys?: ArrayLike<number>;
}

/** @param pixels [3, height, width] of a dense network's picture */
export function maskedLogits(arch: Architecture, tensors: Tensors, gates: Gates[], pixels: Float32Array): Float32Array {
  const { embedDim: dim, headDim, layerNormEps, prefixTokens } = arch;
  const t = (name: string) => tensors.get(name)!.data as Float32Array;
  const n = denseTokens(arch);
  const dense = (x: Float32Array, name: string) =>
    linear(
      x,
      t(`${name}.weight`),
      t(`${name}.bias`),
      x.length / (t(`${name}.weight`).length / t(`${name}.bias`).length),
    );
  const norm = (x: Float32Array, name: string) => layerNorm(x, t(`${name}.weight`), t(`${name}.bias`), layerNormEps);
  const gated = (x: Float32Array, factor: (row: number, column: number) => number) => {
    const columns = x.length / n;
    return x.map((v, k) => v * factor(Math.floor(k / columns), k % columns));
  };
  const add = (a: Float32Array, b: Float32Array) => a.map((v, k) => v + b[k]);

  let x = embedded(arch, t, pixels);
  arch.blocks.forEach((block, i) => {
    const { attn, mlp, norms, keys } = gates[i];
    const inner = innerDim(block);
    const normed = (name: string) => gated(norm(x, `blocks.${i}.${name}`), (row) => norms?.[row] ?? 1);
    const qkv = gated(dense(normed("norm1"), `blocks.${i}.attn.qkv`), (_, column) => attn[column % inner]);
    const mixed = attended(qkv, n, inner, headDim, (token) => keys?.[token] ?? 1);
    x = add(x, dense(mixed, `blocks.${i}.attn.proj`));
    const hidden = gated(gelu(dense(normed("norm2"), `blocks.${i}.mlp.fc1`)), (_, column) => mlp[column]);
    x = add(x, dense(hidden, `blocks.${i}.mlp.fc2`));
  });
  const last = norm(x.subarray(0, prefixTokens * dim), "norm");
  const logits = dense(last.slice(0, dim), "head");
  if (prefixTokens === 1) return logits;
  return logits.map((v, k) => (v + dense(last.slice(dim, 2 * dim), "head_dist")[k]) / 2);
}

function embedded(arch: Architecture, t: (name: string) => Float32Array, pixels: Float32Array): Float32Array {
  const { embedDim: dim, patchSize: p, prefixTokens, imageSize } = arch;
  const columns = patchGrid(arch)[1];
  const x = new Float32Array(denseTokens(arch) * dim);
  for (let token = 0; token < denseTokens(arch); token++) {
    for (let d = 0; d < dim; d++) {
      let sum = t("pos_embed")[token * dim + d];
      if (token < prefixTokens) sum += t(token === 0 ? "cls_token" : "dist_token")[d];
      else {
        const [row, column] = [Math.floor((token - prefixTokens) / columns), (token - prefixTokens) % columns];
        sum += t("patch_embed.proj.bias")[d];
        for (let c = 0; c < 3; c++)
          for (let v = 0; v < p; v++)
            for (let h = 0; h < p; h++)
              sum +=
                pixels[(c * imageSize[0] + row * p + v) * imageSize[1] + column * p + h] *
                t("patch_embed.proj.weight")[((d * 3 + c) * p + v) * p + h];
      }
      x[token * dim + d] = sum;
    }
  }
  return x;
}

function attended(
  qkv: Float32Array,
  n: number,
  inner: number,
  headDim: number,
  factor: (key: number) => number,
): Float32Array {
  const out = new Float32Array(n * inner);
  for (let first = 0; first < inner; first += headDim) {
    for (let i = 0; i < n; i++) {
      const weights = Array.from({ length: n }, (_, j) => {
        let dot = 0;
        for (let c = first; c < first + headDim; c++) dot += qkv[i * 3 * inner + c] * qkv[j * 3 * inner + inner + c];
        return factor(j) * Math.exp(dot / Math.sqrt(headDim));
      });
      const total = weights.reduce((a, b) => a + b);
      for (let c = first; c < first + headDim; c++)
        for (let j = 0; j < n; j++) out[i * inner + c] += (weights[j] / total) * qkv[j * 3 * inner + 2 * inner + c];
    }
  }
  return out;
}
