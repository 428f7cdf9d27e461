/** The tokens between two blocks, and how tokens are dropped. */
import { type Architecture, patchGrid } from "../../format/model.ts";
import type { Graph } from "./builder.ts";
import type { Layers, Matrix } from "./layers.ts";

export interface Stream {
  x: Matrix;
  /** Tokens that are represented, as in keepIdx. */
  alive: number[];
  /** [batch, patches, 1] in f32, after a merge: patches that each row stands for, prefix tokens left out. Written when read. */
  sizes?: () => string;
  /**
   * [batch or 1, patches, 2] in f32, with RoPE: row and column in the network's own coordinates, prefix tokens left out.
   * Written when read.
   */
  coordinates?: () => string;
}

/** Gathers the rows of the tokens in `keepIdx`, a subset of those alive. Lists do not shrink after a merge. */
export function keepTokens(layers: Layers, stream: Stream, keepIdx: number[]): Stream {
  if (keepIdx.length === stream.alive.length) return stream;
  const row = new Map(stream.alive.map((token, k) => [token, k]));
  const kept = keepIdx.map((token) => row.get(token)!);
  return startStream(layers, layers.pick(stream.x, kept), keepIdx);
}

/** The stream before the first block, where each row is one token. */
export function startStream({ graph, model }: Layers, x: Matrix, alive: number[]): Stream {
  return { x, alive, coordinates: coordinatesOf(graph, model.manifest, alive) };
}

/** undefined without RoPE and without patches. */
function coordinatesOf(graph: Graph, arch: Architecture, alive: number[]): (() => string) | undefined {
  const { position, rope, prefixTokens } = arch;
  const patches = alive.slice(prefixTokens).map((token) => token - prefixTokens);
  if (position !== "rope" || !rope || !patches.length) return undefined;
  const columns = patchGrid(arch)[1];
  const places = patches.flatMap((patch) => [
    rope.rows[0] + rope.rows[1] * Math.floor(patch / columns),
    rope.columns[0] + rope.columns[1] * (patch % columns),
  ]);
  return () => graph.wideFloats(`places of ${patches.length}`, Float32Array.from(places), [1, patches.length, 2]);
}
