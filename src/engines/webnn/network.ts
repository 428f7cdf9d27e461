/**
 * A `Model` → an MLGraph of the slim network. Activations are [tokens, channels] matrices, every linear is one gemm over the
 * weights as they are stored, and the arithmetic is that of src/reference/forward.ts.
 */
import { type BlockShape, innerDim, type Manifest, type Model } from "../../format/model.ts";
import type { GraphBuilder } from "./builder.ts";
import { Layers } from "./layers.ts";

export const INPUT = "patches";

/** Patches that the first block keeps, by their number in the grid. */
export function keptPatches({ blocks, prefixTokens }: Manifest): number[] {
  return blocks[0].keepIdx.slice(prefixTokens).map((token) => token - prefixTokens);
}

/** @returns [1, classes] and [1, embedDim] */
export function writeNetwork(graph: GraphBuilder, model: Model): { logits: MLOperand; features: MLOperand } {
  const layers = new Layers(graph, model);
  const { prefixTokens, blocks } = model.manifest;
  let alive = blocks[0].keepIdx;
  let x = embed(layers, keptPatches(model.manifest));
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
    const read = i === blocks.length - 1 ? prefixTokens : alive.length;
    const context = x;
    x = prefix(graph, x, read);
    x = graph.op("add", x, attend(layers, block, `blocks.${i}`, context, read));
    x = graph.op("add", x, mlp(layers, block, `blocks.${i}`, x));
  });
  const tokens = layers.norm(x, "norm");
  const features = prefix(graph, tokens, 1);
  let logits = layers.linear(features, "head");
  if (prefixTokens === 2) {
    const distilled = layers.linear(graph.rows(tokens, [1]), "head_dist");
    logits = graph.op("mul", graph.op("add", logits, distilled), graph.scalar(0.5));
  }
  return { logits, features };
}

function prefix(graph: GraphBuilder, x: MLOperand, rows: number): MLOperand {
  return graph.slice(x, [0, 0], [rows, x.shape[1]]);
}

/** [keepIdx.length, embedDim] of the first block: prefix tokens, whose values are constants, and the kept patches. */
function embed(layers: Layers, patches: number[]): MLOperand {
  const { graph, model } = layers;
  const { embedDim, patchSize, prefixTokens } = model.manifest;
  const position = layers.values("pos_embed");
  const start = new Float32Array(prefixTokens * embedDim);
  start.set(layers.values("cls_token"));
  if (prefixTokens === 2) start.set(layers.values("dist_token"), embedDim);
  const first = graph.floats("prefix", [prefixTokens, embedDim], () => start.map((v, i) => v + position[i]));
  if (patches.length === 0) return first;
  const offset = new Float32Array(patches.length * embedDim);
  patches.forEach((patch, k) => {
    const at = (patch + prefixTokens) * embedDim;
    offset.set(position.subarray(at, at + embedDim), k * embedDim);
  });
  const pixels = graph.input(INPUT, [patches.length, 3 * patchSize * patchSize]);
  const content = layers.linear(pixels, "patch_embed.proj");
  const placed = graph.op(
    "add",
    content,
    graph.floats("positions", [patches.length, embedDim], () => offset),
  );
  return graph.concat([first, placed], 0);
}

/**
 * Self-attention of the first `read` tokens over all, mixed by proj; without heads, proj's bias alone. A key's bias adds the
 * same to all scores of a query, which softmax takes out again. A value's bias passes through, as the weights of a mean sum
 * to 1, so it is added where proj adds its own.
 */
function attend(layers: Layers, block: BlockShape, at: string, context: MLOperand, read: number): MLOperand {
  const { headDims } = block;
  const inner = innerDim(block);
  if (inner === 0) return layers.vector(`${at}.attn.proj.bias`);
  const { graph } = layers;
  const scale = graph.scalar(1 / Math.sqrt(layers.model.manifest.headDim));
  const keys = layers.norm(context, `${at}.norm1`);
  const queries = prefix(graph, keys, read);
  const qkv = `${at}.attn.qkv`;
  const tokens = context.shape[0];
  const width = headDims[0];
  let mixed: MLOperand;
  if (headDims.length > 1 && headDims.every((other) => other === width)) {
    const part = (x: MLOperand, k: number, permutation: number[], bias?: null) => {
      const rows = layers.linear(x, qkv, [k * inner, (k + 1) * inner], bias);
      return graph.op("transpose", graph.reshape(rows, [x.shape[0], headDims.length, width]), { permutation });
    };
    const q = graph.op("mul", part(queries, 0, [1, 0, 2]), scale);
    const scores = graph.op("matmul", q, part(keys, 1, [1, 2, 0], null));
    const heads = graph.op("matmul", graph.op("softmax", scores, 2), part(keys, 2, [1, 0, 2], null));
    mixed = graph.reshape(graph.op("transpose", heads, { permutation: [1, 0, 2] }), [read, inner]);
  } else {
    let first = 0;
    const heads = headDims.map((channels) => {
      const part = (x: MLOperand, k: number, bias?: null) =>
        layers.linear(x, qkv, [k * inner + first, k * inner + first + channels], bias);
      const [q, k, v] = [graph.op("mul", part(queries, 0), scale), part(keys, 1, null), part(keys, 2, null)];
      first += channels;
      const scores = graph.op("matmul", q, graph.op("transpose", k, { permutation: [1, 0] }));
      return graph.op("matmul", graph.op("softmax", scores, 1), v);
    });
    mixed = graph.concat(heads, 1);
  }
  void tokens;
  return layers.linear(mixed, `${at}.attn.proj`, undefined, foldValueBias(layers, at, inner));
}

/** proj's bias and what proj makes of the values' biases. */
function foldValueBias(layers: Layers, at: string, inner: number): Float32Array {
  const values = layers.values(`${at}.attn.qkv.bias`).subarray(2 * inner);
  const weight = layers.values(`${at}.attn.proj.weight`);
  return layers.values(`${at}.attn.proj.bias`).map((bias, row) => {
    let sum = bias;
    for (let i = 0; i < inner; i++) sum += weight[row * inner + i] * values[i];
    return sum;
  });
}

/** Without hidden units, fc2's bias alone. */
function mlp(layers: Layers, { mlpHidden }: BlockShape, at: string, x: MLOperand): MLOperand {
  if (mlpHidden === 0) return layers.vector(`${at}.mlp.fc2.bias`);
  const hidden = layers.gelu(layers.linear(layers.norm(x, `${at}.norm2`), `${at}.mlp.fc1`));
  return layers.linear(hidden, `${at}.mlp.fc2`);
}
