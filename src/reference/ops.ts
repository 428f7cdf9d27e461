/**
 * The network's operations in plain loops with sums in double precision. Slow and obvious: every engine is tested
 * against them.
 */
import type { Activation } from "../format/model.ts";

/**
 * y = x Wᵀ + b
 * @param x [rows, inDim]
 * @param weight [outDim, inDim]
 * @param bias [outDim]
 * @returns [rows, outDim]; with inDim 0, every row is the bias
 */
export function linear(x: Float32Array, weight: Float32Array, bias: Float32Array, rows: number): Float32Array {
  const outDim = bias.length;
  const inDim = outDim ? weight.length / outDim : 0;
  const y = new Float32Array(rows * outDim);
  for (let r = 0; r < rows; r++) {
    // Four outputs at a time, so that no addition waits for the one before it; at the end some are computed twice.
    for (let o = 0; o < outDim; o += 4) {
      const [o1, o2, o3] = [1, 2, 3].map((k) => Math.min(o + k, outDim - 1));
      let [sum, sum1, sum2, sum3] = [bias[o], bias[o1], bias[o2], bias[o3]];
      for (let i = 0; i < inDim; i++) {
        const value = x[r * inDim + i];
        sum += value * weight[o * inDim + i];
        sum1 += value * weight[o1 * inDim + i];
        sum2 += value * weight[o2 * inDim + i];
        sum3 += value * weight[o3 * inDim + i];
      }
      y[r * outDim + o] = sum;
      y[r * outDim + o1] = sum1;
      y[r * outDim + o2] = sum2;
      y[r * outDim + o3] = sum3;
    }
  }
  return y;
}

/**
 * Normalises each row to mean 0 and (biased) variance 1, then scales and shifts.
 * @param x [rows, dim], dim = weight.length
 * @param denseDim how many channels mean and variance count; those that were cut are not in `x` and count as zeros
 * @see Ba, Kiros, Hinton 2016 — https://arxiv.org/abs/1607.06450
 */
export function layerNorm(
  x: Float32Array,
  weight: Float32Array,
  bias: Float32Array,
  eps: number,
  denseDim = weight.length,
): Float32Array {
  const dim = weight.length;
  const y = new Float32Array(x.length);
  for (let start = 0; start < x.length; start += dim) {
    let mean = 0;
    for (let i = 0; i < dim; i++) mean += x[start + i];
    mean /= denseDim;
    let variance = (denseDim - dim) * mean ** 2;
    for (let i = 0; i < dim; i++) variance += (x[start + i] - mean) ** 2;
    variance /= denseDim;
    const inverse = 1 / Math.sqrt(variance + eps);
    for (let i = 0; i < dim; i++) y[start + i] = (x[start + i] - mean) * inverse * weight[i] + bias[i];
  }
  return y;
}

/** Applies one of the activations. */
export function activate(x: Float32Array, kind: Activation): Float32Array {
  if (kind === "gelu") return gelu(x);
  const one = ACTIVATIONS[kind];
  return x.map((v) => one(v));
}

const sigmoid = (v: number) => 1 / (1 + Math.exp(-v));

const ACTIVATIONS: Record<Exclude<Activation, "gelu">, (v: number) => number> = {
  gelu_tanh: (v) => 0.5 * v * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (v + 0.044715 * v ** 3))),
  quick_gelu: (v) => v * sigmoid(1.702 * v),
  relu: (v) => Math.max(0, v),
  silu: (v) => v * sigmoid(v),
};

/**
 * act(gate) × value
 * @param x [rows, 2 × units]: in each row all gates, then all values
 * @returns [rows, units]
 * @see Shazeer 2020, "GLU variants improve transformer" — https://arxiv.org/abs/2002.05202
 */
export function gatedUnits(x: Float32Array, units: number, kind: Activation): Float32Array {
  const y = new Float32Array(x.length / 2);
  for (let row = 0; row * units < y.length; row++) {
    const gate = activate(x.subarray(2 * row * units, (2 * row + 1) * units), kind);
    for (let u = 0; u < units; u++) y[row * units + u] = gate[u] * x[(2 * row + 1) * units + u];
  }
  return y;
}

/** x Φ(x), Φ the normal distribution's exact cumulative function, not the tanh form. */
export function gelu(x: Float32Array): Float32Array {
  return x.map((v) => 0.5 * v * (1 + erf(v * Math.SQRT1_2)));
}

/** The Taylor series near 0, a continued fraction for erfc beyond; both within 1e-14. */
export function erf(x: number): number {
  const a = Math.abs(x);
  if (a < 2.5) {
    let term = a;
    let sum = a;
    for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) {
      term *= (-a * a) / n;
      sum += term / (2 * n + 1);
    }
    return Math.sign(x) * sum * (2 / Math.sqrt(Math.PI));
  }
  if (a > 6) return Math.sign(x);
  let fraction = 0;
  for (let n = 60; n > 0; n--) fraction = n / 2 / (a + fraction);
  return Math.sign(x) * (1 - Math.exp(-a * a) / Math.sqrt(Math.PI) / (a + fraction));
}

/**
 * Self-attention over heads that need not have the same width.
 *
 * @param qkv [tokens, 3 × inner]: all queries, then all keys, then all values
 * @param headDims width of each surviving head; `inner` is their sum
 * @param scale 1/√d of the dense head, not of the slimmed one: slimming removes channels, not temperature
 * @param options.bias added to the scaled score of a query on a key
 * @param options.map if given, receives the attention of the first `options.mapRows` tokens [tokens], averaged over them
 * and the heads
 * @returns [tokens, inner], to be mixed by `proj`
 * @see Vaswani et al. 2017, eq. 1 — https://arxiv.org/abs/1706.03762
 */
export function attention(
  qkv: Float32Array,
  headDims: number[],
  scale: number,
  tokens: number,
  { bias, map, mapRows = 1 }: AttentionOptions = {},
): Float32Array {
  const inner = headDims.reduce((a, b) => a + b, 0);
  const out = new Float32Array(tokens * inner);
  const mixed = new Float64Array(Math.max(0, ...headDims)); // one token's, of one head
  let first = 0; // of this head's channels
  headDims.forEach((width, head) => {
    for (let i = 0; i < tokens; i++) {
      const scores = new Float64Array(tokens);
      for (let j = 0; j < tokens; j++) {
        let dot = 0;
        for (let c = first; c < first + width; c++) dot += qkv[i * 3 * inner + c] * qkv[j * 3 * inner + inner + c];
        scores[j] = dot * scale + (bias?.(head, i, j) ?? 0);
      }
      const p = softmax(scores);
      mixed.fill(0);
      for (let j = 0; j < tokens; j++) {
        if (map && i < mapRows) map[j] += p[j] / headDims.length / mapRows;
        for (let c = 0; c < width; c++) mixed[c] += p[j] * qkv[j * 3 * inner + 2 * inner + first + c];
      }
      out.set(mixed.subarray(0, width), i * inner + first);
    }
    first += width;
  });
  return out;
}

export interface AttentionOptions {
  bias?: (head: number, query: number, key: number) => number;
  map?: Float32Array;
  mapRows?: number;
}

export function softmax(scores: Float64Array): Float64Array {
  const max = scores.reduce((a, b) => Math.max(a, b), -Infinity);
  const exponentials = scores.map((v) => Math.exp(v - max));
  const total = exponentials.reduce((a, b) => a + b, 0);
  return exponentials.map((v) => v / total);
}
