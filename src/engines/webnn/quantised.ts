/**
 * A linear in int8: inputs, weights and outputs are quantisation levels, summed in int32. It is written in QDQ form
 * (quantise, dequantise, multiply), which the context's compiler turns into one int8 operator (TensorFlow Lite does).
 */
import type { ActivationRange } from "../../format/model.ts";
import type { GraphBuilder } from "./builder.ts";

export interface QuantisedLinear {
  key: string;
  /** [out, in] */
  levels: Int8Array;
  /** [out], of the weights */
  scales: Float32Array;
  /** [out] */
  bias: Float32Array;
  /** ranges of its inputs and outputs from calibration */
  input: ActivationRange;
  output: ActivationRange;
}

/** @param x [rows, in] */
export function quantisedLinear(graph: GraphBuilder, x: MLOperand, linear: QuantisedLinear): MLOperand {
  const { key, levels, scales, bias } = linear;
  const out = scales.length;
  const input = gridOf(linear.input);
  const sizes = outputSizes(levels, scales);
  const output = gridOf(linear.output);
  const constant = (type: MLOperandDataType, shape: number[], data: ArrayBufferView) =>
    graph.constant(type, shape, data);
  const weightScales = scales.map((scale, o) => scale / sizes[o]);
  const weight = graph.op(
    "dequantizeLinear",
    constant("int8", [out, levels.length / out], levels),
    constant("float32", [out, 1], weightScales),
    constant("int8", [out, 1], new Int8Array(out)),
  );
  const biasScales = weightScales.map((scale) => Math.max(scale * input.scale, 2 ** -100));
  const biasLevels = Int32Array.from(bias, (b, o) =>
    Math.round(Math.max(-(2 ** 30), Math.min(2 ** 30, b / sizes[o] / biasScales[o]))),
  );
  const c = graph.op(
    "dequantizeLinear",
    constant("int32", [out], biasLevels),
    constant("float32", [out], biasScales),
    constant("int32", [out], new Int32Array(out)),
  );
  const y = graph.op("gemm", onGrid(graph, x, input), weight, { bTranspose: true, c });
  return graph.op(
    "mul",
    onGrid(graph, y, output),
    graph.floats(`${key} sizes`, [out], () => sizes),
  );
}

/** The relative size of each output: the length of its row. Outputs are divided by it and then share one grid. */
export function outputSizes(levels: Int8Array, scales: Float32Array): Float32Array {
  const columns = levels.length / scales.length;
  return scales.map((scale, o) => {
    let squares = 0;
    for (let i = o * columns; i < (o + 1) * columns; i++) squares += levels[i] ** 2;
    return Math.max(scale * Math.sqrt(squares), 1e-12);
  });
}

interface Grid {
  scale: number;
  zero: number;
}

function gridOf([low, high]: ActivationRange): Grid {
  const [from, to] = [Math.min(low, 0), Math.max(high, 0)];
  const scale = Math.max((to - from) / 255, 1e-12);
  return { scale, zero: Math.max(-128, Math.min(127, Math.round(-128 - from / scale))) };
}

const known = new WeakMap<MLOperand, Map<string, MLOperand>>();

function onGrid(graph: GraphBuilder, x: MLOperand, { scale, zero }: Grid): MLOperand {
  const key = `${scale} ${zero}`;
  const of = known.get(x) ?? new Map<string, MLOperand>();
  known.set(x, of);
  if (!of.has(key)) {
    const s = graph.floats(`grid ${scale}`, [1, 1], () => Float32Array.of(scale));
    const z = graph.constant("int8", [1, 1], Int8Array.of(zero));
    of.set(key, graph.op("dequantizeLinear", graph.op("quantizeLinear", x, s, z), s, z));
  }
  return of.get(key)!;
}
