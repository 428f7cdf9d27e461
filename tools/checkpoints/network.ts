/** Tensors with timm's names and a description → the network in the form of the format. */
import { SlimViTError } from "../../src/errors.ts";
import {
  type Architecture,
  denseTokens,
  type FinalNorm,
  PLAIN,
  type Tensors,
  tensorShapes,
} from "../../src/format/model.ts";
import { layerNorm } from "../../src/reference/ops.ts";
import { addBlock } from "./block.ts";
import type { Description } from "./description.ts";
import type { Draft } from "./draft.ts";
import { concat, foldProbe, project, transpose } from "./fold.ts";
import { checkSize, storedGrid } from "./grid.ts";
import { hasFusedGate } from "./names.ts";
import { joinBranches } from "./parallel.ts";
import { joinAxes, relativeTable, relativeTableOfMlp, ropeGrid } from "./positions.ts";
import { resamplePositions } from "./resize.ts";
import type { Weights } from "./weights.ts";

export interface Network {
  arch: Architecture;
  tensors: Tensors;
  /** 0 of an embedding model */
  classes: number;
}

/** Every name that import supports. Other tensors are refused before any shape is read. */
const KNOWN = new RegExp(
  "^(?:(?:cls|dist|reg)_token|pos_embed(?:\\.[xy])?|rel_table|logit_scale|logit_bias|rope\\.freqs|projection\\.(?:weight|transposed)|" +
    "patch_embed\\.linear\\.weight|attn_pool\\.latent|rel_mlp\\.fc[12]\\.(?:weight|bias)|" +
    "(?:patch_embed\\.proj|norm_pre|norm|fc_norm|pooler|head|head_dist|attn_pool\\.(?:q|k|v|kv|in_proj|proj|norm|mlp\\.fc[12]))\\.(?:weight|bias)|" +
    "blocks\\.\\d+\\.(?:norm[12]|attn\\.(?:qkv|[qkv]|proj|q_norm|k_norm)|mlp\\.(?:fc1|fc2|gate|up|norm))\\.(?:weight|bias)|" +
    "blocks\\.\\d+\\.(?:ls[12]\\.gamma|attn\\.rel_table|attn\\.rel_mlp\\.fc[12]\\.(?:weight|bias))|" +
    "blocks\\.\\d+\\.(?:attns|ffns)\\.\\d+\\.(?:norm|attn\\.qkv|attn\\.proj|mlp\\.fc[12])\\.(?:weight|bias)|" +
    "blocks\\.\\d+\\.(?:attns|ffns)\\.\\d+\\.ls\\.gamma)$",
);

export function refuseUnknownTensors(weights: Weights): void {
  refuseLeft(
    weights,
    weights.names().filter((name) => !KNOWN.test(name)),
  );
}

function refuseLeft({ source }: Weights, names: string[]): void {
  if (!names.length) return;
  const more = names.length > 1 ? ` (nor do ${names.length - 1} more)` : "";
  throw new SlimViTError("unsupported", `${source}: tensor "${names[0]}" belongs to no plain ViT or DeiT${more}.`);
}

/** @param given --image-size: positions are resampled where it is not the checkpoint's own */
export function buildNetwork(weights: Weights, described: Description, given?: [number, number]): Network {
  const depth = countBlocks(weights, described);
  const { embedDim, patchSize } = patchEmbedding(weights);
  joinAxes(weights);
  const branches = joinBranches(weights, embedDim, depth);
  const arch: Architecture = {
    ...baseArchitecture(weights, described, embedDim, patchSize),
    ...headsOf(weights, described, branches),
  };
  const stored = storedGrid(weights, described, patchSize, arch.prefixTokens, given);
  arch.imageSize = given ?? stored.imageSize;
  checkSize(arch.imageSize, patchSize, weights.source);
  const grid: [number, number] = [arch.imageSize[0] / patchSize, arch.imageSize[1] / patchSize];
  if (described.rope) arch.rope = ropeGrid(described.rope, grid);
  const draft: Draft = { weights, described, arch, tensors: new Map(), stored };
  addTokens(draft, grid);
  const freqs = weights.has("rope.freqs") ? weights.take("rope.freqs").data : undefined;
  const shared = sharedRelative(draft, described.heads! * branches, grid);
  const keepIdx = Array.from({ length: denseTokens(arch) }, (_, token) => token);
  for (let i = 0; i < depth; i++) addBlock(draft, i, depth, { keepIdx, grid, freqs, shared });
  const classes = addHead(draft);
  refuseLeft(weights, weights.names());
  return { arch, tensors: ordered(draft.tensors, arch, classes, weights), classes };
}

