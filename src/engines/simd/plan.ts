/** A model → where everything lies in the engine's memory, and the words that tell the kernels so (layout.ts). */
import { refuseUnsupported } from "../../format/features.ts";
import { type BlockShape, denseTokens, type Model, patchGrid, type Tensor } from "../../format/model.ts";
import { isQuantised } from "../../format/quantise.ts";
import { float32 } from "../../format/read.ts";
import type { Flavour } from "./binary.ts";
import * as L from "./layout.ts";

/** Consecutive rows or columns of a tensor, and where they go among padded ones. */
export interface Run {
  from: number;
  to: number;
  count: number;
}

/** One linear's weights, still to be packed. */
export interface PackedLinear {
  /** of its LINEAR_ words */
  at: number;
  kind: number;
  weight: Tensor;
  /** the weights are levels of int8, whichever kind runs them */
  hasScale: boolean;
  rows: Run[];
  columns: Run[];
  panels: number;
  to: number;
  panelBytes: number;
}

/** Where the engine finds things once the model is in. */
export interface Plan {
  /** of the PLAN_ words */
  at: number;
  bytes: number;
  pixels: number;
  logits: number[];
  features: number;
  /** class token's attention of each block; empty for a block without heads */
  maps: { at: number; tokens: number }[];
  sync: number;
}

/** What has to be copied in. It holds the model's tensors, so it is let go afterwards: weights are in memory once. */
export interface Cargo {
  constants: { at: number; data: Int32Array | Float32Array }[];
  linears: PackedLinear[];
  /** room for tensors on their way to panels: the activations', which nobody uses yet */
  staging: { at: number; bytes: number };
}

const FIRST = 1024; // below are the kernels' own constants; address 0 means "none"
const LINE = 64;

