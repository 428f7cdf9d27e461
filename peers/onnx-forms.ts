/** Our ONNX graph with linears in the forms that onnxruntime has for int8, and with masks that remove nothing. */
import { Graph, writeOnnx } from "../src/engines/onnx/graph.ts";
import type { BlockShape, Model, Tensor } from "../src/format/model.ts";
import { isQuantised } from "../src/format/quantise.ts";

/** TensorProto.DataType */
const INT8 = 3;
const FLOAT = 1;

export type Int8Form = "MatMulInteger" | "DynamicQuantizeMatMul";

/** @param model with int8 weights */
export function writeInt8Onnx(model: Model, form: Int8Form, input?: string): Uint8Array {
  return writeOnnx(model, undefined, new Int8Graph(model, form, input));
}

/** With the input's name that transformers.js looks for. */
export function writeRenamedOnnx(model: Model, input: string): Uint8Array {
  return writeOnnx(model, undefined, new NamedGraph(model, input));
}

class NamedGraph extends Graph {
  constructor(
    model: Model,
    private readonly inputName?: string,
  ) {
    super(model);
  }

  override input(name: string, shape: number[]): string {
    return super.input(this.inputName ?? name, shape);
  }
}

/**
 * Both quantise activations at run time, 8 bits a tensor. MatMulInteger is the standard's, and what onnxruntime's own
 * quantiser writes; DynamicQuantizeMatMul is onnxruntime's, one node for all of it.
 */
class Int8Graph extends NamedGraph {
  constructor(
    model: Model,
    private readonly form: Int8Form,
    inputName?: string,
  ) {
    super(model, inputName);
  }

  override linear(x: string, key: string, range?: [number, number]): string {
    const weight = this.model.tensors.get(`${key}.weight`)!;
    if (weight.dtype !== "I8" || !isQuantised(`${key}.weight`)) return super.linear(x, key, range);
    const bias = this.tensor(`${key}.bias`);
    const [from, to] = range ?? [0, bias.length];
    const name = `${key}.${from}`;
    const scale = this.floats(`${name}.scale`, this.tensor(`${key}.scale`).subarray(from, to), [to - from]);
    const matrix = this.transposed(`${name}.int8`, weight, from, to);
    const offset = this.floats(`${name}.bias`, bias.subarray(from, to), [to - from]);
    if (this.form === "DynamicQuantizeMatMul")
      return this.node(this.form, [x, matrix, scale, "", offset], {}, [this.fresh()], "com.microsoft");
    const [levels, step, zero] = [this.fresh(), this.fresh(), this.fresh()];
    this.node("DynamicQuantizeLinear", [x], {}, [levels, step, zero]);
    const sums = this.node("Cast", [this.node(this.form, [levels, matrix, zero])], { to: FLOAT });
    return this.node("Add", [this.node("Mul", [sums, this.node("Mul", [step, scale])]), offset]);
  }

  override finish(): Uint8Array {
    return super.finish(["com.microsoft"]);
  }

  /** Rows of [out, in] as [in, out]. */
  private transposed(name: string, { data, shape }: Tensor, from: number, to: number): string {
    const inputs = shape[1];
    const bytes = new Int8Array(inputs * (to - from));
    for (let o = from; o < to; o++)
      for (let i = 0; i < inputs; i++) bytes[i * (to - from) + o - from] = data[o * inputs + i];
    return this.constant(name, INT8, [inputs, to - from], new Uint8Array(bytes.buffer));
  }
}

/** The dense network, its head channels and MLP units multiplied by 0 or 1: what masks cost that remove nothing. */
export function writeMaskedOnnx(dense: Model, kept: BlockShape[]): Uint8Array {
  return writeOnnx(dense, undefined, new MaskedGraph(dense, kept));
}

class MaskedGraph extends Graph {
  constructor(
    model: Model,
    private readonly kept: BlockShape[],
  ) {
    super(model);
  }

  override linear(x: string, key: string, range?: [number, number]): string {
    const y = super.linear(x, key, range);
    const [, block, what] = key.match(/^blocks\.(\d+)\.(attn\.qkv|mlp\.fc1)$/) ?? [];
    if (!block) return y;
    const { manifest } = this.model;
    const { headDims, mlpHidden } = this.kept[Number(block)];
    const first = (count: number, of: number) => Float32Array.from({ length: of }, (_, i) => (i < count ? 1 : 0));
    const width = manifest.blocks[Number(block)].mlpHidden;
    const heads = headDims.flatMap((count) => [...first(count, manifest.headDim)]);
    const mask = what === "mlp.fc1" ? first(mlpHidden, width) : Float32Array.from(heads);
    return this.node("Mul", [y, this.floats(`${key}.mask`, mask, [mask.length])]);
  }
}
