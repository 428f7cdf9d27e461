/** Layers that are not one operator everywhere, or whose weights need preparing. */
import type { Activation, ActivationRanges, Model } from "../../format/model.ts";
import { float32 } from "../../format/read.ts";
import type { GraphBuilder } from "./builder.ts";
import { quantisedLinear } from "./quantised.ts";

export interface LinearOptions {
  /** first output and end of the outputs; default all of them */
  rows?: [number, number];
  /** instead of the model's; null for none */
  bias?: Float32Array | null;
  /** the outputs are multiplied by it */
  factor?: number;
}

/**
 * Linears with fewer rows stay in f32. In the last block and after it only the class and distillation tokens pass, at
 * almost no cost.
 */
const FEW_ROWS = 3;

/**
 * The outputs of GELU are mostly near 0 and seldom 10, for which 255 even levels are too few: DeiT-Ti diverges by 4.6e-3 nats
 * with this linear on int8 and by 3.1e-3 without, where `simd` does by 2.1e-3 (160 pictures).
 */
const FRAGILE = /mlp\.fc2$/;

export class Layers {
  private readonly ranges: ActivationRanges | undefined;
  /** receives what enters and leaves each linear */
  observe?: (name: string, x: MLOperand, y: MLOperand) => void;

  constructor(
    readonly graph: GraphBuilder,
    readonly model: Model,
  ) {
    const entry = model.manifest.weights.find(({ dtype }) => dtype === model.dtype);
    this.ranges = graph.type === "float32" ? entry?.activations : undefined;
  }

  values(key: string): Float32Array {
    return float32(this.model.tensors, key);
  }

  /** One of the model's tensors as a vector, or as another shape. */
  vector(key: string, shape?: number[]): MLOperand {
    const values = this.values(key);
    return this.graph.floats(`${key} ${shape}`, shape ?? [values.length], () => values);
  }

  /**
   * y = x Wᵀ + b
   *
   * @param x [rows, inDim]
   */
  linear(x: MLOperand, key: string, { rows, bias, factor = 1 }: LinearOptions = {}): MLOperand {
    const { graph } = this;
    const inDim = x.shape[1];
    const [from, to] = rows ?? [0, this.values(`${key}.weight`).length / inDim];
    const name = `${key} ${from} ${to}`;
    const quantised = this.quantised(x, key, from, to, bias, factor);
    if (quantised) return quantised;
    const scaled = (values: Float32Array) => (factor === 1 ? values : values.map((v) => factor * v));
    const weight = graph.floats(`${name} weight`, [to - from, inDim], () =>
      scaled(this.values(`${key}.weight`).subarray(from * inDim, to * inDim)),
    );
    const offset = () => scaled(bias ?? this.values(`${key}.bias`).subarray(from, to));
    const c = bias === null ? undefined : graph.floats(`${name} bias`, [to - from], offset);
    const y = graph.op("gemm", x, weight, { bTranspose: true, c });
    this.observe?.(nameOf(key, from, to), x, y);
    return y;
  }

  /** The linear in int8, where the weights are int8 and calibration has seen it. */
  private quantised(x: MLOperand, key: string, from: number, to: number, bias: LinearOptions["bias"], factor: number) {
    if (x.shape[0] < FEW_ROWS || FRAGILE.test(key)) return undefined;
    const weight = this.model.tensors.get(`${key}.weight`)!;
    const [input, output] = [this.ranges?.[`${key}.input`], this.ranges?.[`${nameOf(key, from, to)}.output`]];
    if (weight.dtype !== "I8" || !input || !output) return undefined;
    const inDim = x.shape[1];
    const levels = (weight.data as Int8Array).subarray(from * inDim, to * inDim);
    const scales = (this.model.tensors.get(`${key}.scale`)!.data as Float32Array).subarray(from, to);
    const values =
      bias === null ? new Float32Array(to - from) : (bias ?? this.values(`${key}.bias`).subarray(from, to));
    const scaled = (of: Float32Array) => of.map((v) => v * factor);
    return quantisedLinear(this.graph, x, {
      key: `${key} ${from}`,
      levels,
      scales: scaled(scales),
      bias: scaled(values),
      input,
      output,
    });
  }

  /**
   * Over the last axis.
   *
   * @param epsilon default that of the network's norms
   * @param denseDim how many channels the statistics count; those that were cut are not in `x` and count as zeros
   */
  norm(x: MLOperand, key: string, epsilon = this.model.manifest.layerNormEps, denseDim?: number): MLOperand {
    const axes = [x.shape.length - 1];
    const [scale, bias] = [this.vector(`${key}.weight`), this.vector(`${key}.bias`)];
    const isWhole = denseDim === undefined || denseDim === x.shape[axes[0]];
    if (isWhole && this.graph.has("layerNormalization"))
      return this.graph.op("layerNormalization", x, { axes, epsilon, scale, bias });
    return this.affine(this.standardise(x, epsilon, denseDim), scale, bias);
  }

  affine(x: MLOperand, scale: MLOperand, bias: MLOperand): MLOperand {
    return this.graph.op("add", this.graph.op("mul", x, scale), bias);
  }

  /** Mean 0 and variance 1 along the last axis. */
  standardise(x: MLOperand, epsilon: number, denseDim = x.shape[x.shape.length - 1]): MLOperand {
    const { graph } = this;
    const axis = x.shape.length - 1;
    const cut = denseDim - x.shape[axis];
    const share = graph.scalar(1 / denseDim);
    const sum = (of: MLOperand) => graph.sum(of, axis);
    const square = (of: MLOperand) => graph.op("mul", of, of);
    const mean = graph.op("mul", sum(x), share);
    const centred = graph.op("sub", x, mean);
    let squares = sum(square(centred));
    if (cut) squares = graph.op("add", squares, graph.op("mul", square(mean), graph.scalar(cut)));
    const variance = graph.op("mul", squares, share);
    return graph.op("div", centred, graph.op("sqrt", graph.op("add", variance, graph.scalar(epsilon))));
  }

  /** Rows of length 1; zeros stay zeros. */
  unit(x: MLOperand): MLOperand {
    const { graph } = this;
    const squares = graph.sum(graph.op("mul", x, x), 1);
    return graph.op("div", x, graph.op("max", graph.op("sqrt", squares), graph.scalar(1e-12)));
  }

  activate(x: MLOperand, kind: Activation): MLOperand {
    const { graph } = this;
    const times = (a: MLOperand, b: MLOperand | number) =>
      graph.op("mul", a, typeof b === "number" ? graph.scalar(b) : b);
    const plus = (a: MLOperand, b: MLOperand | number) =>
      graph.op("add", a, typeof b === "number" ? graph.scalar(b) : b);
    switch (kind) {
      case "gelu": // the exact form
        if (graph.has("gelu")) return graph.op("gelu", x);
        return times(times(x, 0.5), plus(graph.op("erf", times(x, Math.SQRT1_2)), 1));
      case "gelu_tanh": {
        const cubic = times(plus(times(times(x, x), 0.044715), 1), x);
        return times(times(x, 0.5), plus(graph.op("tanh", times(cubic, Math.sqrt(2 / Math.PI))), 1));
      }
      case "quick_gelu":
        return times(x, graph.op("sigmoid", times(x, 1.702)));
      case "relu":
        return graph.op("relu", x);
      case "silu":
        return times(x, graph.op("sigmoid", x));
    }
  }
}

/** The name of a part of a linear. */
function nameOf(key: string, from: number, to: number): string {
  return key.endsWith("attn.qkv") ? key.replace("qkv", "qkv"[Math.round(from / (to - from))]) : key;
}
