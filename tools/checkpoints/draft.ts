import type { Architecture, Tensors } from "../../src/format/model.ts";
import type { Description } from "./description.ts";
import type { StoredGrid } from "./grid.ts";
import type { Weights } from "./weights.ts";

/** What is being built, and what it is built from. */
export interface Draft {
  weights: Weights;
  described: Description;
  arch: Architecture;
  tensors: Tensors;
  stored: StoredGrid;
}