/** @throws SlimViTError `bad-model` for other blocks than the config states: the library would compute only those, or a part is missing */
function countBlocks(weights: Weights, { depth: stated }: Description): number {
  let depth = 0;
  const has = (i: number) => weights.has(`blocks.${i}.norm1.weight`) || weights.has(`blocks.${i}.attns.0.norm.weight`);
  while (has(depth)) depth++;
  if (depth && typeof stated === "number" && stated !== depth)
    throw weights.fault(
      `has ${depth} blocks, and its config says ${stated}. Correct the config, or give the whole checkpoint.`,
    );
  if (depth) return depth;
  throw weights.fault(
    `tensor "blocks.0.norm1.weight" is missing; expected timm, Hugging Face, torchvision or CLIP names.`,
  );
}

/**
 * Reads the patch embedding, also one that is a linear over flattened patches [out, height × width × channels], as in
 * NaFlexViT.
 */
function patchEmbedding(weights: Weights): { embedDim: number; patchSize: number } {
  const flat = "patch_embed.linear.weight";
  if (weights.has(flat)) {
    const { shape, data } = weights.take(flat);
    const [out, width] = shape;
    const side = Math.sqrt(width / 3);
    const area = side * side;
    const moved = data.map((_, k) => data[k - (k % width) + (k % area) * 3 + Math.floor((k % width) / area)]);
    weights.put("patch_embed.proj.weight", [out, 3, side, side], moved);
  }
  if (!weights.has("patch_embed.proj.weight"))
    throw weights.fault(
      'tensor "patch_embed.proj.weight" is missing; expected timm, Hugging Face, torchvision or CLIP names.',
    );
  const [embedDim, channels, patchSize, patchWidth] = weights.shape("patch_embed.proj.weight", 4);
  if (channels === 3 && patchSize === patchWidth) return { embedDim, patchSize };
  throw new SlimViTError(
    "unsupported",
    `${weights.source}: "patch_embed.proj.weight" is [${embedDim},${channels},${patchSize},${patchWidth}]; only square patches of RGB are supported.`,
  );
}

function baseArchitecture(weights: Weights, d: Description, embedDim: number, patchSize: number): Architecture {
  const classToken = weights.has("cls_token");
  const distilled = weights.has("dist_token") && weights.has("head_dist.weight");
  // A distillation token without a head of its own is one more register: Hugging Face's DeiTForImageClassification.
  const registers =
    (weights.has("reg_token") ? weights.shape("reg_token", 3)[1] : 0) + Number(weights.has("dist_token") && !distilled);
  if (d.skipsFinalNorm) for (const part of ["weight", "bias"]) weights.drop(`norm.${part}`);
  if (d.pooling !== "map") for (const name of weights.names()) if (name.startsWith("attn_pool.")) weights.drop(name);
  const [onTokens, onPooled] = [weights.has("norm.weight"), weights.has("fc_norm.weight")];
  const finalNorm: FinalNorm = onTokens ? (onPooled ? "both" : "tokens") : onPooled ? "pooled" : "none";
  const isRelative = weights.names().some((name) => /(^|\.)rel_(table|mlp\.fc1\.weight)$/.test(name));
  const isGated = weights.has("blocks.0.mlp.gate.weight") || hasFusedGate(weights);
  return {
    ...PLAIN,
    imageSize: [0, 0],
    patchSize,
    embedDim,
    headDim: 0,
    layerNormEps: d.layerNormEps,
    ...(d.normEps && { normEps: d.normEps }),
    prefixTokens: Number(classToken) + Number(distilled) + registers,
    classToken,
    distilled,
    pooling: d.pooling,
    finalNorm,
    activation: d.activation,
    mlp: isGated ? "swiglu" : "plain",
    preNorm: weights.has("norm_pre.weight"),
    qkNorm: weights.has("blocks.0.attn.q_norm.weight"),
    position: d.rope ? "rope" : isRelative ? "relative" : "learned",
    head: undefined,
    blocks: [],
  };
}

