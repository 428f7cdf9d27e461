/** Layers that need more than one operator, or whose weights need preparing. */
import type { Activation, Model } from "../../format/model.ts";
import { float32 } from "../../format/read.ts";
import type { Graph } from "./builder.ts";

/** [batch × tokens, width]: the tokens of one picture, then those of the next. */
export interface Matrix {
  name: string;
  tokens: number;
  width: number;
}

export interface LinearOptions {
  /** first output and end of the outputs; default all of them */
  rows?: [from: number, to: number];
  /** which of those outputs are kept and in what order, counted from `from` */
  order?: number[];
  /** the outputs are multiplied by it */
  factor?: number;
}

export class Layers {
  /** domains of operators that are not ONNX's own */
  readonly domains: string[] = [];

  constructor(
    readonly graph: Graph,
    readonly model: Model,
  ) {}

  values(key: string): Float32Array {
    return float32(this.model.tensors, key);
  }

  /** A vector among the model's tensors. */
  vector(key: string): string {
    const values = this.values(key);
    return this.graph.floats(key, values, [values.length]);
  }

  /** y = x Wᵀ + b, without b where the tensors have no bias. */
  linear(x: Matrix, key: string, options: LinearOptions = {}): Matrix {
    const { graph } = this;
    const all = this.values(`${key}.weight`);
    const { rows = [0, all.length / x.width], factor = 1 } = options;
    const name = nameOf(key, options);
    const weight = scaled(takeRows(all, x.width, rows, options.order), factor);
    const width = weight.length / x.width;
    const inputs = [x.name, graph.floats(`${name}.weight`, weight, [width, x.width])];
    if (this.model.tensors.has(`${key}.bias`)) {
      const bias = scaled(takeRows(this.values(`${key}.bias`), 1, rows, options.order), factor);
      inputs.push(graph.floats(`${name}.bias`, bias, [width]));
    }
    return { name: graph.node("Gemm", inputs, { transB: 1 }), tokens: x.tokens, width };
  }

  /** @param more one element a channel, or a matrix of the same shape */
  add(x: Matrix, more: string): Matrix {
    return { ...x, name: this.graph.op("Add", x.name, more) };
  }

  /** [batch, tokens, width] */
  pictures({ name, tokens, width }: Matrix): string {
    return this.graph.reshape(name, [-1, tokens, width]);
  }

  /** @param x [batch, tokens, width] */
  matrix(x: string, tokens: number, width: number): Matrix {
    return { name: this.graph.reshape(x, [-1, width]), tokens, width };
  }

  /** The tokens of every picture at these rows. */
  pick(x: Matrix, rows: number[]): Matrix {
    if (rows.length === x.tokens) return x;
    return this.matrix(this.graph.pick(this.pictures(x), rows, 1), rows.length, x.width);
  }

  first(x: Matrix, tokens: number): Matrix {
    return this.pick(x, [...Array(tokens).keys()]);
  }

  /**
   * @param epsilon default that of the network's norms
   * @param denseDim how many channels the statistics count; those that were cut are not in `x` and count as zeros
   */
  norm(x: Matrix, key: string, epsilon = this.model.manifest.layerNormEps, denseDim = x.width): Matrix {
    const { graph } = this;
    if (denseDim === x.width) {
      const inputs = [x.name, this.vector(`${key}.weight`), this.vector(`${key}.bias`)];
      return { ...x, name: graph.node("LayerNormalization", inputs, { epsilon }) };
    }
    return this.affine({ ...x, name: this.standardise(x.name, 2, x.width, epsilon, denseDim) }, key);
  }

