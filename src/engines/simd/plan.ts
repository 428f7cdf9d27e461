/** A model → the addresses of all its data in the engine's memory, and the words that tell the kernels (layout.ts). */
import { type Manifest, type Model, patchGrid, tokenCounts } from "../../format/model.ts";
import { type Activations, planActivations, planScratch, type Scratch } from "./activations.ts";
import { panelOrder, type WeightsArea } from "./area.ts";
import type { Flavour } from "./binary.ts";
import { planBlock, relativeEntries } from "./blockPlan.ts";
import { firstPixels, putTokenNorm, startRows } from "./constants.ts";
import * as L from "./layout.ts";
import { type Gathering, LinearPlanner, type PackedLinear } from "./linears.ts";
import { type Constant, MemoryLayout, type WordTable } from "./memoryLayout.ts";
import { pad8 } from "./padding.ts";
import { ACTIVATIONS, planPoolLinears, setPooling } from "./poolPlan.ts";
import { planStream, type Stream } from "./stream.ts";

/** Addresses that the engine uses once the model is in memory. */
export interface Plan {
  /** of the PLAN_ words */
  at: number;
  bytes: number;
  /** The first address behind the weights of a family. From here on, memory belongs to this variant. */
  own: number;
  pixels: number;
  stream: Stream;
  /** For each block: where the kernels report the pairs that merge, and where a flag says that the pairs are given. */
  merges: { partners: number; forced: number }[];
  sync: number;
}

/**
 * What has to be copied into memory. It holds the model's tensors and is dropped afterwards, so that weights are in
 * memory once.
 */
export interface Cargo {
  constants: Constant[];
  linears: PackedLinear[];
  gatherings: Gathering[];
  staging: Activations["staging"];
}

export interface PlanOptions {
  flavour: Flavour;
  threads: number;
  /** loads that a thread makes before it sleeps */
  spins: number;
  /** whether the main thread may sleep */
  maySleep: boolean;
  /** where weights lie that several variants share */
  area?: WeightsArea;
}

export function planMemory(model: Model, options: PlanOptions): { plan: Plan; cargo: Cargo } {
  const { manifest, tensors } = model;
  const { blocks } = manifest;
  const { area } = options;
  const memory = new MemoryLayout();
  const { words, sync } = planFirst(manifest, memory);
  if (area) memory.end = area.end;
  const linears = new LinearPlanner(model, options.flavour, memory, area);
  const table = planLinears(model, linears, memory, words, area);
  const classes = tensors.get("head.bias")?.shape[0] ?? 0;
  const stream = planStream(manifest, classes, memory);
  const scratch = planScratch(manifest, memory, linears, options.threads);
  const activations = planActivations(manifest, memory, linears);

  let current = 0;
  const merges = blocks.map((_, block) => {
    const planned = planBlock({ model, memory, activations, stream, table, block, current, area });
    current = planned.current;
    return { partners: planned.partners, forced: table.address(L.BLOCK_FORCED, block) };
  });
  setArchitecture(model, memory, words);
  setActivations(words, activations, stream, scratch);
  setPooling(model, memory, words, stream);
  words.set([
    [L.PLAN_BLOCK_TABLE, table.at],
    [L.PLAN_SYNC, sync],
    [L.PLAN_THREADS, options.threads],
    [L.PLAN_SPINS, options.spins],
    [L.PLAN_MAY_SLEEP, options.maySleep ? 1 : 0],
  ]);
  return {
    plan: { at: words.at, bytes: memory.end, own: area?.end ?? 0, pixels: activations.pixels, stream, merges, sync },
    cargo: {
      constants: memory.constants,
      linears: linears.linears,
      gatherings: linears.gatherings,
      staging: activations.staging,
    },
  };
}

/** Plans what has the same address for every variant: the plan's words and the threads' synchronisation. */
export function planFirst({ blocks }: Manifest, memory: MemoryLayout): { words: WordTable; sync: number } {
  const words = memory.table(L.PLAN_WORDS);
  const sync = memory.take((L.SYNC_PHASES + (blocks.length + 2) * L.PHASES_A_STAGE * L.PHASE_WORDS) * 4);
  return { words, sync };
}

