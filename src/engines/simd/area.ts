/** The addresses of the weights that several variants share, and their order. */
import { pad8 } from "./padding.ts";

/** Where a linear's panels lie. */
export interface Place {
  at: number;
  /** from one panel to the next */
  panelBytes: number;
  /**
   * For proj: memory for the panels of a variant with fewer channels, whose columns are gathered from the panels at
   * `at`.
   */
  gathered: number;
}

/** The weights of all variants. */
export interface WeightsArea {
  places: Map<string, Place>;
  /** of each block, smallest variant first */
  widths: number[][][];
  /** of the largest variant, of each block */
  wholeHeads: number[][];
  /** behind the weights */
  end: number;
}

export const differs = (a: number[], b: number[]): boolean => String(a) !== String(b);

/**
 * The order in which the panels of q, k and v lie.
 *
 * @param headDims of the variant
 * @param widths of all variants, smallest first
 * @returns for each place the panel that would lie there with all of q first, then k, then v
 */
export function panelOrder(headDims: number[], widths: number[][]): number[] {
  const wide = headDims.map((width) => pad8(width) / 8);
  const inner = wide.reduce((sum, panels) => sum + panels, 0);
  const starts = wide.map((_, h) => wide.slice(0, h).reduce((sum, panels) => sum + panels, 0));
  const done = headDims.map(() => 0);
  const order: number[] = [];
  for (const theirs of widths) {
    const upTo = headDims.map((_, h) => Math.max(done[h], Math.min(wide[h], pad8(theirs[h] ?? 0) / 8)));
    for (let group = 0; group < 3; group++)
      for (let h = 0; h < headDims.length; h++)
        for (let panel = done[h]; panel < upTo[h]; panel++) order.push(group * inner + starts[h] + panel);
    upTo.forEach((panels, h) => void (done[h] = panels));
  }
  return order;
}
