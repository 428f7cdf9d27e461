/**
 * A `Model` → the bytes of an ONNX file that runs the slim network: dropped tokens are gathered away, dropped channels
 * and heads are not there. Activations are [tokens, channels] matrices, every linear is one Gemm over the weights as they
 * are stored, and the arithmetic is that of src/reference/forward.ts.
 */
import { SlimViTError } from "../../errors.ts";
import { refuseUnsupported } from "../../format/features.ts";
import { type BlockShape, innerDim, type Model, patchGrid } from "../../format/model.ts";
import { float32 } from "../../format/read.ts";
import { Message } from "./proto.ts";

/** LayerNormalization came with 17, Gelu with 20. */
const OPSET = 20;
const IR_VERSION = 9;
/** protobuf's own bound, less what the graph itself may need */
const MAX_WEIGHT_BYTES = 2 ** 31 - 2 ** 24;

/**
 * Input `pixels` [1, 3, height, width]; outputs `logits` [1, classes] and `features` [1, embedDim], all f32.
 * @param half for weights and arithmetic in f16: `encodeFloat16`, which the WASM engine's page need not download
 * @param graph to build on: benchmarks write linears in other forms
 * @throws SlimViTError `unsupported` past 2 GB
 */
export function writeOnnx(model: Model, half?: Half, graph = new Graph(model, half)): Uint8Array {
  refuseUnsupported("The ONNX graph", model.manifest);
  const { name, imageSize, embedDim, prefixTokens, blocks, labels } = model.manifest;
  let bytes = 0;
  for (const { data } of model.tensors.values()) bytes += 4 * data.length;
  if (bytes > MAX_WEIGHT_BYTES) {
    throw new SlimViTError("unsupported", `${name}: needs ${bytes} bytes of f32 weights; an ONNX file ends at 2 GB.`);
  }

  const pixels = graph.input("pixels", [1, 3, ...imageSize]);
  let alive = blocks[0].keepIdx;
  let x = embed(graph, model, pixels);
  blocks.forEach((block, i) => {
    if (block.keepIdx.length < alive.length) {
      const row = new Map(alive.map((token, k) => [token, k]));
      x = graph.rows(
        x,
        block.keepIdx.map((token) => row.get(token)!),
      );
    }
    alive = block.keepIdx;
    // Only the prefix tokens leave the last block; the others are keys and values there and nothing more.
    const context = x;
    if (i === blocks.length - 1 && alive.length > prefixTokens) x = graph.prefix(x);
    x = graph.node("Add", [x, attend(graph, model, block, `blocks.${i}`, x, context)]);
    x = graph.node("Add", [x, mlp(graph, block, `blocks.${i}`, x)]);
  });

  const tokens = graph.norm(x, "norm");
  const features = prefixTokens === 1 ? tokens : graph.rows(tokens, [0]);
  let logits = graph.linear(features, "head");
  if (prefixTokens === 2) {
    const distilled = graph.linear(graph.rows(tokens, [1]), "head_dist");
    logits = graph.node("Mul", [
      graph.node("Add", [logits, distilled]),
      graph.floats("half", Float32Array.of(0.5), [1]),
    ]);
  }
  graph.output("logits", logits, [1, labels.length]);
  graph.output("features", features, [1, embedDim]);
  return graph.finish();
}