  /** Norms each head's own channels; those that were cut count as zeros. */
  normHeads(x: Matrix, key: string, headDims: number[]): Matrix {
    const { graph, model } = this;
    const { headDim, normEps, layerNormEps } = model.manifest;
    const epsilon = normEps?.qk ?? layerNormEps;
    const runs = headRuns(headDims);
    const parts = graph.split(x.name, runs.map(widthOf), 1).map((part, r) => {
      const [width] = runs[r];
      const heads = graph.reshape(part, [-1, runs[r].length, width]);
      return graph.reshape(this.standardise(heads, 3, width, epsilon, headDim), [-1, widthOf(runs[r])]);
    });
    return this.affine({ ...x, name: graph.concat(parts, 1) }, key);
  }

  activate(x: Matrix, kind: Activation): Matrix {
    const { graph } = this;
    const { name } = x;
    const times = (a: string, b: string) => graph.op("Mul", a, b);
    const gated = (gate: string) => times(name, graph.op("Sigmoid", gate));
    switch (kind) {
      case "gelu":
        return { ...x, name: graph.op("Gelu", name) }; // the erf form
      case "gelu_tanh": {
        // (1 + tanh z) / 2 = sigmoid(2 z), of which every provider has one form only.
        const slope = 2 * Math.sqrt(2 / Math.PI);
        const cubic = times(times(name, name), graph.scalar(0.044715 * slope));
        return { ...x, name: gated(times(name, graph.op("Add", cubic, graph.scalar(slope)))) };
      }
      case "quick_gelu":
        return { ...x, name: gated(times(name, graph.scalar(1.702))) };
      case "relu":
        return { ...x, name: graph.op("Relu", name) };
      case "silu":
        return { ...x, name: gated(name) };
    }
  }

  /** Along an axis to length 1; zeros stay zeros. In f32: squares of f16 overflow. */
  unit(wide: string, axis: number): string {
    const { graph } = this;
    const squares = graph.reduce("ReduceSum", graph.op("Mul", wide, wide), [axis]);
    return graph.op("Div", wide, graph.op("Max", graph.op("Sqrt", squares), graph.wideScalar(1e-12)));
  }

  private affine(x: Matrix, key: string): Matrix {
    const { graph } = this;
    const scaled = graph.op("Mul", x.name, this.vector(`${key}.weight`));
    return { ...x, name: graph.op("Add", scaled, this.vector(`${key}.bias`)) };
  }

  /** Mean 0 and variance 1 along the last axis of `rank`, zeros for cut channels counted in. */
  private standardise(x: string, rank: number, width: number, epsilon: number, denseDim: number): string {
    const { graph } = this;
    const padded = graph.pad(x, rank, rank - 1, [0, denseDim - width]);
    const ones = graph.floats(`ones ${denseDim}`, new Float32Array(denseDim).fill(1), [denseDim]);
    const normed = graph.node("LayerNormalization", [padded, ones], { epsilon });
    return width === denseDim ? normed : graph.slice(normed, 0, width, rank - 1);
  }
}

/** Heads of one width are one batch, others go one by one. */
export function headRuns(headDims: number[]): number[][] {
  return headDims.every((width) => width === headDims[0]) ? [headDims] : headDims.map((width) => [width]);
}

/** Channels of a run of heads. */
export function widthOf(run: number[]): number {
  return run.length * run[0];
}

/** The name of a part of a linear, with which its constants' names begin. */
export function nameOf(key: string, { rows, order, factor }: LinearOptions): string {
  return [key, rows?.[0], order && `from${order[0]}`, factor].filter((part) => part !== undefined).join(".");
}

/** Rows `from` to `to`, or those in `order` among them. */
export function takeRows<T extends Float32Array | Int8Array>(
  values: T,
  rowLength: number,
  [from, to]: [number, number],
  order?: number[],
): T {
  const rows = values.subarray(from * rowLength, to * rowLength) as T;
  if (!order) return rows;
  const out = rows.slice(0, order.length * rowLength) as T;
  order.forEach((row, k) => {
    out.set(rows.subarray(row * rowLength, (row + 1) * rowLength), k * rowLength);
  });
  return out;
}

export function scaled(values: Float32Array, factor: number): Float32Array {
  return factor === 1 ? values : values.map((v) => v * factor);
}
