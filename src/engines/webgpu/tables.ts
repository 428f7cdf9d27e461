/** Tables that depend on the network's shape alone: which pixels, positions and rows the kernels read. */
import { type Manifest, type Model, patchGrid } from "../../format/model.ts";
import { float32 } from "../../format/read.ts";
import { ropeCoordinates } from "../../reference/positions.ts";
import { align4 } from "./shader.ts";

/** Offsets of a patch's inputs from the patch's first pixel, four by four. */
export function patchOffsets({ patchSize: p, imageSize: [height, width] }: Manifest): Uint32Array {
  const offsets = new Uint32Array(align4(3 * p * p));
  for (let k = 0; k < 3 * p * p; k++) {
    offsets[k] = Math.floor(k / (p * p)) * height * width + (Math.floor(k / p) % p) * width + (k % p);
  }
  return offsets;
}

/** The first pixel of each kept patch; 0 for prefix tokens. */
export function patchCorners(manifest: Manifest, keepIdx: number[]): Uint32Array {
  const { patchSize: p, prefixTokens, imageSize } = manifest;
  const columns = patchGrid(manifest)[1];
  return Uint32Array.from(keepIdx, (token) => {
    if (token < prefixTokens) return 0;
    const patch = token - prefixTokens;
    return Math.floor(patch / columns) * p * imageSize[1] + (patch % columns) * p;
  });
}

/**
 * The vector that is added to each embedded token: its position and the embedding's bias, or the whole prefix token.
 */
export function positionRows({ manifest, tensors }: Model, keepIdx: number[]): Float32Array {
  const { embedDim, prefixTokens } = manifest;
  const stride = align4(embedDim);
  const position = float32(tensors, "pos_embed");
  const bias = float32(tensors, "patch_embed.proj.bias");
  const prefix = ["cls_token", "dist_token", "reg_token"].flatMap((key) =>
    tensors.has(key) ? [...float32(tensors, key)] : [],
  );
  const rows = new Float32Array(keepIdx.length * stride);
  keepIdx.forEach((token, k) => {
    for (let d = 0; d < embedDim; d++) {
      const content = token < prefixTokens ? prefix[token * embedDim + d] : bias[d];
      rows[k * stride + d] = content + position[token * embedDim + d];
    }
  });
  return rows;
}

/** Positions of `keep` in `alive`. */
export function rowsOf(keep: number[], alive: number[]): Uint32Array {
  const row = new Map(alive.map((token, k) => [token, k]));
  return Uint32Array.from(keep, (token) => row.get(token)!);
}

/** [tokens, 4]: each token stands for itself, and lies where RoPE has it. The logarithm of 1 is 0. */
export function rowsBeforeMerges(manifest: Manifest, keepIdx: number[]): Float32Array {
  const coordinates = manifest.position === "rope" ? ropeCoordinates(manifest, keepIdx) : undefined;
  return Float32Array.from(keepIdx.flatMap((_, k) => [1, 0, coordinates?.[2 * k] ?? 0, coordinates?.[2 * k + 1] ?? 0]));
}

/** The patch of each token, or −1. */
export function patchesOf({ prefixTokens }: Manifest, keepIdx: number[]): Uint32Array {
  return Uint32Array.from(keepIdx, (token) => Math.max(-1, token - prefixTokens));
}

/**
 * [inner / 2, tokens]: cosine and sine of the angle by which RoPE turns a pair of channels. Computed here, as the precision
 * of WGSL's own is 2⁻¹¹.
 */
export function turnsOf(manifest: Manifest, keepIdx: number[], frequencies: Float32Array): Float32Array {
  const coordinates = ropeCoordinates(manifest, keepIdx);
  const pairs = frequencies.length / 2;
  const tokens = keepIdx.length;
  const turns = new Float32Array(2 * pairs * tokens);
  for (let pair = 0; pair < pairs; pair++) {
    for (let token = 0; token < tokens; token++) {
      const angle = frequencies[pair] * coordinates[2 * token] + frequencies[pairs + pair] * coordinates[2 * token + 1];
      turns.set([Math.cos(angle), Math.sin(angle)], 2 * (pair * tokens + token));
    }
  }
  return turns;
}

/** Made when it is first asked for, and once. */
export function lazily<T>(make: () => T): () => T {
  let made: T | undefined;
  return () => (made ??= make());
}
