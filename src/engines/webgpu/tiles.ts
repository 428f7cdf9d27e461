/** How products are shared out, by their size and by the kind of adapter. */
import type { Tile } from "./product.ts";

/** What the shaders are made for. */
export interface Target {
  /** WGSL has `unpack4xI8` and `dot4I8Packed` */
  packed: boolean;
  /** A CPU computes: it has no use for thousands of invocations, and loads cost it most. */
  isSoftware: boolean;
}

const tile = (rows: number, columns: number, lanesX: number, lanesY: number, splits = 1): Tile => ({
  rows,
  columns,
  lanesX,
  lanesY,
  splits,
});

/** The largest tile first: it loads the least. A GPU has room for some hundred workgroups at a time. */
const GPU_TILES = [tile(8, 8, 8, 8), tile(4, 8, 8, 8), tile(4, 4, 8, 8)];
const ENOUGH_WORKGROUPS = 128;

/** Few rows: the sum is shared out, too. */
const FEW_ROWS = 4;
const SOFTWARE_FEW = tile(2, 16, 4, 1);
const GPU_FEW = tile(2, 4, 16, 2, 8);

export function chooseTile(rows: number, outDim: number, { isSoftware }: Target): Tile {
  if (isSoftware) {
    if (rows <= FEW_ROWS) return SOFTWARE_FEW;
    return rows <= 16 ? tile(4, 16, 4, 4) : tile(16, 16, 4, 4);
  }
  if (rows <= FEW_ROWS) return GPU_FEW;
  const workgroups = (t: Tile) => Math.ceil(rows / (t.rows * t.lanesY)) * Math.ceil(outDim / (t.columns * t.lanesX));
  return GPU_TILES.find((t) => workgroups(t) >= ENOUGH_WORKGROUPS) ?? GPU_TILES.at(-1)!;
}
