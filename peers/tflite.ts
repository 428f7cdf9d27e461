/**
 * A `Model` → a .tflite file for LiteRT.js: the arithmetic of src/reference/forward.ts in the runtime's builtin operators.
 * int8 linears are FULLY_CONNECTED over int8 weights, a scale a channel, whose activations LiteRT quantises at run time.
 * Field numbers are those of schema.fbs. @see https://github.com/google-ai-edge/LiteRT
 */
import { Builder } from "flatbuffers";
import { type BlockShape, innerDim, type Model, patchGrid } from "../src/format/model.ts";
import { float32 } from "../src/format/read.ts";

/** BuiltinOperator */
const OP = {
  ADD: 0,
  CONCATENATION: 2,
  FULLY_CONNECTED: 9,
  MUL: 18,
  RESHAPE: 22,
  SOFTMAX: 25,
  GATHER: 36,
  TRANSPOSE: 39,
  MEAN: 40,
  SUB: 41,
  SLICE: 65,
  RSQRT: 76,
  BATCH_MATMUL: 126,
  GELU: 150,
};

/** BuiltinOptions, with what is written into each: field, value and its kind. */
const OPTIONS = {
  softmax: { type: 9, write: (b: Builder) => table(b, 1, () => b.addFieldFloat32(0, 1, 0)) }, // beta
  concatRows: { type: 10, write: (b: Builder) => table(b, 2, () => b.addFieldInt32(0, 0, 0)) }, // axis
  concatColumns: { type: 10, write: (b: Builder) => table(b, 2, () => b.addFieldInt32(0, 1, 0)) },
  keepDims: { type: 27, write: (b: Builder) => table(b, 1, () => b.addFieldInt8(0, 1, 0)) },
  timesTransposed: { type: 101, write: (b: Builder) => table(b, 3, () => b.addFieldInt8(1, 1, 0)) }, // adj_y
};

/** TensorType */
const FLOAT32 = 0;
const INT32 = 2;
const INT8 = 9;

/** Input [1, 3, height, width], output [1, classes]. One prefix token. */
export function writeTflite(model: Model): Uint8Array {
  const { imageSize, patchSize: p, embedDim, prefixTokens, blocks } = model.manifest;
  const g = new Network(model);
  const pixels = g.tensor("pixels", [1, 3, ...imageSize], FLOAT32);
  const [rows, columns] = patchGrid(model.manifest);
  let patches = g.transpose(g.reshape(pixels, [3, rows, p, columns, p]), [1, 3, 0, 2, 4]);
  patches = g.reshape(patches, [rows * columns, 3 * p * p]);
  let alive = blocks[0].keepIdx;
  if (alive.length < rows * columns + prefixTokens) {
    patches = g.gather(
      patches,
      alive.slice(prefixTokens).map((token) => token - prefixTokens),
    );
  }
  const position = float32(model.tensors, "pos_embed");
  const cls = float32(model.tensors, "cls_token").map((v, d) => v + position[d]);
  const offsets = Float32Array.from({ length: (alive.length - 1) * embedDim }, (_, i) => {
    return position[alive[1 + Math.floor(i / embedDim)] * embedDim + (i % embedDim)];
  });
  const content = g.op(
    OP.ADD,
    [g.linear(patches, "patch_embed.proj"), g.floats(offsets, [alive.length - 1, embedDim])],
    [alive.length - 1, embedDim],
  );
  let x = g.op(OP.CONCATENATION, [g.floats(cls, [1, embedDim]), content], [alive.length, embedDim], "concatRows");
  blocks.forEach((block, i) => {
    if (block.keepIdx.length < alive.length) {
      const row = new Map(alive.map((token, k) => [token, k]));
      x = g.gather(
        x,
        block.keepIdx.map((token) => row.get(token)!),
      );
    }
    alive = block.keepIdx;
    const context = x;
    if (i === blocks.length - 1) x = g.slice(x, [0, 0], [1, embedDim]); // only the class token leaves the last block
    x = g.add(x, attend(g, model, block, `blocks.${i}`, x, context));
    x = g.add(x, mlp(g, block, `blocks.${i}`, x));
  });
  return g.finish(pixels, g.linear(g.norm(x, "norm"), "head"));
}

