/**
 * Linears on int8. With activation ranges from a calibration they are written as what they mean, dequantised levels that are
 * multiplied (the QDQ form), which onnxruntime turns into one integer kernel each. Without ranges, activations are quantised
 * as they come.
 */
import type { ActivationRange } from "../../format/model.ts";
import { isQuantised } from "../../format/quantise.ts";
import { FLOAT } from "./builder.ts";
import { Layers, type LinearOptions, type Matrix, nameOf, scaled, takeRows } from "./layers.ts";

/** TensorProto.DataType */
const UINT8 = 2;
const INT8 = 3;
const INT32 = 6;

interface Parts {
  name: string;
  /** [out, in] */
  levels: Int8Array;
  /** [out], of the weights */
  scales: Float32Array;
  /** [out] */
  bias: Float32Array;
}

export class QuantisedLayers extends Layers {
  private readonly quantised = new Map<string, string>();

  override linear(x: Matrix, key: string, options: LinearOptions = {}): Matrix {
    const weight = this.model.tensors.get(`${key}.weight`)!;
    if (weight.dtype !== "I8" || !isQuantised(`${key}.weight`)) return super.linear(x, key, options);
    const { rows = [0, weight.shape[0]], order, factor = 1 } = options;
    const parts = {
      name: nameOf(key, options),
      levels: takeRows(weight.data as Int8Array, x.width, rows, order),
      scales: scaled(takeRows(this.values(`${key}.scale`), 1, rows, order), factor),
      bias: scaled(takeRows(this.values(`${key}.bias`), 1, rows, order), factor),
    };
    const { manifest, dtype } = this.model;
    const range = manifest.weights.find((entry) => entry.dtype === dtype)?.activations?.[`${key}.input`];
    const name = range ? this.byRange(x, range, parts) : this.asItComes(x, parts);
    return { name, tokens: x.tokens, width: parts.scales.length };
  }

  /** QuantizeLinear → DequantizeLinear → Gemm, whose weights and bias are dequantised constants. */
  protected byRange(x: Matrix, range: ActivationRange, { name, levels, scales, bias }: Parts): string {
    const { graph } = this;
    const out = scales.length;
    const { scale, zero } = gridOf(range);
    const key = `${x.name} ${scale} ${zero}`;
    const input = this.quantised.get(key) ?? this.quantise(x.name, scale, zero);
    this.quantised.set(key, input);
    const dequantise = (of: string, type: number, shape: number[], data: Int8Array | Int32Array, by: Float32Array) => {
      const zeros = data.length ? data.slice(0, out).fill(0) : data;
      const inputs = [
        graph.constant(`${name}.${of}`, type, shape, data),
        graph.wideFloats(`${name}.${of}.scale`, by, [out]),
        graph.constant(`${of} zeros ${out}`, type, [out], zeros), // without them onnxruntime makes no integer kernel of it
      ];
      return graph.node("DequantizeLinear", inputs, { axis: 0 });
    };
    const weight = dequantise("weight", INT8, [out, x.width], levels, scales);
    const steps = scales.map((step) => Math.max(step * scale, 2 ** -100));
    const biasLevels = Int32Array.from(bias, (b, o) =>
      Math.round(Math.max(-(2 ** 30), Math.min(2 ** 30, b / steps[o]))),
    );
    return graph.node("Gemm", [input, weight, dequantise("bias", INT32, [out], biasLevels, steps)], { transB: 1 });
  }

  protected quantise(x: string, scale: number, zero: number): string {
    const { graph } = this;
    const grid = [graph.wideScalarOf(scale), graph.constant(`zero ${zero}`, UINT8, [], Uint8Array.of(zero))];
    return graph.op("DequantizeLinear", graph.op("QuantizeLinear", x, ...grid), ...grid);
  }

  /** Eight bits between the least and the greatest value of what comes: DynamicQuantizeLinear → MatMulInteger. */
  protected asItComes(x: Matrix, { name, levels, scales, bias }: Parts): string {
    const { graph } = this;
    const out = scales.length;
    const [input, step, zero] = this.dynamic(x.name);
    const columns = new Int8Array(levels.length);
    for (let o = 0; o < out; o++) for (let i = 0; i < x.width; i++) columns[i * out + o] = levels[o * x.width + i];
    const weight = graph.constant(`${name}.weight`, INT8, [x.width, out], columns);
    const sums = graph.node("Cast", [graph.op("MatMulInteger", input, weight, zero)], { to: FLOAT });
    const y = graph.op("Mul", sums, graph.op("Mul", step, graph.wideFloats(`${name}.scale`, scales, [out])));
    return graph.op("Add", y, graph.wideFloats(`${name}.bias`, bias, [out]));
  }

  private readonly dynamics = new Map<string, string[]>();

  private dynamic(x: string): string[] {
    const known = this.dynamics.get(x);
    if (known) return known;
    const outputs = [0, 1, 2].map(() => this.graph.fresh());
    this.graph.node("DynamicQuantizeLinear", [x], {}, outputs);
    this.dynamics.set(x, outputs);
    return outputs;
  }
}

/** 0 is one of its levels. */
function gridOf([low, high]: ActivationRange): { scale: number; zero: number } {
  const [from, to] = [Math.min(low, 0), Math.max(high, 0)];
  const scale = Math.fround(Math.max((to - from) / 255, 1e-12));
  return { scale, zero: Math.max(0, Math.min(255, Math.round(-from / scale))) };
}