/** @returns the blocks' records */
export function planLinears(
  model: Model,
  linears: LinearPlanner,
  memory: MemoryLayout,
  words = memory.table(L.PLAN_WORDS),
  area?: WeightsArea,
): WordTable {
  const { embedDim, patchSize, mlp } = model.manifest;
  const blocks = memory.table(L.BLOCK_WORDS, model.manifest.blocks.length);
  const dim = [embedDim];
  linears.plan({ key: "patch_embed.proj", outs: dim, ins: [3 * patchSize ** 2] }, words, L.PLAN_EMBED);
  planPoolLinears(model, linears, words);
  model.manifest.blocks.forEach(({ headDims, mlpHidden }, i) => {
    const qkv = [...headDims, ...headDims, ...headDims];
    const units = mlp === "swiglu" ? [mlpHidden, mlpHidden] : [mlpHidden];
    const order = area && panelOrder(headDims, area.widths[i]);
    linears.plan({ key: `blocks.${i}.attn.qkv`, outs: qkv, ins: dim, order }, blocks, L.BLOCK_QKV, i);
    linears.plan({ key: `blocks.${i}.attn.proj`, outs: dim, ins: headDims }, blocks, L.BLOCK_PROJ, i);
    linears.plan({ key: `blocks.${i}.mlp.fc1`, outs: units, ins: dim }, blocks, L.BLOCK_FC1, i);
    linears.plan({ key: `blocks.${i}.mlp.fc2`, outs: dim, ins: [mlpHidden] }, blocks, L.BLOCK_FC2, i);
  });
  return blocks;
}

function setArchitecture(model: Model, memory: MemoryLayout, words: WordTable): void {
  const { manifest } = model;
  const { blocks, embedDim, patchSize, prefixTokens, imageSize, headDim, preNorm, normEps } = manifest;
  const [rows, columns] = patchGrid(manifest);
  const hasMerges = blocks.some(({ merge }) => merge > 0);
  words.set([
    [L.PLAN_DIM, embedDim],
    [L.PLAN_DIM_BYTES, pad8(embedDim) * 4],
    [L.PLAN_PREFIX, prefixTokens],
    [L.PLAN_BLOCKS, blocks.length],
    [L.PLAN_HEIGHT, imageSize[0]],
    [L.PLAN_WIDTH, imageSize[1]],
    [L.PLAN_PATCH, patchSize],
    [L.PLAN_PATCHES, blocks[0].keepIdx.length - prefixTokens],
    [L.PLAN_PATCH_TABLE, memory.put(firstPixels(manifest))],
    [L.PLAN_START, memory.put(startRows(model))],
    [L.PLAN_ZEROS, memory.put(new Float32Array(8))],
    [L.PLAN_PRE_NORM, preNorm ? putTokenNorm(model, memory, "norm_pre", normEps?.pre) : 0],
    [L.PLAN_ACTIVATION, ACTIVATIONS[manifest.activation]],
    [L.PLAN_GATED, manifest.mlp === "swiglu" ? 1 : 0],
    [L.PLAN_RELATIVE_CENTRE, (rows - 1) * (2 * columns - 1) + columns - 1],
    [L.PLAN_RELATIVE_PREFIX, relativeEntries([rows, columns]) - 3],
    [L.PLAN_MAP_ROWS, manifest.classToken ? 1 : 0],
    [L.PLAN_LOGS, hasMerges ? memory.put(scaledLogs(tokenCounts(manifest)[0].entering, headDim)) : 0],
  ]);
  words.setFloats([[L.PLAN_SCORE_SCALE, 1 / Math.sqrt(headDim)]]);
}

/**
 * Logarithms of each size that a row can have, divided by the scores' scale, because scores are scaled after the
 * addition.
 */
function scaledLogs(most: number, headDim: number): Float32Array {
  return Float32Array.from({ length: most + 1 }, (_, size) => Math.log(Math.max(size, 1)) * Math.sqrt(headDim));
}

function setActivations(words: WordTable, activations: Activations, stream: Stream, scratch: Scratch): void {
  words.set([
    [L.PLAN_PIXELS, activations.pixels],
    [L.PLAN_PATCH_ROWS, activations.patchRows],
    [L.PLAN_X, stream.x[0]],
    [L.PLAN_NORMED, activations.normed],
    [L.PLAN_QUANTISED, activations.quantised],
    [L.PLAN_RANGES, activations.ranges],
    [L.PLAN_Q, activations.q],
    [L.PLAN_MIXED, activations.mixed],
    [L.PLAN_HIDDEN, activations.hidden],
    [L.PLAN_SIMILARITIES, activations.merging.similarities],
    [L.PLAN_MERGE_PANELS, activations.merging.panels],
    [L.PLAN_MERGE_ROWS, activations.merging.rows],
    [L.PLAN_MERGE_NEXT, activations.merging.next],
    [L.PLAN_PART_MAPS, activations.partMaps],
    [L.PLAN_SCRATCH, scratch.at],
    [L.PLAN_SCRATCH_BYTES, scratch.bytes],
    [L.PLAN_SCRATCH_PANEL, scratch.panel],
  ]);
}
