/** The grid of patches that a checkpoint's positions belong to, and the prefix tokens that have a position. */
import { SlimViTError } from "../../src/errors.ts";
import type { Description } from "./description.ts";
import { sizeFault, tableLength } from "./resize.ts";
import type { Weights } from "./weights.ts";

export interface StoredGrid {
  /** [rows, columns] */
  grid: [number, number];
  /** how many of the prefix tokens have a learned position: the first ones */
  positioned: number;
  /** [height, width] of the pictures it was trained on */
  imageSize: [number, number];
}

/**
 * Finds the grid from the stored positions, checked against the size in the config, or else against a square.
 * @param given --image-size, which decides where nothing else gives the grid
 */
export function storedGrid(
  weights: Weights,
  described: Description,
  patch: number,
  prefixTokens: number,
  given?: [number, number],
): StoredGrid {
  const { imageSize: configured } = described;
  const gridOf = (size: [number, number]): [number, number] => [size[0] / patch, size[1] / patch];
  const found = positions(weights, prefixTokens);
  if (!found) {
    const size = configured ?? given;
    if (!size) throw sizeMissing(weights.source, "its position embeddings do not determine the image size");
    checkSize(size, patch, weights.source);
    return { grid: gridOf(size), positioned: 0, imageSize: size };
  }
  for (const size of [configured, square(found, patch), given]) {
    if (!size || size.some((side) => side % patch)) continue;
    const fit = found.fits(gridOf(size));
    if (fit === undefined) continue;
    if (!configured && size !== given)
      described.assumed.push(`a square picture of ${size[0]}×${size[1]} px, by its positions (--image-size)`);
    else if (configured && size !== configured)
      described.assumed.push(
        `pictures of ${size[0]}×${size[1]} px, by its positions; its config says ${configured[0]}×${configured[1]}`,
      );
    return { grid: gridOf(size), positioned: fit, imageSize: size };
  }
  throw sizeMissing(weights.source, found.called);
}

export function checkSize(size: [number, number], patch: number, source: string): void {
  const fault = sizeFault(size, patch);
  if (fault) throw new SlimViTError("bad-option", `${source}: an ${fault}`);
}

const sizeMissing = (source: string, what: string) =>
  new SlimViTError("bad-option", `${source}: ${what}. Give --image-size HEIGHTxWIDTH.`);

interface Positions {
  called: string;
  /** sides of the squares that are possible */
  squares: number[];
  /** how many prefix tokens have a position, if the positions are for this grid */
  fits: (grid: [number, number]) => number | undefined;
}

function positions(weights: Weights, prefixTokens: number): Positions | undefined {
  if (weights.has("pos_embed")) {
    const shape = weights.shape("pos_embed");
    if (shape.length === 4) {
      const [, rows, columns] = shape;
      const fits = () => 0;
      return { called: `${rows}×${columns} positions fit no such picture`, squares: [rows], fits };
    }
    const length = shape.at(-2)!;
    // Most have a position for every prefix token; DeiT III for patches alone, DINOv2 with registers for the class token.
    const candidates = [...new Set([prefixTokens, 0, Math.min(1, prefixTokens)])];
    return {
      called: `${length - prefixTokens} patches do not form a square`,
      squares: candidates.map((k) => Math.sqrt(length - k)),
      fits: ([rows, columns]) => candidates.find((k) => rows * columns + k === length),
    };
  }
  const table = ["rel_table", "blocks.0.attn.rel_table"].find((name) => weights.has(name));
  if (!table) return undefined;
  const entries = weights.shape(table, 2)[0];
  return {
    called: `a table of ${entries} relative positions does not fit a square`,
    squares: [entries, entries - 3].map((count) => (Math.sqrt(count) + 1) / 2),
    fits: (grid) => ([0, 3].includes(entries - tableLength(grid)) ? 0 : undefined),
  };
}

function square({ squares }: Positions, patch: number): [number, number] | undefined {
  const side = squares.find((count) => Number.isInteger(count) && count > 0);
  return side === undefined ? undefined : [side * patch, side * patch];
}