/** Width of the heads, from their number: the config's, or 64 channels each as in nearly every ViT. */
function headsOf(weights: Weights, d: Description, branches: number): { headDim: number } {
  const inner = weights.shape("blocks.0.attn.proj.weight", 2)[1] / branches;
  const { source } = weights;
  if (d.heads === undefined) {
    if (inner % 64)
      throw new SlimViTError(
        "bad-option",
        `${source}: the number of heads is not in the tensors, and ${inner} channels are no multiple of 64. Give --heads.`,
      );
    d.heads = inner / 64;
    d.assumed.push(`${d.heads} heads of 64 channels (timm's; --heads)`);
  }
  if (!Number.isInteger(d.heads) || d.heads < 1 || inner % d.heads)
    throw new SlimViTError("bad-option", `${source}: an embedding of ${inner} does not split into ${d.heads} heads.`);
  return { headDim: inner / d.heads };
}

/** Relative positions that all blocks share: [heads, places + 3] each. */
function sharedRelative({ weights, stored }: Draft, heads: number, grid: [number, number]): Float32Array[] {
  const tables: Float32Array[] = [];
  if (weights.has("rel_table")) tables.push(relativeTable(weights.take("rel_table").data, heads, stored.grid, grid));
  if (weights.has("rel_mlp.fc1.weight")) tables.push(relativeTableOfMlp(weights, "rel_mlp", heads, grid));
  return tables;
}

/** Patch embedding, prefix tokens and positions. norm_pre of the prefix tokens is constant, as they are. */
function addTokens({ weights, described, arch, tensors, stored }: Draft, grid: [number, number]): void {
  const { embedDim: d, patchSize: p, prefixTokens } = arch;
  const set = (name: string, shape: number[], data: Float32Array) => tensors.set(name, { dtype: "F32", shape, data });
  set("patch_embed.proj.weight", [d, 3, p, p], weights.take("patch_embed.proj.weight").data);
  set("patch_embed.proj.bias", [d], weights.takeOrZeros("patch_embed.proj.bias", [d]));
  const taken = ["cls_token", "dist_token", "reg_token"].map((name) =>
    weights.has(name) ? weights.take(name).data : new Float32Array(0),
  );
  let prefix = concat(taken);
  if (prefix.length !== prefixTokens * d)
    throw weights.fault(`its prefix tokens have ${prefix.length} numbers, expected ${prefixTokens * d}.`);

  const position = new Float32Array((prefixTokens + grid[0] * grid[1]) * d);
  if (weights.has("pos_embed")) {
    const learned = weights.take("pos_embed");
    const from: [number, number] = learned.shape.length === 4 ? [learned.shape[1], learned.shape[2]] : stored.grid;
    const own = stored.positioned * d;
    const patches =
      from.join() === grid.join()
        ? learned.data
        : resamplePositions(learned.data, from, grid, stored.positioned, d, described.resampling);
    position.set(patches.subarray(0, own));
    position.set(patches.subarray(own), prefixTokens * d);
  }
  if (arch.preNorm) {
    const [weight, bias] = [weights.take("norm_pre.weight", [d]).data, weights.takeOrZeros("norm_pre.bias", [d])];
    const at = prefix.map((v, k) => v + position[k]);
    prefix = layerNorm(at, weight, bias, described.normEps?.pre ?? described.layerNormEps);
    position.fill(0, 0, prefixTokens * d);
    set("norm_pre.weight", [d], weight);
    set("norm_pre.bias", [d], bias);
  }
  set("pos_embed", [1, prefixTokens + grid[0] * grid[1], d], position);
  const own = Number(arch.classToken) + Number(arch.distilled);
  if (arch.classToken) set("cls_token", [1, 1, d], prefix.slice(0, d));
  if (arch.distilled) set("dist_token", [1, 1, d], prefix.slice(d, 2 * d));
  if (prefixTokens > own) set("reg_token", [1, prefixTokens - own, d], prefix.slice(own * d));
}