export function planMemory(
  model: Model,
  flavour: Flavour,
  threads: number,
  spins: number,
  maySleep: boolean,
): { plan: Plan; cargo: Cargo } {
  const { manifest } = model;
  refuseUnsupported('Engine "simd"', manifest);
  const { blocks, embedDim, patchSize, prefixTokens, imageSize, headDim, layerNormEps } = manifest;
  const deep = flavour === "relaxed" ? 4 : 2;
  const quantisedBytes = (inputs: number) => pad8(inputs) * (flavour === "relaxed" ? 1 : 2);
  const constants: Cargo["constants"] = [];
  const linears: PackedLinear[] = [];
  let end = FIRST;
  const take = (bytes: number): number => {
    const at = end;
    end = Math.ceil((at + bytes) / LINE) * LINE;
    return at;
  };
  const put = (data: Int32Array | Float32Array): number => {
    const at = take(data.byteLength);
    constants.push({ at, data });
    return at;
  };
  const float = (key: string) => float32(model.tensors, key);
  const norm = (key: string) =>
    put(concat(spread(float(`${key}.weight`), [embedDim]), spread(float(`${key}.bias`), [embedDim])));

  let widest = 0; // bytes of the longest panel that is widened before use
  let longestRow = 0; // bytes of the longest weight row
  /** @param outs, ins widths of the heads, each of which is padded; one width where there are no heads */
  const linear = (words: Int32Array, word: number, at: number, key: string, outs: number[], ins: number[]): void => {
    const inputs = ins.length > 1 ? sum(ins.map(pad8)) : (ins[0] ?? 0);
    const panels = sum(outs.map(pad8)) / 8;
    let weight = model.tensors.get(`${key}.weight`)!;
    const hasScale = weight.dtype === "I8";
    if (hasScale && !isQuantised(`${key}.weight`)) {
      weight = { dtype: "F32", shape: weight.shape, data: new Float32Array(weight.data) };
    }
    const kind = inputs === 0 || weight.dtype === "F32" ? L.F32 : weight.dtype === "F16" ? L.F16 : L.INT8;
    const steps = kind === L.INT8 ? pad8(inputs) / deep : inputs;
    const panelBytes = steps * (kind === L.F32 || (kind === L.INT8 && deep === 4) ? 32 : 16);
    if (panelBytes < steps * 32) widest = Math.max(widest, steps * 32);
    longestRow = Math.max(longestRow, sum(ins) * weight.data.BYTES_PER_ELEMENT);
    const to = take(panels * panelBytes);
    const bias = put(spread(float(`${key}.bias`), outs));
    const scale = hasScale ? put(spread(float(`${key}.scale`), outs)) : 0;
    const sums = kind === L.INT8 ? take(panels * 36) : 0;
    words.set([kind, panels, steps, inputs, to, panelBytes, bias, scale, sums], word);
    if (panels && inputs) {
      const [rows, columns] = [runs(outs), runs(ins)];
      linears.push({ at: at + word * 4, kind, weight, hasScale, rows, columns, panels, to, panelBytes });
    }
  };

  const words = new Int32Array(L.PLAN_WORDS);
  const floats = new Float32Array(words.buffer);
  const at = put(words);
  const table = new Int32Array(L.BLOCK_WORDS * blocks.length);
  const tableAt = put(table);
  const tokens = blocks[0].keepIdx.length;
  const dimBytes = pad8(embedDim) * 4;
  const patches = tokens - prefixTokens;
  const lastRows = (i: number) => (i === blocks.length - 1 ? prefixTokens : blocks[i].keepIdx.length);
  const classes = model.tensors.get("head.bias")!.shape[0];

  linear(words, L.PLAN_EMBED, at, "patch_embed.proj", [embedDim], [3 * patchSize ** 2]);
  linear(words, L.PLAN_HEAD, at, "head", [classes], [embedDim]);
  if (prefixTokens === 2) linear(words, L.PLAN_HEAD2, at, "head_dist", [classes], [embedDim]);
  blocks.forEach((block, i) => {
    const { headDims, mlpHidden } = block;
    const qkv = [...headDims, ...headDims, ...headDims];
    const base = i * L.BLOCK_WORDS;
    linear(table, base + L.BLOCK_QKV, tableAt, `blocks.${i}.attn.qkv`, qkv, [embedDim]);
    linear(table, base + L.BLOCK_PROJ, tableAt, `blocks.${i}.attn.proj`, [embedDim], headDims);
    linear(table, base + L.BLOCK_FC1, tableAt, `blocks.${i}.mlp.fc1`, [mlpHidden], [embedDim]);
    linear(table, base + L.BLOCK_FC2, tableAt, `blocks.${i}.mlp.fc2`, [embedDim], [mlpHidden]);
  });

  const x = [take(tokens * dimBytes)];
  if (blocks.some((block) => block.keepIdx.length < tokens)) x.push(take(tokens * dimBytes));
  const features = take(prefixTokens * dimBytes);
  const logits = Array.from({ length: prefixTokens }, () => take(pad8(classes) * 4));
  const maps = blocks.map(({ keepIdx: { length }, headDims }) => ({
    at: take(length * 4),
    tokens: headDims.length && length,
  }));
  const widestHead = Math.max(...blocks.map(({ headDims }) => Math.max(0, ...headDims)));
  const queryBytes = L.ATTENTION_ROWS * (8 + quantisedBytes(widestHead)); // int8: of one head, and their ranges
  const scoreBytes = (L.ATTENTION_ROWS * (pad8(tokens) + 1) + 16) * 4 + queryBytes;
  const scratchBytes = 2 * LINE * Math.ceil((scoreBytes + LINE + widest) / (2 * LINE));
  const scratch = take(scratchBytes * threads);
  const sync = take((L.SYNC_PHASES + (blocks.length + 2) * L.PHASES_A_STAGE * L.PHASE_WORDS) * 4);

  // Activations. The image and its patches are gone before the first of the others is written.
  const arena = end;
  const pixels = take(3 * imageSize[0] * imageSize[1] * 4);
  const patchRows = take(patches * 3 * patchSize ** 2 * 4);
  const imageEnd = end;
  end = arena;
  const normed = take(tokens * dimBytes);
  const quantised = take(
    Math.max(
      tokens * quantisedBytes(embedDim),
      ...blocks.map((block, i) => lastRows(i) * quantisedBytes(Math.max(paddedInner(block), block.mlpHidden))),
    ),
  );
  const ranges = take(tokens * 8);
  const rowsBytes = Math.max(...blocks.map((block, i) => lastRows(i) * paddedInner(block) * 4));
  const q = take(rowsBytes);
  const mixed = take(rowsBytes);
  const keysValues = end;
  take(
    Math.max(
      ...blocks.map(
        (block) =>
          paddedInner(block) * 4 * (pad8(block.keepIdx.length) + block.keepIdx.length) +
          2 * LINE * block.headDims.length,
      ),
    ),
  );
  // The hidden units come when attention is over.
  const hidden = q;
  end = Math.max(
    end,
    hidden + Math.max(...blocks.map((block, i) => lastRows(i) * pad8(block.mlpHidden) * 4)),
    imageEnd,
    arena + 8 * longestRow,
  );
  const staging = { at: arena, bytes: end - arena };
  end = Math.ceil(end / LINE) * LINE;

  let current = 0;
  blocks.forEach((block, i) => {
    const { headDims, keepIdx } = block;
    const n = keepIdx.length;
    const before = blocks[i - 1]?.keepIdx ?? keepIdx;
    let gather = 0;
    const from = x[current];
    if (n < before.length) {
      const row = new Map(before.map((token, k) => [token, k]));
      gather = put(Int32Array.from(keepIdx, (token) => row.get(token)!));
      current = 1 - current;
    }
    let keys = keysValues;
    let channel = 0;
    const inner = paddedInner(block);
    const panels = inner / 8;
    const heads = new Int32Array(L.HEAD_WORDS * headDims.length);
    const targets = new Int32Array(L.TARGET_WORDS * panels * 3);
    headDims.forEach((width, h) => {
      const wide = pad8(width);
      const values = keys + wide * pad8(n) * 4;
      heads.set([width, wide / 8, channel * 4, keys, values], h * L.HEAD_WORDS);
      for (let c = 0; c < wide / 8; c++) {
        const p = channel / 8 + c;
        targets.set([q + p * 32, inner * 4, lastRows(i), 0], p * L.TARGET_WORDS);
        targets.set([keys + c * 256, wide * 32, n, 1], (panels + p) * L.TARGET_WORDS);
        targets.set([values + c * n * 32, 32, n, 0], (2 * panels + p) * L.TARGET_WORDS);
      }
      keys = Math.ceil((values + wide * n * 4) / LINE) * LINE;
      channel += wide;
    });
    const base = i * L.BLOCK_WORDS;
    const set = (word: number, value: number) => {
      table[base + word] = value;
    };
    set(L.BLOCK_TOKENS, n);
    set(L.BLOCK_ROWS, lastRows(i));
    set(L.BLOCK_GATHER, gather);
    set(L.BLOCK_FROM, from);
    set(L.BLOCK_X, x[current]);
    set(L.BLOCK_NORM1, norm(`blocks.${i}.norm1`));
    set(L.BLOCK_NORM2, norm(`blocks.${i}.norm2`));
    set(L.BLOCK_HEADS, headDims.length);
    set(L.BLOCK_HEAD_TABLE, put(heads));
    set(L.BLOCK_TARGETS, put(targets));
    set(L.BLOCK_INNER, inner);
    set(L.BLOCK_MAP, maps[i].at);
  });

  words[L.PLAN_DIM] = embedDim;
  words[L.PLAN_DIM_BYTES] = dimBytes;
  floats[L.PLAN_EPS] = layerNormEps;
  floats[L.PLAN_SCORE_SCALE] = 1 / Math.sqrt(headDim);
  words[L.PLAN_PREFIX] = prefixTokens;
  words[L.PLAN_BLOCKS] = blocks.length;
  words[L.PLAN_BLOCK_TABLE] = tableAt;
  words[L.PLAN_NORM] = norm("norm");
  words[L.PLAN_PIXELS] = pixels;
  words[L.PLAN_HEIGHT] = imageSize[0];
  words[L.PLAN_WIDTH] = imageSize[1];
  words[L.PLAN_PATCH] = patchSize;
  words[L.PLAN_PATCHES] = patches;
  words[L.PLAN_PATCH_TABLE] = put(firstPixels(model));
  words[L.PLAN_PATCH_ROWS] = patchRows;
  words[L.PLAN_START] = put(startRows(model));
  words[L.PLAN_X] = x[0];
  words[L.PLAN_NORMED] = normed;
  words[L.PLAN_QUANTISED] = quantised;
  words[L.PLAN_RANGES] = ranges;
  words[L.PLAN_Q] = q;
  words[L.PLAN_MIXED] = mixed;
  words[L.PLAN_HIDDEN] = hidden;
  words[L.PLAN_SCRATCH] = scratch;
  words[L.PLAN_SCRATCH_BYTES] = scratchBytes;
  words[L.PLAN_SCRATCH_PANEL] = Math.ceil(scoreBytes / LINE) * LINE;
  words[L.PLAN_ZEROS] = put(new Float32Array(8));
  words[L.PLAN_LOGITS] = logits[0];
  words[L.PLAN_LOGITS2] = logits[1] ?? 0;
  words[L.PLAN_FEATURES] = features;
  words[L.PLAN_SYNC] = sync;
  words[L.PLAN_THREADS] = threads;
  words[L.PLAN_SPINS] = spins;
  words[L.PLAN_MAY_SLEEP] = maySleep ? 1 : 0;
  return {
    plan: { at, bytes: end, pixels, logits, features, maps, sync },
    cargo: { constants, linears, staging },
  };
}

