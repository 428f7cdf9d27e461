/** The slim forward pass in plain loops. Every engine gives these logits, only sooner. */
import { throwIfAborted } from "../errors.ts";
import { type Model, patchGrid } from "../format/model.ts";
import { float32 } from "../format/read.ts";
import { attention, gelu, layerNorm, linear } from "./ops.ts";

export interface RunOptions {
  /** seen between blocks where the engine can, else after the run */
  signal?: AbortSignal;
  /** milliseconds of each block */
  profile?: boolean;
  /** the class token's attention in each block */
  explain?: boolean;
}

export interface RunOutput {
  /** [classes] */
  logits: Float32Array;
  /** [embedDim]: the class token after the final norm */
  features: Float32Array;
  /** with `profile`: [blocks] */
  blockMs?: number[];
  /** with `explain`: for each block, attention of the class token over `keepIdx`, averaged over heads; empty for a block without heads */
  attention?: Float32Array[];
}

/** @param pixels [3, height, width], normalised */
export function forward(model: Model, pixels: Float32Array, options: RunOptions = {}): RunOutput {
  const steps = forwardSteps(model, pixels, options);
  for (;;) {
    const { done, value } = steps.next();
    if (done) return value;
  }
}

/** The same, with a pause before each block: whoever waits in it lets an abort come in. */
export function* forwardSteps(
  model: Model,
  pixels: Float32Array,
  options: RunOptions = {},
): Generator<undefined, RunOutput> {
  const { manifest } = model;
  const { embedDim, headDim, layerNormEps, prefixTokens, blocks } = manifest;
  const t = (key: string) => float32(model.tensors, key);
  const norm = (x: Float32Array, key: string) => layerNorm(x, t(`${key}.weight`), t(`${key}.bias`), layerNormEps);
  const dense = (x: Float32Array, key: string, rows: number) => linear(x, t(`${key}.weight`), t(`${key}.bias`), rows);
  const blockMs: number[] = [];
  const maps: Float32Array[] = [];

  let alive = blocks[0].keepIdx;
  let x = embed(model, pixels, alive);
  for (const [i, block] of blocks.entries()) {
    yield;
    throwIfAborted(options.signal);
    const start = performance.now();
    x = keepTokens(x, alive, block.keepIdx, embedDim);
    alive = block.keepIdx;
    const n = alive.length;
    const qkv = dense(norm(x, `blocks.${i}.norm1`), `blocks.${i}.attn.qkv`, n);
    const map = new Float32Array(block.headDims.length ? n : 0);
    const mixed = attention(qkv, block.headDims, 1 / Math.sqrt(headDim), n, map);
    x = add(x, dense(mixed, `blocks.${i}.attn.proj`, n)); // without heads: proj.bias alone
    const hidden = gelu(dense(norm(x, `blocks.${i}.norm2`), `blocks.${i}.mlp.fc1`, n));
    x = add(x, dense(hidden, `blocks.${i}.mlp.fc2`, n)); // without units: fc2.bias alone
    maps.push(map);
    blockMs.push(performance.now() - start);
  }

  const tokens = norm(x.subarray(0, prefixTokens * embedDim), "norm");
  const features = tokens.slice(0, embedDim);
  let logits = dense(features, "head", 1);
  if (prefixTokens === 2) {
    const distilled = dense(tokens.subarray(embedDim), "head_dist", 1);
    logits = logits.map((v, i) => (v + distilled[i]) / 2);
  }
  return {
    logits,
    features,
    ...(options.profile && { blockMs }),
    ...(options.explain && { attention: maps }),
  };
}

/** Embeds the kept patches only and adds their position embeddings by original index: [keepIdx.length, embedDim]. */
function embed(model: Model, pixels: Float32Array, keepIdx: number[]): Float32Array {
  const { embedDim, patchSize: p, prefixTokens, imageSize } = model.manifest;
  const [height, width] = imageSize;
  const columns = patchGrid(model.manifest)[1];
  const weight = float32(model.tensors, "patch_embed.proj.weight");
  const bias = float32(model.tensors, "patch_embed.proj.bias");
  const position = float32(model.tensors, "pos_embed");
  const x = new Float32Array(keepIdx.length * embedDim);
  keepIdx.forEach((token, k) => {
    let content: Float32Array;
    if (token < prefixTokens) content = float32(model.tensors, token === 0 ? "cls_token" : "dist_token");
    else {
      const patch = token - prefixTokens;
      const top = Math.floor(patch / columns) * p;
      const left = (patch % columns) * p;
      const values = new Float32Array(3 * p * p);
      for (let c = 0; c < 3; c++) {
        for (let row = 0; row < p; row++) {
          const from = c * height * width + (top + row) * width + left;
          values.set(pixels.subarray(from, from + p), (c * p + row) * p);
        }
      }
      content = linear(values, weight, bias, 1);
    }
    for (let d = 0; d < embedDim; d++) x[k * embedDim + d] = content[d] + position[token * embedDim + d];
  });
  return x;
}

/** Gathers the rows of `x` whose original index is in `keep`, a subset of `alive`. */
function keepTokens(x: Float32Array, alive: number[], keep: number[], dim: number): Float32Array {
  if (keep.length === alive.length) return x;
  const row = new Map(alive.map((token, k) => [token, k]));
  const out = new Float32Array(keep.length * dim);
  keep.forEach((token, k) => {
    const from = row.get(token)! * dim;
    out.set(x.subarray(from, from + dim), k * dim);
  });
  return out;
}

function add(a: Float32Array, b: Float32Array): Float32Array {
  return a.map((v, i) => v + b[i]);
}
