/** The layers that are not one operator everywhere, or whose weights need preparing. */
import type { Model } from "../../format/model.ts";
import { float32 } from "../../format/read.ts";
import type { GraphBuilder } from "./builder.ts";

export class Layers {
  constructor(
    readonly graph: GraphBuilder,
    readonly model: Model,
  ) {}

  /** A vector among the model's tensors, or what stands for one. */
  values(key: string): Float32Array {
    return float32(this.model.tensors, key);
  }

  vector(key: string): MLOperand {
    const values = this.values(key);
    return this.graph.floats(key, [values.length], () => values);
  }

  /**
   * y = x Wᵀ + b over some of the linear's outputs.
   *
   * @param x [rows, inDim]
   * @param rows of the weight, from and to; all of them unless said
   * @param bias null for none, which is for those that cancel; or other values than the model's
   */
  linear(x: MLOperand, key: string, rows?: [number, number], bias?: Float32Array | null): MLOperand {
    const { graph } = this;
    const inDim = x.shape[1];
    const [from, to] = rows ?? [0, this.values(`${key}.bias`).length];
    const name = `${key} ${from} ${to}`;
    const weight = graph.floats(`${name} weight`, [to - from, inDim], () =>
      this.values(`${key}.weight`).subarray(from * inDim, to * inDim),
    );
    const offset = () => bias ?? this.values(`${key}.bias`).subarray(from, to);
    const c = bias === null ? {} : { c: graph.floats(`${name} bias`, [to - from], offset) };
    return graph.op("gemm", x, weight, { bTranspose: true, ...c });
  }

  /** Over the last axis. */
  norm(x: MLOperand, key: string, epsilon = this.model.manifest.layerNormEps): MLOperand {
    const axes = [x.shape.length - 1];
    const [scale, bias] = [this.vector(`${key}.weight`), this.vector(`${key}.bias`)];
    if (this.graph.has("layerNormalization"))
      return this.graph.op("layerNormalization", x, { axes, epsilon, scale, bias });
    return this.affine(this.standardise(x, axes, epsilon), scale, bias);
  }

  /** The exact form, with erf. */
  gelu(x: MLOperand): MLOperand {
    const { graph } = this;
    if (graph.has("gelu")) return graph.op("gelu", x);
    const half = graph.op("mul", x, graph.scalar(0.5));
    const erf = graph.op("erf", graph.op("mul", x, graph.scalar(Math.SQRT1_2)));
    return graph.op("mul", half, graph.op("add", erf, graph.scalar(1)));
  }

  private affine(x: MLOperand, scale: MLOperand, bias: MLOperand): MLOperand {
    return this.graph.op("add", this.graph.op("mul", x, scale), bias);
  }

  private standardise(x: MLOperand, axes: number[], epsilon: number): MLOperand {
    const { graph } = this;
    const how = { axes, keepDimensions: true };
    const centred = graph.op("sub", x, graph.op("reduceMean", x, how));
    const variance = graph.op("reduceMean", graph.op("mul", centred, centred), how);
    return graph.op("div", centred, graph.op("sqrt", graph.op("add", variance, graph.scalar(epsilon))));
  }
}