/** Byte offset in the image of each embedded patch's first pixel. */
function firstPixels({ manifest }: Model): Int32Array {
  const { blocks, patchSize, prefixTokens, imageSize } = manifest;
  const columns = patchGrid(manifest)[1];
  return Int32Array.from(blocks[0].keepIdx.slice(prefixTokens), (token) => {
    const patch = token - prefixTokens;
    return (Math.floor(patch / columns) * patchSize * imageSize[1] + (patch % columns) * patchSize) * 4;
  });
}

/** What the tokens are before a patch is added: position embeddings, on the prefix tokens' own. [tokens, dim padded] */
function startRows({ manifest, tensors }: Model): Float32Array {
  const { blocks, embedDim, prefixTokens } = manifest;
  const position = float32(tensors, "pos_embed").subarray(0, denseTokens(manifest) * embedDim);
  const rows = new Float32Array(blocks[0].keepIdx.length * pad8(embedDim));
  blocks[0].keepIdx.forEach((token, k) => {
    rows.set(position.subarray(token * embedDim, (token + 1) * embedDim), k * pad8(embedDim));
  });
  for (let token = 0; token < prefixTokens; token++) {
    const own = float32(tensors, token === 0 ? "cls_token" : "dist_token");
    for (let d = 0; d < embedDim; d++) rows[token * pad8(embedDim) + d] += own[d];
  }
  return rows;
}

function pad8(n: number): number {
  return (n + 7) & ~7;
}

function paddedInner({ headDims }: BlockShape): number {
  return sum(headDims.map(pad8));
}

function sum(values: number[]): number {
  return values.reduce((a, b) => a + b, 0);
}

function concat(a: Float32Array, b: Float32Array): Float32Array {
  const both = new Float32Array(a.length + b.length);
  both.set(a);
  both.set(b, a.length);
  return both;
}

/** Lays out parts of the given widths with each one padded to 8; neighbours that stay neighbours are one run. */
function runs(widths: number[]): Run[] {
  const found: Run[] = [];
  let from = 0;
  let to = 0;
  for (const count of widths) {
    const last = found.at(-1);
    if (last && last.to + last.count === to) last.count += count;
    else found.push({ from, to, count });
    from += count;
    to += pad8(count);
  }
  return found;
}

function spread(values: Float32Array, widths: number[]): Float32Array {
  const out = new Float32Array(sum(widths.map(pad8)));
  for (const { from, to, count } of runs(widths)) out.set(values.subarray(from, from + count), to);
  return out;
}
