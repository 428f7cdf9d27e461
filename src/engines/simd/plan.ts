/** A model → where everything lies in the engine's memory, and the words that tell the kernels so (layout.ts). */
import type { Model } from "../../format/model.ts";
import { type Activations, planActivations, planScratch, type Scratch } from "./activations.ts";
import type { Flavour } from "./binary.ts";
import { planBlock } from "./blockPlan.ts";
import { firstPixels, putNorm, startRows } from "./constants.ts";
import * as L from "./layout.ts";
import { LinearPlanner, type PackedLinear } from "./linears.ts";
import { type Constant, MemoryLayout, type WordTable } from "./memoryLayout.ts";
import { pad8 } from "./padding.ts";
import { planStream, type Stream } from "./stream.ts";

/** Where the engine finds things once the model is in. */
export interface Plan {
  /** of the PLAN_ words */
  at: number;
  bytes: number;
  pixels: number;
  logits: number[];
  features: number;
  maps: Stream["maps"];
  sync: number;
}

/** What has to be copied in. It holds the model's tensors, so it is let go afterwards: weights are in memory once. */
export interface Cargo {
  constants: Constant[];
  linears: PackedLinear[];
  staging: Activations["staging"];
}

export interface PlanOptions {
  flavour: Flavour;
  threads: number;
  /** loads that a thread makes before it sleeps */
  spins: number;
  /** whether the main thread may sleep */
  maySleep: boolean;
}

export function planMemory(model: Model, options: PlanOptions): { plan: Plan; cargo: Cargo } {
  const { manifest } = model;
  const { blocks } = manifest;
  const memory = new MemoryLayout();
  const linears = new LinearPlanner(model, options.flavour, memory);
  const words = memory.table(L.PLAN_WORDS);
  const blockTable = memory.table(L.BLOCK_WORDS, blocks.length);

  planLinears(model, linears, words, blockTable);
  const stream = planStream(model, memory);
  const scratch = planScratch(manifest, memory, linears, options.threads);
  const sync = memory.take((L.SYNC_PHASES + (blocks.length + 2) * L.PHASES_A_STAGE * L.PHASE_WORDS) * 4);
  const activations = planActivations(manifest, memory, linears);

  let current = 0;
  blocks.forEach((_, i) => {
    current = planBlock({ model, memory, activations, stream, table: blockTable, block: i, current });
  });
  setArchitecture(model, memory, words);
  setActivations(words, activations, stream, scratch);
  words.set({
    [L.PLAN_BLOCK_TABLE]: blockTable.at,
    [L.PLAN_SYNC]: sync,
    [L.PLAN_THREADS]: options.threads,
    [L.PLAN_SPINS]: options.spins,
    [L.PLAN_MAY_SLEEP]: options.maySleep ? 1 : 0,
  });
  const { logits, features, maps } = stream;
  return {
    plan: { at: words.at, bytes: memory.end, pixels: activations.pixels, logits, features, maps, sync },
    cargo: { constants: memory.constants, linears: linears.linears, staging: activations.staging },
  };
}

function planLinears({ manifest, tensors }: Model, linears: LinearPlanner, words: WordTable, blocks: WordTable): void {
  const { embedDim, patchSize, prefixTokens } = manifest;
  const dim = [embedDim];
  const classes = [tensors.get("head.bias")!.shape[0]];
  linears.plan({ key: "patch_embed.proj", outs: dim, ins: [3 * patchSize ** 2] }, words, L.PLAN_EMBED);
  linears.plan({ key: "head", outs: classes, ins: dim }, words, L.PLAN_HEAD);
  if (prefixTokens === 2) linears.plan({ key: "head_dist", outs: classes, ins: dim }, words, L.PLAN_HEAD2);
  manifest.blocks.forEach(({ headDims, mlpHidden }, i) => {
    const qkv = [...headDims, ...headDims, ...headDims];
    linears.plan({ key: `blocks.${i}.attn.qkv`, outs: qkv, ins: dim }, blocks, L.BLOCK_QKV, i);
    linears.plan({ key: `blocks.${i}.attn.proj`, outs: dim, ins: headDims }, blocks, L.BLOCK_PROJ, i);
    linears.plan({ key: `blocks.${i}.mlp.fc1`, outs: [mlpHidden], ins: dim }, blocks, L.BLOCK_FC1, i);
    linears.plan({ key: `blocks.${i}.mlp.fc2`, outs: dim, ins: [mlpHidden] }, blocks, L.BLOCK_FC2, i);
  });
}

function setArchitecture(model: Model, memory: MemoryLayout, words: WordTable): void {
  const { blocks, embedDim, patchSize, prefixTokens, imageSize, headDim, layerNormEps } = model.manifest;
  words.set({
    [L.PLAN_DIM]: embedDim,
    [L.PLAN_DIM_BYTES]: pad8(embedDim) * 4,
    [L.PLAN_PREFIX]: prefixTokens,
    [L.PLAN_BLOCKS]: blocks.length,
    [L.PLAN_NORM]: putNorm(model, memory, "norm"),
    [L.PLAN_HEIGHT]: imageSize[0],
    [L.PLAN_WIDTH]: imageSize[1],
    [L.PLAN_PATCH]: patchSize,
    [L.PLAN_PATCHES]: blocks[0].keepIdx.length - prefixTokens,
    [L.PLAN_PATCH_TABLE]: memory.put(firstPixels(model.manifest)),
    [L.PLAN_START]: memory.put(startRows(model)),
    [L.PLAN_ZEROS]: memory.put(new Float32Array(8)),
  });
  words.setFloats({ [L.PLAN_EPS]: layerNormEps, [L.PLAN_SCORE_SCALE]: 1 / Math.sqrt(headDim) });
}

function setActivations(words: WordTable, activations: Activations, stream: Stream, scratch: Scratch): void {
  words.set({
    [L.PLAN_PIXELS]: activations.pixels,
    [L.PLAN_PATCH_ROWS]: activations.patchRows,
    [L.PLAN_X]: stream.x[0],
    [L.PLAN_NORMED]: activations.normed,
    [L.PLAN_QUANTISED]: activations.quantised,
    [L.PLAN_RANGES]: activations.ranges,
    [L.PLAN_Q]: activations.q,
    [L.PLAN_MIXED]: activations.mixed,
    [L.PLAN_HIDDEN]: activations.hidden,
    [L.PLAN_SCRATCH]: scratch.at,
    [L.PLAN_SCRATCH_BYTES]: scratch.bytes,
    [L.PLAN_SCRATCH_PANEL]: scratch.panel,
    [L.PLAN_LOGITS]: stream.logits[0],
    [L.PLAN_LOGITS2]: stream.logits[1] ?? 0,
    [L.PLAN_FEATURES]: stream.features,
  });
}