/** [keepIdx.length, embedDim] of the first block: prefix tokens, whose values are constants, and the kept patches. */
function embed(graph: Graph, { manifest, tensors }: Model, pixels: string): string {
  const { embedDim, patchSize: p, prefixTokens, blocks } = manifest;
  const position = float32(tensors, "pos_embed");
  const start = new Float32Array(prefixTokens * embedDim);
  start.set(float32(tensors, "cls_token"));
  if (prefixTokens === 2) start.set(float32(tensors, "dist_token"), embedDim);
  const prefix = graph.floats(
    "prefix",
    start.map((v, i) => v + position[i]),
    [prefixTokens, embedDim],
  );
  const patches = blocks[0].keepIdx.slice(prefixTokens).map((token) => token - prefixTokens);
  if (patches.length === 0) return prefix;

  // Each kept patch's bias and position embedding, which is all that its original index still matters for.
  const bias = float32(tensors, "patch_embed.proj.bias");
  const offset = new Float32Array(patches.length * embedDim);
  patches.forEach((patch, k) => {
    const from = (patch + prefixTokens) * embedDim;
    for (let d = 0; d < embedDim; d++) offset[k * embedDim + d] = bias[d] + position[from + d];
  });

  const [rows, columns] = patchGrid(manifest);
  const tiles = graph.reshape(pixels, [3, rows, p, columns, p]);
  let values = graph.reshape(graph.node("Transpose", [tiles], { perm: [1, 3, 0, 2, 4] }), [rows * columns, 3 * p * p]);
  if (patches.length < rows * columns) values = graph.rows(values, patches);
  const weight = graph.floats("patch_embed", float32(tensors, "patch_embed.proj.weight"), [embedDim, 3 * p * p]);
  const content = graph.node("Gemm", [values, weight, graph.floats("pos_embed", offset, [patches.length, embedDim])], {
    transB: 1,
  });
  return graph.node("Concat", [prefix, content], { axis: 0 });
}

/** Self-attention of the tokens of `x` over those of `context`, mixed by proj; without heads, proj's bias alone. */
function attend(graph: Graph, { manifest }: Model, block: BlockShape, at: string, x: string, context: string): string {
  const { headDims } = block;
  const inner = innerDim(block);
  if (inner === 0) return graph.weight(`${at}.attn.proj.bias`);
  const scale = 1 / Math.sqrt(manifest.headDim);
  const keys = graph.norm(context, `${at}.norm1`);
  const queries = x === context ? keys : graph.prefix(keys);
  const [q, k, v] = [queries, keys, keys].map((input, part) =>
    graph.linear(input, `${at}.attn.qkv`, [part * inner, (part + 1) * inner]),
  );
  const width = headDims[0];
  let mixed: string;
  if (headDims.length > 1 && headDims.every((other) => other === width)) {
    const split = (rows: string, perm: number[]) =>
      graph.node("Transpose", [graph.reshape(rows, [-1, headDims.length, width])], { perm });
    const scaled = graph.node("Mul", [split(q, [1, 0, 2]), graph.floats("scale", Float32Array.of(scale), [1])]);
    const scores = graph.node("MatMul", [scaled, split(k, [1, 2, 0])]);
    const heads = graph.node("MatMul", [graph.node("Softmax", [scores]), split(v, [1, 0, 2])]);
    mixed = graph.reshape(graph.node("Transpose", [heads], { perm: [1, 0, 2] }), [-1, inner]);
  } else {
    const [qs, ks, vs] = [q, k, v].map((rows) => graph.split(rows, headDims));
    const heads = headDims.map((_, h) => {
      const scores = graph.node("Gemm", [qs[h], ks[h]], { transB: 1, alpha: scale });
      return graph.node("MatMul", [graph.node("Softmax", [scores]), vs[h]]);
    });
    mixed = heads.length === 1 ? heads[0] : graph.node("Concat", heads, { axis: 1 });
  }
  return graph.linear(mixed, `${at}.attn.proj`);
}

/** Without hidden units, fc2's bias alone. */
function mlp(graph: Graph, { mlpHidden }: BlockShape, at: string, x: string): string {
  if (mlpHidden === 0) return graph.weight(`${at}.mlp.fc2.bias`);
  const hidden = graph.node("Gelu", [graph.linear(graph.norm(x, `${at}.norm2`), `${at}.mlp.fc1`)]); // the erf form
  return graph.linear(hidden, `${at}.mlp.fc2`);
}

type Half = (values: Float32Array) => Uint16Array;
type Attributes = Record<string, number | number[]>;

/** An ONNX graph under construction. Values are named by strings; a named constant is stored once. */
export class Graph {
  private readonly graph = new Message().string(2, "slimvit");
  private readonly constants = new Set<string>();
  private values = 0;

  constructor(
    protected readonly model: Model,
    private readonly half?: Half,
  ) {}

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

