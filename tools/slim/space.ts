/**
 * The slim models that can be made from one dense model, as points: how many steps each of six settings is away from the
 * dense model. A step makes the model smaller, so all zeros is the dense model itself.
 */
import {
  type Architecture,
  countMacs,
  innerDim,
  type Manifest,
  patchGrid,
  type WeightsDtype,
} from "../../src/format/model.ts";
import { resizedManifest } from "../checkpoints/resize.ts";
import { hasWholeHeads } from "../masks/masks.ts";
import { mergesFor, withMerges, withoutMerges } from "../masks/mergeSchedule.ts";
import { spreadLists } from "../masks/spreadLists.ts";

export const AXES = ["size", "merges", "lists", "attn", "mlp", "dtype"] as const;
export type Axis = (typeof AXES)[number];

export type Point = Readonly<Record<Axis, number>>;

export const DENSE: Point = { size: 0, merges: 0, lists: 0, attn: 0, mlp: 0, dtype: 0 };

/** The steps of each axis. */
export interface Space {
  size: [number, number][];
  /** shares of the MACs that are left by merging, or by merging more where the model merges already */
  merges: number[];
  /** the same for spread keep-lists */
  lists: number[];
  /** shares of the head channels that each block keeps */
  attn: number[];
  /** shares of the MLP units that each block keeps */
  mlp: number[];
  dtype: WeightsDtype[];
}

/** A point by its values. */
export type Setting = { [A in Axis]: Space[A][number] };

/**
 * The smallest pictures, as a share of the dense model's side. Smaller ones have too few patches to tell classes apart.
 */
const LEAST_SIDE = 0.42;
/** Two picture sizes differ by this factor at least. */
const SIDE_STEP = 0.88;
const TOKEN_SHARES = [1, 0.9, 0.8, 0.7, 0.62, 0.54, 0.47, 0.4];
const WIDTH_SHARES = [1, 0.9, 0.8, 0.7, 0.6, 0.5];

/** @param canCut whether widths can be cut here: it takes TensorFlow.js */
export function spaceOf(manifest: Manifest, canCut: boolean): Space {
  const { blocks, position, mlp, qkNorm } = manifest;
  const hasMerges = blocks.some(({ merge }) => merge > 0);
  const hasLists = blocks.some(({ keepIdx }) => keepIdx.length < blocks[0].keepIdx.length);
  // Cutting supports only plain MLPs and heads whose channels do not depend on one another.
  const units = canCut && hasWholeHeads(manifest) && mlp === "plain" ? WIDTH_SHARES : [1];
  const channels = position === "learned" && !qkNorm ? units : [1];
  return {
    size: hasMerges ? [manifest.imageSize] : sizesOf(manifest),
    merges: position === "relative" ? [1] : TOKEN_SHARES,
    lists: hasMerges || hasLists ? [1] : TOKEN_SHARES,
    attn: channels,
    mlp: units,
    dtype: ["f16", "int8"],
  };
}

/** Multiples of the patch size from the model's own size down, in its proportions. */
function sizesOf(manifest: Manifest): [number, number][] {
  const { imageSize, patchSize } = manifest;
  const [rows, columns] = patchGrid(manifest);
  const sizes: [number, number][] = [imageSize];
  for (let row = rows - 1; row >= Math.max(2, LEAST_SIDE * rows); row--) {
    const size: [number, number] = [row * patchSize, Math.max(1, Math.round((columns * row) / rows)) * patchSize];
    if (size[0] <= SIDE_STEP * sizes.at(-1)![0]) sizes.push(size);
  }
  return sizes;
}

export function settingOf(space: Space, point: Point): Setting {
  return Object.fromEntries(AXES.map((axis) => [axis, space[axis][point[axis]]])) as unknown as Setting;
}

/** Names a point by its values, so that its measurements are found again even if the steps change. */
export function keyOf({ size, merges, lists, attn, mlp, dtype }: Setting): string {
  return `${size[1]}x${size[0]} merges ${merges} lists ${lists} attn ${attn} mlp ${mlp} ${dtype}`;
}

/**
 * Every point that is one step smaller. Patches are merged or dropped, not both. The picture size changes first, only
 * from points where nothing else is reduced.
 */
export function neighbours(space: Space, point: Point): Point[] {
  const isWhole = AXES.every((axis) => point[axis] === 0 || axis === "size");
  return AXES.filter((axis) => point[axis] + 1 < space[axis].length && (axis !== "size" || isWhole))
    .map((axis) => ({ ...point, [axis]: point[axis] + 1 }))
    .filter(({ merges, lists }) => merges === 0 || lists === 0);
}

/** The smallest point along these axes, then those with ever more of their patches left, for where so few MACs cannot be reached. */
export function* smallestFirst(space: Space, axes: readonly Axis[]): Generator<Point> {
  const point = { ...DENSE };
  for (const axis of axes) point[axis] = space[axis].length - 1;
  const tokens = point.merges ? "merges" : "lists"; // not both
  for (let steps = point[tokens]; steps >= 0; steps--) yield { ...point, lists: 0, [tokens]: steps };
}

/**
 * A point's network, without its weights.
 *
 * @returns undefined where that few MACs cannot be reached by merging or dropping patches
 */
export function shapeOf<M extends Manifest>(manifest: M, setting: Setting): M | undefined {
  return withTokens(resizedManifest(withWidths(manifest, setting), setting.size), setting);
}

/**
 * A network with these channels and units in each block. Which head the channels belong to does not change the cost.
 */
function withWidths<A extends Architecture>(arch: A, { attn, mlp }: Setting): A {
  if (attn === 1 && mlp === 1) return arch;
  const blocks = arch.blocks.map((block) => ({
    ...block,
    headDims: attn === 1 ? block.headDims : [Math.max(1, Math.round(attn * innerDim(block)))],
    mlpHidden: mlp === 1 ? block.mlpHidden : Math.round(mlp * block.mlpHidden),
  }));
  return { ...arch, blocks };
}

/** The network with its patches merged or dropped until the share of its MACs is left. */
export function withTokens<M extends Manifest>(manifest: M, { merges, lists }: Setting): M | undefined {
  const classes = manifest.labels.length;
  const whole = countMacs(manifest, classes);
  if (lists < 1) return spreadLists(manifest, (thinned) => countMacs(thinned, classes) <= lists * whole);
  if (merges === 1) return manifest;
  try {
    const isReached = (merged: Architecture) => countMacs(merged, classes) <= merges * whole;
    return withMerges(manifest, mergesFor(withoutMerges(manifest), isReached, ""));
  } catch {
    return undefined; // even the steepest merges leave more
  }
}

/** "160×160 px, patches merged to 70 % of the MACs, 90 % of the MLP units" */
export function settingText({ size, merges, lists, attn, mlp }: Setting): string {
  return [
    `${size[1]}×${size[0]} px`,
    ...(merges < 1 ? [`patches merged to ${Math.round(100 * merges)} % of the MACs`] : []),
    ...(lists < 1 ? [`patches dropped to ${Math.round(100 * lists)} % of the MACs`] : []),
    ...(attn < 1 ? [`${Math.round(100 * attn)} % of the head channels`] : []),
    ...(mlp < 1 ? [`${Math.round(100 * mlp)} % of the MLP units`] : []),
  ].join(", ");
}

/** "2.05 points lost", for people */
export function lossText(points: number): string {
  if (points === 0) return "no point lost";
  return `${Math.abs(points).toFixed(2)} points ${points > 0 ? "lost" : "gained"}`;
}
