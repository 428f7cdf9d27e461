/** Orders of the patches whose first ones are a keep-list of any length, without a search. */
import { type Architecture, patchGrid } from "../../src/format/model.ts";

/** `spread`: evenly over the picture; `centre`: by distance from its middle. */
export type PatchOrder = "spread" | "centre";
export const PATCH_ORDERS: PatchOrder[] = ["spread", "centre"];

/** Patches of the grid, row by row from 0, in `order`; ties by index. */
export function orderedPatches(arch: Architecture, order: PatchOrder): number[] {
  const [rows, columns] = patchGrid(arch);
  const place =
    order === "spread"
      ? ditherThreshold
      : (row: number, column: number) => ((row + 0.5) / rows - 0.5) ** 2 + ((column + 0.5) / columns - 0.5) ** 2;
  const patches = Array.from({ length: rows * columns }, (_, patch) => patch);
  const places = patches.map((patch) => place(Math.floor(patch / columns), patch % columns));
  return patches.sort((a, b) => places[a] - places[b] || a - b);
}

/** Bits of a row or column that matter: grids of up to 256 × 256 patches. */
const BITS = 8;

/**
 * Bayer's threshold of ordered dithering: in any square of 2ᵏ × 2ᵏ patches at a multiple of 2ᵏ, thresholds are spaced alike.
 * @see Bayer 1973, "An optimum method for two-level rendition of continuous-tone pictures"
 */
function ditherThreshold(row: number, column: number): number {
  let threshold = 0;
  for (let bit = 0; bit < BITS; bit++) {
    const r = (row >> bit) & 1;
    const c = (column >> bit) & 1;
    threshold = 4 * threshold + 2 * (r ^ c) + r;
  }
  return threshold;
}
