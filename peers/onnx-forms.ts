/** Our ONNX graph with linears in the forms that onnxruntime has for int8, and with masks that remove nothing. */
import { Layers, type LinearOptions, type Matrix, QuantisedLayers, writeOnnx } from "../src/engines/onnx/graph.ts";
import type { BlockShape, Model, Tensor } from "../src/format/model.ts";
import { isQuantised } from "../src/format/quantise.ts";

/** TensorProto.DataType */
const INT8 = 3;

/**
 * Both quantise activations at run time, 8 bits a tensor. MatMulInteger is the standard's, and what onnxruntime's own
 * quantiser writes; DynamicQuantizeMatMul is onnxruntime's, one node for all of it.
 */
export type Int8Form = "MatMulInteger" | "DynamicQuantizeMatMul";

/** @param model with int8 weights, without ranges of activations */
export function writeInt8Onnx(model: Model, form: Int8Form): Uint8Array {
  return writeOnnx(model, { layers: form === "MatMulInteger" ? QuantisedLayers : OneNodeLayers });
}

class OneNodeLayers extends Layers {
  override readonly domains = ["com.microsoft"];

  override linear(x: Matrix, key: string, options: LinearOptions = {}): Matrix {
    const weight = this.model.tensors.get(`${key}.weight`)!;
    if (weight.dtype !== "I8" || !isQuantised(`${key}.weight`)) return super.linear(x, key, options);
    const { graph } = this;
    const { rows: [from, to] = [0, weight.shape[0]], factor = 1 } = options;
    const floats = (of: string) => {
      const values = this.values(`${key}.${of}`).subarray(from, to);
      return graph.floats(
        `${key}.${from}.${of}`,
        values.map((v) => v * factor),
        [to - from],
      );
    };
    const matrix = this.transposed(`${key}.${from}.int8`, weight, from, to);
    const inputs = [x.name, matrix, floats("scale"), "", floats("bias")];
    const name = graph.node("DynamicQuantizeMatMul", inputs, {}, [graph.fresh()], "com.microsoft");
    return { name, tokens: x.tokens, width: to - from };
  }

  /** Rows of [out, in] as [in, out]. */
  private transposed(name: string, { data, shape }: Tensor, from: number, to: number): string {
    const inputs = shape[1];
    const bytes = new Int8Array(inputs * (to - from));
    for (let o = from; o < to; o++)
      for (let i = 0; i < inputs; i++) bytes[i * (to - from) + o - from] = data[o * inputs + i];
    return this.graph.constant(name, INT8, [inputs, to - from], bytes);
  }
}

/**
 * The dense network with its head channels and MLP units multiplied by 0 or 1. It shows the cost of masks that remove
 * nothing.
 */
export function writeMaskedOnnx(dense: Model, kept: BlockShape[]): Uint8Array {
  return writeOnnx(dense, {
    layers: class extends MaskedLayers {
      readonly kept = kept;
    },
  });
}

abstract class MaskedLayers extends Layers {
  abstract readonly kept: BlockShape[];

  override linear(x: Matrix, key: string, options: LinearOptions = {}): Matrix {
    const y = super.linear(x, key, options);
    const [, block, what] = key.match(/^blocks\.(\d+)\.(attn\.qkv|mlp\.fc1)$/) ?? [];
    if (!block) return y;
    const { manifest } = this.model;
    const { headDims, mlpHidden } = this.kept[Number(block)];
    const first = (count: number, of: number) => Float32Array.from({ length: of }, (_, i) => (i < count ? 1 : 0));
    const heads = headDims.flatMap((count) => [...first(count, manifest.headDim)]);
    const mask = what === "mlp.fc1" ? first(mlpHidden, y.width) : Float32Array.from(heads);
    return { ...y, name: this.graph.op("Mul", y.name, this.graph.floats(`${key}.mask`, mask, [mask.length])) };
  }
}
