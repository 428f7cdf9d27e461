/** How products are split into tiles, by their size and by the kind of adapter. */

/**
 * How a product is divided: a workgroup of `lanesX` × `lanesY` invocations, each with sums for `rows` rows by `columns`
 * columns. Neighbours in x compute neighbouring columns, so the GPU joins their loads of weights.
 */
export interface Tile {
  rows: number;
  /** a multiple of 4 */
  columns: number;
  lanesX: number;
  lanesY: number;
  /** invocations in z, each with its share of the sum: for products of few rows, which would leave a GPU idle */
  splits: number;
}

export const tileRows = (tile: Tile): number => tile.rows * tile.lanesY;
export const tileColumns = (tile: Tile): number => tile.columns * tile.lanesX;

/** What the shaders are made for. */
export interface Target {
  /** WGSL has `dot4I8Packed`, and no CPU emulates it: that takes twice as long as f32 */
  packed: boolean;
  /** A CPU emulates the GPU. It has no use for thousands of invocations, and loads are its largest cost. */
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
const GPU_FEW = tile(2, 4, 16, 2, 8);

/** Shaders of large tiles take a CPU seconds to compile: only products that take it as long have them. */
const SOFTWARE_LARGE = tile(8, 16, 4, 8);
const SOFTWARE_SMALL = tile(4, 4, 4, 2);
const LARGE_MACS = 5e6;

export function chooseTile(rows: number, inDim: number, outDim: number, { isSoftware }: Target): Tile {
  if (isSoftware) return rows * inDim * outDim >= LARGE_MACS && rows > FEW_ROWS ? SOFTWARE_LARGE : SOFTWARE_SMALL;
  if (rows <= FEW_ROWS) return GPU_FEW;
  const workgroups = (t: Tile) => Math.ceil(rows / (t.rows * t.lanesY)) * Math.ceil(outDim / (t.columns * t.lanesX));
  return GPU_TILES.find((t) => workgroups(t) >= ENOUGH_WORKGROUPS) ?? GPU_TILES.at(-1)!;
}
