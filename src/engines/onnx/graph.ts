/**
 * A `Model` → the bytes of an ONNX file that runs the slim network. Dropped tokens are removed by gathers; dropped
 * channels and heads are not in the graph. Activations are [batch × tokens, channels] matrices, every linear is one Gemm
 * on the weights as they are stored, and the arithmetic is that of src/reference/forward.ts.
 */
import { SlimViTError } from "../../errors.ts";
import { featureDim, lastRows, type Model, patchGrid } from "../../format/model.ts";
import type { MergePairs } from "../../reference/merge.ts";
import { attend } from "./attention.ts";
import { Graph, type GraphOptions } from "./builder.ts";
import { Layers, type Matrix } from "./layers.ts";
import { halvesOf, mergeTokens } from "./merge.ts";
import { classify } from "./pooling.ts";
import { keepTokens, startStream } from "./stream.ts";

export { Layers, type LinearOptions, type Matrix } from "./layers.ts";
export { QuantisedLayers } from "./quantised.ts";

/** protobuf's own limit in bytes, less what the graph itself may need */
const MAX_WEIGHT_BYTES = 2 ** 31 - 2 ** 24;

/** The input's name in transformers and transformers.js. */
export const INPUT = "pixel_values";

export interface OnnxOptions extends GraphOptions {
  /**
   * Further outputs, by block: `attention.0` [batch, tokens], of blocks with heads, and `target.0` [batch, 1, A], of blocks that merge (`mergeTokens`).
   */
  explain?: boolean;
  /** A network without a head outputs its features a second time as `image_embeds`, which transformers.js looks for. */
  alsoImageEmbeds?: boolean;
  /** For each block the pairs that must merge, instead of the most similar ones. For graphs of a single picture. */
  forcedPairs?: MergePairs[];
  /** the file's own, by name */
  metadata?: Record<string, string>;
  /** A class that writes linears in another form: quantised ones, and those of benchmarks. */
  layers?: new (
    graph: Graph,
    model: Model,
  ) => Layers;
}

/**
 * Input `pixel_values` [batch, 3, height, width]; outputs `logits` [batch, classes], absent without a head, and `features`
 * [batch, featureDim], all f32. The batch is one picture unless `freeBatch` leaves it open.
 *
 * @throws SlimViTError `unsupported` past 2 GB
 */
export function writeOnnx(model: Model, options: OnnxOptions = {}): Uint8Array {
  const { manifest } = model;
  checkSize(model);
  const graph = new Graph(options);
  const layers = new (options.layers ?? Layers)(graph, model);
  const explained: Parameters<Graph["output"]>[] = [];

  graph.input(INPUT, [3, ...manifest.imageSize]);
  const pixels = graph.narrow(INPUT);
  let stream = startStream(layers, embed(layers, pixels), manifest.blocks[0].keepIdx);
  manifest.blocks.forEach((block, i) => {
    stream = keepTokens(layers, stream, block.keepIdx);
    const { tokens } = stream.x;
    // In the last block, tokens that the pooling does not read serve as keys and values only.
    const read = i === manifest.blocks.length - 1 ? lastRows(manifest) : tokens;
    let x = layers.first(stream.x, read);
    let keys: Matrix[] = [];
    if (block.headDims.length) {
      const attended = attend(layers, i, stream, read, options.explain === true);
      x = layers.add(x, attended.output.name);
      keys = attended.keys;
      if (attended.map) explained.push([`attention.${i}`, attended.map, [tokens]]);
    } else x = layers.add(x, layers.vector(`blocks.${i}.attn.proj.bias`));
    stream = { ...stream, x };
    if (block.merge) {
      const merged = mergeTokens(layers, stream, keys, block.merge, options.forcedPairs?.[i]);
      const ofA = halvesOf(tokens, manifest.prefixTokens)[0].length;
      explained.push([`target.${i}`, merged.target, [1, ofA], true]);
      stream = merged.stream;
    }
    stream.x = layers.add(stream.x, mlp(layers, i, stream.x));
  });

  const { features, logits } = classify(layers, stream);
  if (logits) graph.output("logits", logits.name, [manifest.labels.length]);
  graph.output("features", features.name, [featureDim(manifest)]);
  if (options.alsoImageEmbeds && !logits) graph.output("image_embeds", features.name, [featureDim(manifest)]);
  if (options.explain) for (const output of explained) graph.output(...output);
  return graph.finish(options.metadata, layers.domains);
}

