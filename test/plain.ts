/**
 * The family's forward pass a second time, written apart from src/reference: every token of the dense network goes on to
 * the end, and what is cut is multiplied by zero. Nothing merges here.
 */
import { type Activation, type Model, patchGrid } from "../src/format/model.ts";
import { float32 } from "../src/format/read.ts";
import { erf } from "../src/reference/ops.ts";
import type { Cut } from "./helpers.ts";

const sum = (values: number[]) => values.reduce((a, b) => a + b, 0);
const dot = (a: number[], b: number[]) => sum(a.map((v, i) => v * b[i]));
const plus = (a: number[], b: number[]) => a.map((v, i) => v + b[i]);
const logistic = (v: number) => 1 / (1 + Math.exp(-v));

const ACTIVATE: Record<Activation, (v: number) => number> = {
  gelu: (v) => (v * (1 + erf(v / Math.SQRT2))) / 2,
  gelu_tanh: (v) => v * logistic(2 * Math.sqrt(2 / Math.PI) * (v + 0.044715 * v * v * v)), // 1 + tanh z = 2 σ(2z)
  quick_gelu: (v) => v * logistic(1.702 * v),
  relu: (v) => (Math.abs(v) + v) / 2,
  silu: (v) => v * logistic(v),
};

/** @param cuts what is left of each block of a dense model, by default everything that its keep-lists have */
export function plainForward(model: Model, pixels: Float32Array, cuts = everything(model)) {
  const { manifest: m } = model;
  const network = new Plain(model);
  let x = network.embed(pixels);
  cuts.forEach((cut, i) => {
    x = network.block(x, i, cut);
  });
  const isLeft = (_: unknown, token: number) => cuts.at(-1)!.keepIdx.includes(token);
  return network.classify(x.filter(isLeft), m.prefixTokens);
}

/** All channels and units, and the tokens of the keep-lists. */
export function everything({ manifest }: Model): Cut[] {
  return manifest.blocks.map(({ headDims, mlpHidden, keepIdx }) => ({
    heads: headDims.map((width) => Array<boolean>(width).fill(true)),
    units: Array<boolean>(mlpHidden).fill(true),
    keepIdx,
  }));
}

class Plain {
  constructor(private readonly model: Model) {}

  private get m() {
    return this.model.manifest;
  }

  /** A tensor's rows; a list of one for one dimension. */
  private rows(key: string): number[][] {
    const values = Array.from(float32(this.model.tensors, key));
    const { shape } = this.model.tensors.get(key)!;
    if (shape.length === 1) return [values];
    const count = shape.length === 3 ? shape[1] : shape[0];
    const width = values.length / (count || 1);
    return Array.from({ length: count }, (_, i) => values.slice(i * width, (i + 1) * width));
  }

  private dense(x: number[], key: string): number[] {
    const [bias] = this.rows(`${key}.bias`);
    return this.rows(`${key}.weight`).map((row, o) => dot(row, x) + bias[o]);
  }

  /**
   * @param zeros how many more values mean and variance count
   * @param from where the norm's weights of `x` begin
   */
  private norm(x: number[], key: string, eps = this.m.layerNormEps, zeros = 0, from = 0): number[] {
    const all = [...x, ...Array<number>(zeros).fill(0)];
    const mean = sum(all) / all.length;
    const deviation = Math.sqrt(sum(all.map((v) => (v - mean) ** 2)) / all.length + eps);
    const [weight] = this.rows(`${key}.weight`);
    const [bias] = this.rows(`${key}.bias`);
    return x.map((v, i) => ((v - mean) / deviation) * weight[from + i] + bias[from + i]);
  }

  embed(pixels: Float32Array): number[][] {
    const { imageSize, patchSize: p, classToken, distilled, prefixTokens, preNorm, normEps } = this.m;
    const [height, width] = imageSize;
    const position = this.rows("pos_embed");
    const registers = prefixTokens > Number(classToken) + Number(distilled);
    const keys = [...(classToken ? ["cls"] : []), ...(distilled ? ["dist"] : []), ...(registers ? ["reg"] : [])];
    const tokens = keys.flatMap((key) => this.rows(`${key}_token`)).map((token, i) => plus(token, position[i]));
    for (let top = 0; top < height; top += p) {
      for (let left = 0; left < width; left += p) {
        const patch: number[] = [];
        for (let c = 0; c < 3; c++) {
          for (let y = 0; y < p; y++) {
            for (let x = 0; x < p; x++) patch.push(pixels[(c * height + top + y) * width + left + x]);
          }
        }
        const token = plus(this.dense(patch, "patch_embed.proj"), position[tokens.length]);
        tokens.push(preNorm ? this.norm(token, "norm_pre", normEps?.pre) : token);
      }
    }
    return tokens;
  }