  /** Rows `from` to `to` of a linear's outputs; all of them unless said. */
  linear(x: string, key: string, [from, to] = [0, this.tensor(`${key}.bias`).length]): string {
    const weight = this.tensor(`${key}.weight`);
    const bias = this.tensor(`${key}.bias`);
    const inDim = weight.length / bias.length;
    const name = from === 0 && to === bias.length ? key : `${key}.${from}`;
    return this.node(
      "Gemm",
      [
        x,
        this.floats(`${name}.weight`, weight.subarray(from * inDim, to * inDim), [to - from, inDim]),
        this.floats(`${name}.bias`, bias.subarray(from, to), [to - from]),
      ],
      { transB: 1 },
    );
  }

  norm(x: string, key: string): string {
    return this.node("LayerNormalization", [x, this.weight(`${key}.weight`), this.weight(`${key}.bias`)], {
      epsilon: this.model.manifest.layerNormEps,
    });
  }

  /** A vector among the model's tensors. */
  weight(key: string): string {
    const values = this.tensor(key);
    return this.floats(key, values, [values.length]);
  }

  rows(x: string, indices: number[]): string {
    return this.node("Gather", [x, this.integers(indices)], { axis: 0 });
  }

  prefix(x: string): string {
    return this.rows(x, [...Array(this.model.manifest.prefixTokens).keys()]);
  }

  reshape(x: string, shape: number[]): string {
    return this.node("Reshape", [x, this.integers(shape)]);
  }

  /** Columns of a matrix, by their counts. */
  split(x: string, widths: number[]): string[] {
    if (widths.length === 1) return [x];
    const parts = widths.map(() => this.fresh());
    this.node("Split", [x, this.integers(widths)], { axis: 1 }, parts);
    return parts;
  }

  floats(name: string, values: Float32Array, shape: number[]): string {
    const { buffer, byteOffset, byteLength } = this.half?.(values) ?? values;
    return this.constant(name, this.half ? FLOAT16 : FLOAT, shape, new Uint8Array(buffer, byteOffset, byteLength));
  }

  private integers(values: number[]): string {
    const data = BigInt64Array.from(values, BigInt);
    return this.constant(this.fresh(), INT64, [values.length], new Uint8Array(data.buffer));
  }

  protected constant(name: string, type: number, shape: number[], raw: Uint8Array): string {
    if (this.constants.has(name)) return name;
    this.constants.add(name);
    const tensor = new Message();
    for (const size of shape) tensor.int(1, size);
    this.graph.message(5, tensor.int(2, type).string(8, name).bytes(9, raw));
    return name;
  }

  /** @returns what to compute with */
  input(name: string, shape: number[]): string {
    this.graph.message(11, valueInfo(name, shape));
    return this.half ? this.node("Cast", [name], { to: FLOAT16 }) : name;
  }

  output(name: string, value: string, shape: number[]): void {
    if (this.half) this.node("Cast", [value], { to: FLOAT }, [name]);
    else this.node("Identity", [value], {}, [name]);
    this.graph.message(12, valueInfo(name, shape));
  }

  /** @param domains that nodes come from, beside ONNX's own */
  finish(domains: string[] = []): Uint8Array {
    const file = new Message()
      .int(1, IR_VERSION)
      .string(2, "slimvit")
      .message(7, this.graph)
      .message(8, new Message().string(1, "").int(2, OPSET));
    for (const domain of domains) file.message(8, new Message().string(1, domain).int(2, 1));
    return file.finish();
  }

  protected fresh(): string {
    return `v${this.values++}`;
  }

  protected tensor(key: string): Float32Array {
    return float32(this.model.tensors, key);
  }
}

/** TensorProto.DataType */
const FLOAT = 1;
const INT64 = 7;
const FLOAT16 = 10;

function valueInfo(name: string, shape: number[]): Message {
  const dims = new Message();
  for (const size of shape) dims.message(1, new Message().int(1, size));
  const tensor = new Message().int(1, FLOAT).message(2, dims);
  return new Message().string(1, name).message(2, new Message().message(1, tensor));
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
