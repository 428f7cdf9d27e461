/**
 * A `Model` → an MLGraph of the slim network. Activations are [tokens, channels] matrices, every linear is one gemm on
 * the weights as they are stored, and the arithmetic is that of src/reference/forward.ts.
 */
import { type Architecture, lastRows, type Model } from "../../format/model.ts";
import { attend } from "./attention.ts";
import type { GraphBuilder } from "./builder.ts";
import { Layers } from "./layers.ts";
import { classify } from "./pooling.ts";
import { coordinatesOf, keepTokens, mergeTokens, type Stream } from "./stream.ts";

export const INPUT = "patches";

export interface Network {
  /** [1, classes]; absent without a head */
  logits?: MLOperand;
  /** [1, featureDim] */
  features: MLOperand;
  /** by block, where asked for; a block without heads has none */
  maps: (MLOperand | undefined)[];
  /** by block that merges, where asked for: `mergeTokens` says what */
  rows: (MLOperand | undefined)[];
}

/** Patches that the first block keeps, by their number in the grid. */
export function keptPatches({ blocks, prefixTokens }: Architecture): number[] {
  return blocks[0].keepIdx.slice(prefixTokens).map((token) => token - prefixTokens);
}

/** @param explain also gives `maps` and `rows` */
export function writeNetwork(graph: GraphBuilder, model: Model, explain = false): Network {
  const layers = new Layers(graph, model);
  const { manifest } = model;
  const { blocks } = manifest;
  const [maps, rows]: [Network["maps"], Network["rows"]] = [[], []];
  const alive = blocks[0].keepIdx;
  let stream: Stream = { x: embed(layers), alive, coordinates: coordinatesOf(graph, manifest, alive) };
  blocks.forEach((block, i) => {
    stream = keepTokens(graph, manifest, stream, block.keepIdx);
    const read = i === blocks.length - 1 ? lastRows(manifest) : stream.x.shape[0];
    let keys: MLOperand | undefined;
    let added: MLOperand;
    if (block.headDims.length) {
      const attended = attend(layers, i, stream, read, explain);
      keys = attended.keys;
      added = attended.output;
      maps[i] = attended.map;
    } else added = layers.vector(`blocks.${i}.attn.proj.bias`);
    // In the last block, tokens that the pooling does not read serve as keys and values only.
    const x = graph.slice(stream.x, [0, 0], [read, manifest.embedDim]);
    stream.x = graph.op("add", x, added);
    if (block.merge) {
      const merged = mergeTokens(layers, stream, keys!, block);
      stream = merged.stream;
      rows[i] = merged.rows;
    }
    stream.x = graph.op("add", stream.x, mlp(layers, i, stream.x));
  });
  const { features, logits } = classify(layers, stream);
  return { features, logits, maps, rows };
}

/** [keepIdx.length, embedDim] of the first block: prefix tokens, whose values are constants, and the kept patches. */
function embed(layers: Layers): MLOperand {
  const { graph, model } = layers;
  const { embedDim, patchSize, prefixTokens, preNorm, normEps } = model.manifest;
  const patches = keptPatches(model.manifest);
  const position = layers.values("pos_embed");
  const parts: MLOperand[] = [];
  if (prefixTokens) parts.push(graph.floats("prefix", [prefixTokens, embedDim], () => prefixOf(layers, position)));
  if (patches.length) {
    const offset = new Float32Array(patches.length * embedDim);
    patches.forEach((patch, k) => {
      const at = (patch + prefixTokens) * embedDim;
      offset.set(position.subarray(at, at + embedDim), k * embedDim);
    });
    const pixels = graph.input(INPUT, [patches.length, 3 * patchSize * patchSize]);
    const content = layers.linear(pixels, "patch_embed.proj");
    const positions = graph.floats("positions", [patches.length, embedDim], () => offset);
    const x = graph.op("add", content, positions);
    parts.push(preNorm ? layers.norm(x, "norm_pre", normEps?.pre) : x);
  }
  return graph.concat(parts, 0);
}

function prefixOf(layers: Layers, position: Float32Array): Float32Array {
  const { tensors, manifest } = layers.model;
  const out = position.slice(0, manifest.prefixTokens * manifest.embedDim);
  let at = 0;
  for (const key of ["cls_token", "dist_token", "reg_token"]) {
    if (!tensors.has(key)) continue;
    for (const value of layers.values(key)) out[at++] += value;
  }
  return out;
}

/** The MLP. Without hidden units its output is fc2's bias. */
function mlp(layers: Layers, i: number, x: MLOperand): MLOperand {
  const { graph, model } = layers;
  const { blocks, activation, mlp: kind, hiddenNorm, normEps } = model.manifest;
  const { mlpHidden } = blocks[i];
  const at = `blocks.${i}.mlp`;
  if (mlpHidden === 0) return layers.vector(`${at}.fc2.bias`);
  const normed = layers.norm(x, `blocks.${i}.norm2`);
  const units = (part: number) =>
    layers.linear(normed, `${at}.fc1`, { rows: [part * mlpHidden, (part + 1) * mlpHidden] });
  let hidden = layers.activate(units(0), activation);
  if (kind === "swiglu") hidden = graph.op("mul", hidden, units(1));
  if (hiddenNorm) hidden = layers.norm(hidden, `${at}.norm`, normEps?.hidden, hiddenNorm);
  return layers.linear(hidden, `${at}.fc2`);
}