function attend(g: Network, { manifest }: Model, block: BlockShape, at: string, x: number, context: number): number {
  const { headDims } = block;
  if (headDims.length === 0) return g.weight(`${at}.attn.proj.bias`);
  const inner = innerDim(block);
  const [n, m] = [g.shape(x)[0], g.shape(context)[0]];
  const normed = g.norm(context, `${at}.norm1`);
  const first = x === context ? normed : g.slice(normed, [0, 0], [n, manifest.embedDim]);
  const scale = 1 / Math.sqrt(manifest.headDim);
  const [q, k, v] = [first, normed, normed].map((rows, part) =>
    g.linear(rows, `${at}.attn.qkv`, [part * inner, (part + 1) * inner], part === 0 ? scale : 1),
  );
  const width = headDims[0];
  let mixed: number;
  if (headDims.every((other) => other === width)) {
    const h = headDims.length;
    const split = (rows: number, count: number) => g.transpose(g.reshape(rows, [count, h, width]), [1, 0, 2]);
    const scores = g.op(OP.BATCH_MATMUL, [split(q, n), split(k, m)], [h, n, m], "timesTransposed");
    const shares = g.op(OP.SOFTMAX, [scores], [h, n, m], "softmax");
    const heads = g.op(OP.BATCH_MATMUL, [shares, split(v, m)], [h, n, width]);
    mixed = g.reshape(g.transpose(heads, [1, 0, 2]), [n, inner]);
  } else {
    let channel = 0;
    const heads = headDims.map((wide) => {
      const part = (rows: number, count: number) =>
        g.reshape(g.slice(rows, [0, channel], [count, wide]), [1, count, wide]);
      const scores = g.op(OP.BATCH_MATMUL, [part(q, n), part(k, m)], [1, n, m], "timesTransposed");
      const head = g.op(OP.BATCH_MATMUL, [g.op(OP.SOFTMAX, [scores], [1, n, m], "softmax"), part(v, m)], [1, n, wide]);
      channel += wide;
      return g.reshape(head, [n, wide]);
    });
    mixed = heads.length === 1 ? heads[0] : g.op(OP.CONCATENATION, heads, [n, inner], "concatColumns");
  }
  return g.linear(mixed, `${at}.attn.proj`);
}

function mlp(g: Network, { mlpHidden }: BlockShape, at: string, x: number): number {
  if (mlpHidden === 0) return g.weight(`${at}.mlp.fc2.bias`);
  const hidden = g.linear(g.norm(x, `${at}.norm2`), `${at}.mlp.fc1`);
  return g.linear(g.op(OP.GELU, [hidden], g.shape(hidden)), `${at}.mlp.fc2`);
}

interface TensorDraft {
  name: string;
  shape: number[];
  type: number;
  data?: Uint8Array;
  scale?: Float32Array;
}

interface OperatorDraft {
  code: number;
  inputs: number[];
  output: number;
  options?: keyof typeof OPTIONS;
}

class Network {
  private readonly tensors: TensorDraft[] = [];
  private readonly operators: OperatorDraft[] = [];

  constructor(private readonly model: Model) {}

  shape(tensor: number): number[] {
    return this.tensors[tensor].shape;
  }

  tensor(name: string, shape: number[], type: number, data?: Uint8Array, scale?: Float32Array): number {
    return this.tensors.push({ name, shape, type, data, scale }) - 1;
  }

  op(code: number, inputs: number[], shape: number[], options?: keyof typeof OPTIONS): number {
    const output = this.tensor(`t${this.tensors.length}`, shape, FLOAT32);
    this.operators.push({ code, inputs, output, options });
    return output;
  }

  floats(values: Float32Array, shape: number[]): number {
    return this.tensor(`c${this.tensors.length}`, shape, FLOAT32, bytesOf(values));
  }

  private integers(values: number[]): number {
    return this.tensor(`c${this.tensors.length}`, [values.length], INT32, bytesOf(Int32Array.from(values)));
  }

  weight(key: string): number {
    const values = float32(this.model.tensors, key);
    return this.floats(values, [values.length]);
  }

  /** Rows `from` to `to` of a linear's outputs, times `factor`. */
  linear(x: number, key: string, range?: [number, number], factor = 1): number {
    const { tensors } = this.model;
    const bias = float32(tensors, `${key}.bias`);
    const [from, to] = range ?? [0, bias.length];
    const stored = tensors.get(`${key}.weight`)!;
    const inputs = stored.data.length / bias.length;
    const shape = [to - from, inputs];
    const scaled = (values: Float32Array) => values.map((v) => v * factor);
    let weight: number;
    if (stored.dtype === "I8" && tensors.has(`${key}.scale`)) {
      const levels = (stored.data as Int8Array).slice(from * inputs, to * inputs);
      const scale = scaled(float32(tensors, `${key}.scale`).slice(from, to)).map((v) => v || 1e-12); // zero is refused
      weight = this.tensor(`${key}.${from}`, shape, INT8, bytesOf(levels), scale);
    } else {
      weight = this.floats(scaled(float32(tensors, `${key}.weight`).slice(from * inputs, to * inputs)), shape);
    }
    const offset = this.floats(scaled(bias.slice(from, to)), [to - from]);
    return this.op(OP.FULLY_CONNECTED, [x, weight, offset], [this.shape(x)[0], to - from]);
  }

  norm(x: number, key: string): number {
    const [n, dim] = this.shape(x);
    const mean = (v: number) => this.op(OP.MEAN, [v, this.integers([1])], [n, 1], "keepDims");
    const centred = this.op(OP.SUB, [x, mean(x)], [n, dim]);
    const variance = mean(this.op(OP.MUL, [centred, centred], [n, dim]));
    const eps = this.floats(Float32Array.of(this.model.manifest.layerNormEps), [1, 1]);
    const inverse = this.op(OP.RSQRT, [this.op(OP.ADD, [variance, eps], [n, 1])], [n, 1]);
    const normed = this.op(OP.MUL, [centred, inverse], [n, dim]);
    const gained = this.op(OP.MUL, [normed, this.weight(`${key}.weight`)], [n, dim]);
    return this.op(OP.ADD, [gained, this.weight(`${key}.bias`)], [n, dim]);
  }

