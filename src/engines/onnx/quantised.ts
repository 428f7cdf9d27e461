/**
 * Linears in int8. With activation ranges from a calibration they are written in QDQ form (quantise, dequantise,
 * multiply), which onnxruntime turns into one integer kernel each. Without ranges, activations are quantised at run
 * time.
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
  /** by their matrix and grid: q, k and v read the same activations */
  private readonly onGrid = new Map<string, string>();
  private readonly asTheyCame = new Map<string, string[]>();

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
    return { name: this.write(x, key, parts), tokens: x.tokens, width: parts.scales.length };
  }

  private write(x: Matrix, key: string, parts: Parts): string {
    if (key.startsWith("head")) return this.byWeights(x, parts); // one row: int8 saves nothing
    const { manifest, dtype } = this.model;
    const range = manifest.weights.find((entry) => entry.dtype === dtype)?.activations?.[`${key}.input`];
    return range ? this.byRange(x, range, parts) : this.asItComes(x, parts);
  }

  /** Weights are stored in int8 and multiplied in f32. */
  private byWeights(x: Matrix, { name, levels, scales, bias }: Parts): string {
    const weight = this.dequantised(`${name}.weight`, INT8, [scales.length, x.width], levels, scales);
    return this.gemm(x.name, weight, this.graph.wideFloats(`${name}.bias`, bias, [bias.length]));
  }

  /** QuantizeLinear → DequantizeLinear → Gemm, whose weights and bias are dequantised constants. */
  private byRange(x: Matrix, range: ActivationRange, { name, levels, scales, bias }: Parts): string {
    const { scale, zero } = gridOf(range);
    const out = scales.length;
    const steps = scales.map((step) => Math.max(step * scale, 2 ** -100));
    const biasLevels = Int32Array.from(bias, (b, o) =>
      Math.round(Math.max(-(2 ** 30), Math.min(2 ** 30, b / steps[o]))),
    );
    const weight = this.dequantised(`${name}.weight`, INT8, [out, x.width], levels, scales);
    const offset = this.dequantised(`${name}.bias`, INT32, [out], biasLevels, steps);
    return this.gemm(this.rounded(x.name, scale, zero), weight, offset);
  }

  private gemm(x: string, weight: string, bias: string): string {
    return this.graph.node("Gemm", [x, weight, bias], { transB: 1 });
  }

  /** Constants whose first axis has a scale each. */
  private dequantised(name: string, type: number, shape: number[], data: Int8Array | Int32Array, scales: Float32Array) {
    const { graph } = this;
    const zeros = type === INT8 ? new Int8Array(shape[0]) : new Int32Array(shape[0]);
    const inputs = [
      graph.constant(name, type, shape, data),
      graph.wideFloats(`${name}.scale`, scales, [shape[0]]),
      graph.constant(`zeros ${type} ${shape[0]}`, type, [shape[0]], zeros), // onnxruntime fuses nothing without them
    ];
    return graph.node("DequantizeLinear", inputs, { axis: 0 });
  }

  private rounded(x: string, scale: number, zero: number): string {
    const { graph } = this;
    const key = `${x} ${scale} ${zero}`;
    const known = this.onGrid.get(key);
    if (known !== undefined) return known;
    const grid = [
      graph.wideFloats(`step ${scale}`, Float32Array.of(scale), []),
      graph.constant(`zero ${zero}`, UINT8, [], Uint8Array.of(zero)),
    ];
    const values = graph.op("DequantizeLinear", graph.op("QuantizeLinear", x, ...grid), ...grid);
    this.onGrid.set(key, values);
    return values;
  }

  /** Activations in eight bits between their least and greatest value: DynamicQuantizeLinear → MatMulInteger. */
  private asItComes(x: Matrix, { name, levels, scales, bias }: Parts): string {
    const { graph } = this;
    const out = scales.length;
    const [input, step, zero] = this.roundedAsItComes(x.name);
    const columns = new Int8Array(levels.length);
    for (let o = 0; o < out; o++) for (let i = 0; i < x.width; i++) columns[i * out + o] = levels[o * x.width + i];
    const weight = graph.constant(`${name}.weight`, INT8, [x.width, out], columns);
    const sums = graph.node("Cast", [graph.op("MatMulInteger", input, weight, zero)], { to: FLOAT });
    const scale = graph.op("Mul", step, graph.wideFloats(`${name}.scale`, scales, [out]));
    return graph.op("Add", graph.op("Mul", sums, scale), graph.wideFloats(`${name}.bias`, bias, [out]));
  }

  private roundedAsItComes(x: string): string[] {
    const known = this.asTheyCame.get(x);
    if (known) return known;
    const outputs = [0, 1, 2].map(() => this.graph.fresh());
    this.graph.node("DynamicQuantizeLinear", [x], {}, outputs);
    this.asTheyCame.set(x, outputs);
    return outputs;
  }
}

/** A grid of 256 levels, one of which is 0. */
function gridOf([low, high]: ActivationRange): { scale: number; zero: number } {
  const [from, to] = [Math.min(low, 0), Math.max(high, 0)];
  const scale = Math.fround(Math.max((to - from) / 255, 1e-12));
  return { scale, zero: Math.max(0, Math.min(255, Math.round(-from / scale))) };
}