function checkSize({ manifest, tensors }: Model): void {
  let bytes = 0;
  for (const { data } of tensors.values()) bytes += 4 * data.length;
  if (bytes <= MAX_WEIGHT_BYTES) return;
  throw new SlimViTError(
    "unsupported",
    `${manifest.name}: needs ${bytes} bytes of f32 weights; an ONNX file ends at 2 GB.`,
  );
}

/**
 * The tokens of the first block: prefix tokens, whose values are constants, and the kept patches with their positions.
 */
function embed(layers: Layers, pixels: string): Matrix {
  const { graph, model } = layers;
  const { embedDim, prefixTokens, blocks, preNorm, normEps } = model.manifest;
  const { keepIdx } = blocks[0];
  const position = layers.values("pos_embed");
  const prefix = prefixTokens ? [prefixRows(layers, position, pixels)] : [];
  const patches = keepIdx.slice(prefixTokens);
  if (patches.length === 0) return layers.matrix(prefix[0], prefixTokens, embedDim);
  const offset = new Float32Array(patches.length * embedDim);
  patches.forEach((token, k) => {
    offset.set(position.subarray(token * embedDim, (token + 1) * embedDim), k * embedDim);
  });
  const content = layers.linear(patchPixels(layers, pixels), "patch_embed.proj");
  const placed = graph.op(
    "Add",
    layers.pictures(content),
    graph.floats("positions", offset, [1, patches.length, embedDim]),
  );
  let x = layers.matrix(placed, patches.length, embedDim);
  if (preNorm) x = layers.norm(x, "norm_pre", normEps?.pre);
  if (!prefixTokens) return x;
  return layers.matrix(graph.concat([...prefix, layers.pictures(x)], 1), keepIdx.length, embedDim);
}

/** [batch, prefixTokens, embedDim]: class token, distillation token and registers, with their positions */
function prefixRows(layers: Layers, position: Float32Array, pixels: string): string {
  const { graph, model } = layers;
  const { prefixTokens, embedDim } = model.manifest;
  const values = position.slice(0, prefixTokens * embedDim);
  let at = 0;
  for (const key of ["cls_token", "dist_token", "reg_token"]) {
    if (!model.tensors.has(key)) continue;
    for (const value of layers.values(key)) values[at++] += value;
  }
  const rows = graph.floats("prefix", values, [1, prefixTokens, embedDim]);
  if (!graph.options.freeBatch) return rows;
  const batch = graph.slice(graph.op("Shape", pixels), 0, 1, 0);
  return graph.op("Expand", rows, graph.concat([batch, graph.integers([prefixTokens, embedDim])], 0));
}

/** The pixels of each kept patch, in the order of the patch embedding's weights. */
function patchPixels({ graph, model }: Layers, pixels: string): Matrix {
  const { patchSize: p, prefixTokens, blocks } = model.manifest;
  const [rows, columns] = patchGrid(model.manifest);
  const width = 3 * p * p;
  const kept = blocks[0].keepIdx.slice(prefixTokens).map((token) => token - prefixTokens);
  const tiles = graph.transpose(graph.reshape(pixels, [-1, 3, rows, p, columns, p]), [0, 2, 4, 1, 3, 5]);
  const isAll = kept.length === rows * columns;
  const values = isAll ? tiles : graph.pick(graph.reshape(tiles, [-1, rows * columns, width]), kept, 1);
  return { name: graph.reshape(values, [-1, width]), tokens: kept.length, width };
}

/** The MLP. Without hidden units its output is fc2's bias. */
function mlp(layers: Layers, i: number, x: Matrix): string {
  const { graph, model } = layers;
  const { blocks, activation, mlp: kind, hiddenNorm, normEps } = model.manifest;
  const { mlpHidden } = blocks[i];
  const at = `blocks.${i}.mlp`;
  if (mlpHidden === 0) return layers.vector(`${at}.fc2.bias`);
  const normed = layers.norm(x, `blocks.${i}.norm2`);
  const units = (part: number) =>
    layers.linear(normed, `${at}.fc1`, { rows: [part * mlpHidden, (part + 1) * mlpHidden] });
  let hidden = layers.activate(kind === "swiglu" ? units(0) : layers.linear(normed, `${at}.fc1`), activation);
  if (kind === "swiglu") hidden = { ...hidden, name: graph.op("Mul", hidden.name, units(1).name) };
  if (hiddenNorm) hidden = layers.norm(hidden, `${at}.norm`, normEps?.hidden, hiddenNorm);
  return layers.linear(hidden, `${at}.fc2`).name;
}