  add(x: number, y: number): number {
    return this.op(OP.ADD, [x, y], this.shape(x));
  }

  reshape(x: number, shape: number[]): number {
    return this.op(OP.RESHAPE, [x, this.integers(shape)], shape);
  }

  transpose(x: number, order: number[]): number {
    const shape = this.shape(x);
    return this.op(
      OP.TRANSPOSE,
      [x, this.integers(order)],
      order.map((axis) => shape[axis]),
    );
  }

  gather(x: number, rows: number[]): number {
    return this.op(OP.GATHER, [x, this.integers(rows)], [rows.length, this.shape(x)[1]]);
  }

  slice(x: number, begin: number[], size: number[]): number {
    return this.op(OP.SLICE, [x, this.integers(begin), this.integers(size)], size);
  }

  finish(input: number, output: number): Uint8Array {
    const b = new Builder(1 << 20);
    const buffers = this.tensors.map(({ data }) => {
      if (!data) return 0; // buffer 0 is the empty one
      b.prep(16, data.length); // the runtime reads weights in place
      const vector = b.createByteVector(data);
      return table(b, 3, () => b.addFieldOffset(0, vector, 0));
    });
    const empty = table(b, 3, () => {});
    const held = buffers.filter(Boolean);
    const index = new Map(held.map((offset, k) => [offset, k + 1]));
    const bufferList = offsets(b, [empty, ...held]);

    const tensorList = offsets(
      b,
      this.tensors.map(({ name, shape, type, scale }, t) => {
        const label = b.createString(name);
        const sizes = integers(b, shape);
        const quantisation = scale && quantised(b, scale);
        return table(b, 9, () => {
          b.addFieldOffset(0, sizes, 0);
          b.addFieldInt8(1, type, 0);
          b.addFieldInt32(2, index.get(buffers[t]) ?? 0, 0);
          b.addFieldOffset(3, label, 0);
          if (quantisation) b.addFieldOffset(4, quantisation, 0);
        });
      }),
    );
    const codes = [...new Set(this.operators.map(({ code }) => code))];
    const operatorList = offsets(
      b,
      this.operators.map(({ code, inputs, output, options }) => {
        const from = integers(b, inputs);
        const to = integers(b, [output]);
        const details = options && OPTIONS[options].write(b);
        return table(b, 5, () => {
          b.addFieldInt32(0, codes.indexOf(code), 0);
          b.addFieldOffset(1, from, 0);
          b.addFieldOffset(2, to, 0);
          if (options) b.addFieldInt8(3, OPTIONS[options].type, 0);
          if (details) b.addFieldOffset(4, details, 0);
        });
      }),
    );
    const ends = [input, output].map((tensor) => integers(b, [tensor]));
    const subgraph = table(b, 5, () => {
      b.addFieldOffset(0, tensorList, 0);
      b.addFieldOffset(1, ends[0], 0);
      b.addFieldOffset(2, ends[1], 0);
      b.addFieldOffset(3, operatorList, 0);
    });
    const codeList = offsets(
      b,
      codes.map((code) =>
        table(b, 4, () => {
          b.addFieldInt8(0, Math.min(code, 127), 0); // where older readers look
          b.addFieldInt32(2, 1, 1);
          b.addFieldInt32(3, code, 0);
        }),
      ),
    );
    const subgraphs = offsets(b, [subgraph]);
    const root = table(b, 5, () => {
      b.addFieldInt32(0, 3, 0); // the schema's version
      b.addFieldOffset(1, codeList, 0);
      b.addFieldOffset(2, subgraphs, 0);
      b.addFieldOffset(4, bufferList, 0);
    });
    b.finish(root, "TFL3");
    return b.asUint8Array();
  }
}

/** Symmetric, a scale an output channel. */
function quantised(b: Builder, scale: Float32Array): number {
  b.startVector(4, scale.length, 4);
  for (let i = scale.length - 1; i >= 0; i--) b.addFloat32(scale[i]);
  const scales = b.endVector();
  b.startVector(8, scale.length, 8);
  for (let i = 0; i < scale.length; i++) b.addInt64(0n);
  const zeros = b.endVector();
  return table(b, 7, () => {
    b.addFieldOffset(2, scales, 0);
    b.addFieldOffset(3, zeros, 0);
  });
}

function table(b: Builder, fields: number, fill: () => void): number {
  b.startObject(fields);
  fill();
  return b.endObject();
}

function offsets(b: Builder, values: number[]): number {
  b.startVector(4, values.length, 4);
  for (let i = values.length - 1; i >= 0; i--) b.addOffset(values[i]);
  return b.endVector();
}

function integers(b: Builder, values: number[]): number {
  b.startVector(4, values.length, 4);
  for (let i = values.length - 1; i >= 0; i--) b.addInt32(values[i]);
  return b.endVector();
}

function bytesOf(values: Float32Array | Int32Array | Int8Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
}
