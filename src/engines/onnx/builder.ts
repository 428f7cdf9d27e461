/** An ONNX graph under construction: nodes, constants, inputs and outputs. */
import { Message } from "./proto.ts";

/** LayerNormalization came with 17, Gelu with 20. */
const OPSET = 20;
const IR_VERSION = 9;

/** TensorProto.DataType */
export const FLOAT = 1;
export const INT64 = 7;
export const FLOAT16 = 10;

export type Half = (values: Float32Array) => Uint16Array;
type Attributes = Record<string, number | number[]>;

export interface GraphOptions {
  /**
   * Present for weights and arithmetic in f16. It brings `encodeFloat16`, which the WASM engine's page need not
   * download.
   */
  half?: Half;
  /** The graph takes any number of pictures at once; else one. */
  freeBatch?: boolean;
}

/** Values are named by strings; a named constant is stored once. */
export class Graph {
  private readonly graph = new Message().string(2, "slimvit");
  /** types and shapes by name */
  private readonly constants = new Map<string, string>();
  private readonly integerLists = new Map<string, string>();
  private values = 0;

  constructor(readonly options: GraphOptions = {}) {}

  /** @returns the name of its (first) output */
  node(op: string, inputs: string[], attributes: Attributes = {}, outputs = [this.fresh()], domain = ""): string {
    const node = new Message();
    for (const name of inputs) node.string(1, name);
    for (const name of outputs) node.string(2, name);
    node.string(4, op);
    if (domain) node.string(7, domain);
    for (const [name, value] of Object.entries(attributes)) node.message(5, attribute(name, value));
    this.graph.message(1, node);
    return outputs[0];
  }

  /** Adds a node without attributes. */
  op(name: string, ...inputs: string[]): string {
    return this.node(name, inputs);
  }

  /** @param shape -1 for what follows from the others */
  reshape(x: string, shape: number[]): string {
    return this.op("Reshape", x, this.integers(shape));
  }

  transpose(x: string, perm: number[]): string {
    return this.node("Transpose", [x], { perm });
  }

  /** @param values of one name, or one value alone */
  concat(values: string[], axis: number): string {
    return values.length === 1 ? values[0] : this.node("Concat", values, { axis });
  }

  /** Takes the elements at `indices` along an axis. */
  pick(x: string, indices: number[], axis: number): string {
    const isRun = indices.every((index, k) => index === indices[0] + k);
    if (isRun) return this.slice(x, indices[0], indices[0] + indices.length, axis);
    return this.node("Gather", [x, this.integers(indices)], { axis });
  }

  slice(x: string, from: number, to: number, axis: number): string {
    return this.op("Slice", x, this.integers([from]), this.integers([to]), this.integers([axis]));
  }

  /** Splits an axis into parts of the given lengths. */
  split(x: string, sizes: number[], axis: number): string[] {
    if (sizes.length === 1) return [x];
    const parts = sizes.map(() => this.fresh());
    this.node("Split", [x, this.integers(sizes)], { axis }, parts);
    return parts;
  }

  /** Pads one of `rank` axes with `before` and `after` zeros. */
  pad(x: string, rank: number, axis: number, [before, after]: [number, number]): string {
    if (before === 0 && after === 0) return x;
    const pads = Array<number>(2 * rank).fill(0);
    pads[axis] = before;
    pads[rank + axis] = after;
    return this.op("Pad", x, this.integers(pads));
  }

  /** @param op ReduceSum, ReduceMean, ReduceMax or ReduceMin */
  reduce(op: string, x: string, axes: number[], keepdims = 1): string {
    return this.node(op, [x, this.integers(axes)], { keepdims });
  }

  /** Compares elements; gives ones and zeros in f32. */
  truth(op: "Greater" | "Equal", a: string, b: string): string {
    return this.node("Cast", [this.op(op, a, b)], { to: FLOAT });
  }