  block(x: number[][], i: number, { heads, units, keepIdx }: Cut): number[][] {
    const { headDim, qkNorm, normEps, position, mlp, activation, hiddenNorm } = this.m;
    const at = `blocks.${i}`;
    const masked = (values: number[], mask: boolean[]) => values.map((v, c) => (mask[c % mask.length] ? v : 0));
    const qkv = x.map((token) => masked(this.dense(this.norm(token, `${at}.norm1`), `${at}.attn.qkv`), heads.flat()));
    const first = heads.map((_, head) => sum(heads.slice(0, head).map(({ length }) => length)));
    const inner = heads.flat().length;
    /** A head's queries (part 0), keys (1) or values (2), as they enter the products. */
    const part = (token: number, head: number, which: number): number[] => {
      const start = which * inner + first[head];
      let values = qkv[token].slice(start, start + heads[head].length);
      if (which === 2) return values;
      if (qkNorm) {
        const key = `${at}.attn.${"qk"[which]}_norm`;
        const zeros = headDim - values.length; // of a head that is narrow already
        values = masked(this.norm(values, key, normEps?.qk, zeros, first[head]), heads[head]);
      }
      return position === "rope" ? this.turned(values, token, `${at}.attn.rope_freqs`, first[head]) : values;
    };
    const bias = position === "relative" ? this.rows(`${at}.attn.rel_bias`) : undefined;
    let next = x.map((token, query) => {
      const mixed = heads.flatMap((_, head) => {
        const q = part(query, head, 0);
        const exponentials = x.map((_, key) => {
          if (!keepIdx.includes(key)) return 0;
          const score = dot(q, part(key, head, 1)) / Math.sqrt(headDim);
          return Math.exp(score + (bias ? bias[head][this.relativeIndex(query, key)] : 0));
        });
        const total = sum(exponentials);
        const values = x.map((_, key) => part(key, head, 2));
        return heads[head].map((_, c) => sum(exponentials.map((e, key) => (e / total) * values[key][c])));
      });
      return plus(token, this.dense(mixed, `${at}.attn.proj`));
    });
    next = next.map((token) => {
      const values = this.dense(this.norm(token, `${at}.norm2`), `${at}.mlp.fc1`);
      const act = ACTIVATE[activation];
      let hidden = units.map((_, u) => (mlp === "swiglu" ? act(values[u]) * values[units.length + u] : act(values[u])));
      hidden = masked(hidden, units);
      if (hiddenNorm) {
        hidden = masked(this.norm(hidden, `${at}.mlp.norm`, normEps?.hidden, hiddenNorm - units.length), units);
      }
      return plus(token, this.dense(hidden, `${at}.mlp.fc2`));
    });
    return next;
  }

  /** [row, column] in the grid; undefined for a prefix token */
  private place(token: number): [number, number] | undefined {
    const columns = patchGrid(this.m)[1];
    const patch = token - this.m.prefixTokens;
    return patch < 0 ? undefined : [Math.floor(patch / columns), patch % columns];
  }

  /** Pairs of channels as complex numbers, times e^(i × angle). */
  private turned(values: number[], token: number, key: string, from: number): number[] {
    const place = this.place(token);
    if (!place) return values;
    const { rows, columns } = this.m.rope!;
    const [y, x] = [rows[0] + rows[1] * place[0], columns[0] + columns[1] * place[1]];
    const [ofRow, ofColumn] = this.rows(key);
    return values.map((v, c) => {
      const pair = (from + c) >> 1;
      const angle = ofRow[pair] * y + ofColumn[pair] * x;
      const other = values[c ^ 1];
      return v * Math.cos(angle) + (c % 2 ? other : -other) * Math.sin(angle);
    });
  }

  private relativeIndex(query: number, key: number): number {
    const [rows, columns] = patchGrid(this.m);
    const [across, down] = [2 * columns - 1, 2 * rows - 1];
    const [from, to] = [this.place(query), this.place(key)];
    if (!from) return down * across + (to ? 0 : 2);
    if (!to) return down * across + 1;
    return (from[0] - to[0] + rows - 1) * across + from[1] - to[1] + columns - 1;
  }

  classify(x: number[][], prefixTokens: number) {
    const { finalNorm, normEps, pooling, projection, head, distilled } = this.m;
    if (finalNorm === "tokens" || finalNorm === "both") x = x.map((token) => this.norm(token, "norm", normEps?.final));
    const patches = x.slice(prefixTokens);
    const mean = () => x[0].map((_, d) => sum(patches.map((patch) => patch[d])) / patches.length);
    let features = {
      class: () => x[0],
      mean,
      "class+mean": () => [...x[0], ...mean()],
      map: () => this.attentionPool(patches),
    }[pooling]();
    if (finalNorm === "pooled" || finalNorm === "both") features = this.norm(features, "fc_norm", normEps?.pooled);
    if (projection) features = this.rows("projection.weight").map((row) => dot(row, features));
    if (!head) return { features, logits: [] };
    const direction = (v: number[]) => (head.cosine ? v.map((c) => c / Math.max(Math.sqrt(dot(v, v)), 1e-12)) : v);
    const logits = this.dense(direction(features), "head");
    if (!distilled) return { features, logits };
    const second = this.dense(direction(x[1]), "head_dist");
    return { features, logits: plus(logits, second).map((v) => v / 2) };
  }

  private attentionPool(patches: number[][]): number[] {
    const { poolHeads, poolActivation, normEps } = this.m;
    const width = patches[0].length / poolHeads!;
    const v = patches.map((patch) => this.dense(patch, "attn_pool.v"));
    const pooled = this.rows("attn_pool.query").flatMap((query, head) => {
      const exponentials = patches.map((patch) => Math.exp(dot(query, patch)));
      const total = sum(exponentials);
      return Array.from({ length: width }, (_, c) =>
        sum(exponentials.map((e, patch) => (e / total) * v[patch][head * width + c])),
      );
    });
    const y = this.dense(pooled, "attn_pool.proj");
    const hidden = this.dense(this.norm(y, "attn_pool.norm", normEps?.pool), "attn_pool.mlp.fc1");
    return plus(y, this.dense(hidden.map(ACTIVATE[poolActivation!]), "attn_pool.mlp.fc2"));
  }
}