/** Norms behind the blocks, attention pooling, projection and classifier. @returns the number of classes */
function addHead({ weights, described, arch, tensors }: Draft): number {
  const { embedDim: d } = arch;
  const set = (name: string, shape: number[], data: Float32Array) => tensors.set(name, { dtype: "F32", shape, data });
  const linear = (name: string, out: number, input: number) => {
    set(`${name}.weight`, [out, input], weights.take(`${name}.weight`, [out, input]).data);
    set(`${name}.bias`, [out], weights.takeOrZeros(`${name}.bias`, [out]));
  };
  const norm = (name: string, width: number) => {
    set(`${name}.weight`, [width], weights.take(`${name}.weight`, [width]).data);
    set(`${name}.bias`, [width], weights.takeOrZeros(`${name}.bias`, [width]));
  };
  if (weights.has("norm.weight")) norm("norm", d);
  if (arch.pooling === "map") {
    const heads = described.poolHeads ?? d / arch.headDim;
    arch.poolHeads = heads;
    arch.poolHidden = weights.shape("attn_pool.mlp.fc1.weight", 2)[0];
    arch.poolActivation = described.poolActivation ?? arch.activation;
    const [q, k, v] = probeParts(weights, d);
    const latent = weights.take("attn_pool.latent").data;
    set("attn_pool.query", [heads, d], foldProbe(project(q.weight, q.bias, latent), k.weight, heads));
    set("attn_pool.v.weight", [d, d], v.weight);
    set("attn_pool.v.bias", [d], v.bias);
    linear("attn_pool.proj", d, d);
    norm("attn_pool.norm", d);
    linear("attn_pool.mlp.fc1", arch.poolHidden, d);
    linear("attn_pool.mlp.fc2", d, arch.poolHidden);
  }
  const width = arch.pooling === "class+mean" ? 2 * d : d;
  if (weights.has("fc_norm.weight")) norm("fc_norm", width);
  if (weights.has("projection.transposed")) {
    const { shape, data } = weights.take("projection.transposed");
    weights.put("projection.weight", [shape[1], shape[0]], transpose(data, shape[0], shape[1]));
  }
  if (weights.has("projection.weight")) {
    arch.projection = weights.shape("projection.weight", 2)[0];
    set(
      "projection.weight",
      [arch.projection, width],
      weights.take("projection.weight", [arch.projection, width]).data,
    );
  }
  for (const name of ["logit_scale", "logit_bias"]) weights.drop(name);
  if (!weights.has("head.weight")) {
    delete arch.head;
    return 0;
  }
  arch.head = { scores: described.scores };
  const classes = weights.shape("head.weight", 2)[0];
  linear("head", classes, arch.projection ?? width);
  if (arch.distilled) linear("head_dist", classes, arch.projection ?? width);
  return classes;
}

interface Linear {
  weight: Float32Array;
  bias: Float32Array;
}

/** q, k and v of the probe's attention, from whichever linears hold them. */
function probeParts(weights: Weights, d: number): Linear[] {
  const linear = (name: string, rows: number): Linear => ({
    weight: weights.take(`attn_pool.${name}.weight`, [rows * d, d]).data,
    bias: weights.takeOrZeros(`attn_pool.${name}.bias`, [rows * d]),
  });
  const split = ({ weight, bias }: Linear, parts: number): Linear[] =>
    Array.from({ length: parts }, (_, k) => ({
      weight: weight.slice(k * d * d, (k + 1) * d * d),
      bias: bias.slice(k * d, (k + 1) * d),
    }));
  if (weights.has("attn_pool.in_proj.weight")) return split(linear("in_proj", 3), 3);
  return [linear("q", 1), ...split(linear("kv", 2), 2)];
}

/** The tensors in the format's order, each checked for its shape. */
function ordered(tensors: Tensors, arch: Architecture, classes: number, weights: Weights): Tensors {
  const out: Tensors = new Map();
  for (const [name, shape] of tensorShapes(arch, classes)) {
    const tensor = tensors.get(name);
    if (!tensor) throw weights.fault(`tensor "${name}" is missing.`);
    if (tensor.data.length !== shape.reduce((a, b) => a * b, 1))
      throw weights.fault(`tensor "${name}" has ${tensor.data.length} numbers, expected [${shape}].`);
    out.set(name, { ...tensor, shape });
  }
  return out;
}