  /** Casts to f32, whatever type the activations have. */
  widen(x: string): string {
    return this.options.half ? this.node("Cast", [x], { to: FLOAT }) : x;
  }

  /** Casts from f32 to the type of the activations. */
  narrow(x: string): string {
    return this.options.half ? this.node("Cast", [x], { to: FLOAT16 }) : x;
  }

  /** A constant in the type of the activations. */
  floats(name: string, values: Float32Array, shape: number[]): string {
    const { half } = this.options;
    return half ? this.constant(name, FLOAT16, shape, half(values)) : this.wideFloats(name, values, shape);
  }

  wideFloats(name: string, values: Float32Array, shape: number[]): string {
    return this.constant(name, FLOAT, shape, values);
  }

  scalar(value: number): string {
    return this.floats(`scalar ${value}`, Float32Array.of(value), [1]);
  }

  wideScalar(value: number): string {
    return this.wideFloats(`wide scalar ${value}`, Float32Array.of(value), [1]);
  }

  integers(values: number[], shape = [values.length]): string {
    const key = `${shape}: ${values}`;
    const name = this.integerLists.get(key) ?? `integers ${this.integerLists.size}`;
    this.integerLists.set(key, name);
    return this.constant(name, INT64, shape, BigInt64Array.from(values, BigInt));
  }

  constant(name: string, type: number, shape: number[], data: ArrayBufferView): string {
    const kind = `${type}: ${shape}`;
    const known = this.constants.get(name);
    if (known === kind) return name;
    if (known !== undefined) throw new Error(`"${name}" is a constant of type and shape ${known}, not ${kind}`);
    this.constants.set(name, kind);
    const tensor = new Message();
    for (const size of shape) tensor.int(1, size);
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    this.graph.message(5, tensor.int(2, type).string(8, name).bytes(9, bytes));
    return name;
  }

  /** @param shape of one picture: the batch goes before it */
  input(name: string, shape: number[]): void {
    this.graph.message(11, this.valueInfo(name, shape));
  }

  /**
   * @param value in the type of the activations
   * @param shape as `input`
   * @param isWide for a value that is in f32 in any case
   */
  output(name: string, value: string, shape: number[], isWide = false): void {
    if (this.options.half && !isWide) this.node("Cast", [value], { to: FLOAT }, [name]);
    else this.node("Identity", [value], {}, [name]);
    this.graph.message(12, this.valueInfo(name, shape));
  }

  /**
   * @param metadata the file's own, by name
   * @param domains that nodes come from, beside ONNX's own
   */
  finish(metadata: Record<string, string> = {}, domains: string[] = []): Uint8Array {
    const file = new Message()
      .int(1, IR_VERSION)
      .string(2, "slimvit")
      .message(7, this.graph)
      .message(8, new Message().string(1, "").int(2, OPSET));
    for (const domain of domains) file.message(8, new Message().string(1, domain).int(2, 1));
    for (const [key, value] of Object.entries(metadata))
      file.message(14, new Message().string(1, key).string(2, value));
    return file.finish();
  }

  fresh(): string {
    return `v${this.values++}`;
  }

  private valueInfo(name: string, shape: number[]): Message {
    const dims = new Message();
    const batch = new Message();
    dims.message(1, this.options.freeBatch ? batch.string(2, "batch") : batch.int(1, 1));
    for (const size of shape) dims.message(1, new Message().int(1, size));
    const tensor = new Message().int(1, FLOAT).message(2, dims);
    return new Message().string(1, name).message(2, new Message().message(1, tensor));
  }
}

/** Whole numbers become INT, save for the attributes that ONNX declares as FLOAT. */
function attribute(name: string, value: number | number[]): Message {
  const message = new Message().string(1, name);
  if (Array.isArray(value)) {
    for (const item of value) message.int(8, item);
    return message.int(20, 7);
  }
  if (name === "alpha" || name === "epsilon") return message.float(2, value).int(20, 1);
  return message.int(3, value).int(20, 2);
}
