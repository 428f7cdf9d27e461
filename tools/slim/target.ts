/** The target: how much accuracy may be lost, or how small or fast the model must be. It is checked before any work. */
import { SlimViTError } from "../../src/errors.ts";
import { countMacs } from "../../src/format/model.ts";
import { fileBytes } from "../models/folders.ts";
import { percent, si } from "../shared/terminal.ts";
import type { Builder } from "./build.ts";
import { type CostName, type PointMeasurer, timeInTurn } from "./measure.ts";
import { AXES, type Axis, DENSE, type Space, settingOf, shapeOf, smallestFirst } from "./space.ts";

export interface Targets {
  /** points of top-1 on the val pictures; of agreement with the dense model where labels are not looked at */
  loseAtMost?: number;
  latencyMs?: number;
  /** share of the dense MACs */
  macs?: number;
  bytes?: number;
}

/** For `loss` the smallest model that meets the target is chosen; for the others the most accurate one that does. */
export type Target = { kind: "loss" | "ms" | "macs" | "bytes"; most: number };

const FLAGS = { loseAtMost: "--lose-at-most", latencyMs: "--latency-ms", macs: "--macs", bytes: "--bytes" };
const KINDS = { loseAtMost: "loss", latencyMs: "ms", macs: "macs", bytes: "bytes" } as const;

/** @throws SlimViTError `bad-option` unless exactly one is given */
export function targetOf(targets: Targets): Target {
  const given = (Object.keys(FLAGS) as (keyof Targets)[]).filter((name) => targets[name] !== undefined);
  if (given.length !== 1) {
    const all = Object.values(FLAGS).join(", ");
    const fault = given.length
      ? `${given.map((name) => FLAGS[name]).join(" and ")} are two targets`
      : "no target is given";
    throw new SlimViTError("bad-option", `slim: ${fault}; give one of ${all}, such as "--lose-at-most 1".`);
  }
  const [name] = given;
  const most = targets[name]!;
  if (name === "loseAtMost" && most >= 100)
    throw new SlimViTError(
      "bad-option",
      `slim: --lose-at-most is ${most}; expected percentage points below 100. For example, 1 allows 89 % after 90 %.`,
    );
  return { kind: KINDS[name], most };
}

/** "at most 1 point of top-1 lost", for people */
export function targetText({ kind, most }: Target, unlabelled: boolean): string {
  const points = `${most} ${most === 1 ? "point" : "points"}`;
  if (kind === "loss")
    return unlabelled ? `another best class on at most ${most} % of the pictures` : `at most ${points} of top-1 lost`;
  if (kind === "ms") return `at most ${most} ms an image`;
  return kind === "macs" ? `at most ${percent(most)} of the MACs` : `at most ${(most / 1e6).toFixed(2)} MB`;
}

/** The unit of `cost` under each target, and the axes along which it falls. */
export const COSTS: Record<Target["kind"], { cost: CostName; axes: readonly Axis[] }> = {
  loss: { cost: "work", axes: AXES },
  ms: { cost: "ms", axes: AXES.filter((axis) => axis !== "dtype") },
  macs: { cost: "macs", axes: AXES.filter((axis) => axis !== "dtype") },
  bytes: { cost: "bytes", axes: ["attn", "mlp"] },
};

/**
 * @returns the target in the unit of `cost`
 * @throws SlimViTError `bad-option` for one below the smallest model that can be made
 */
export async function requireReachable(
  target: Target,
  space: Space,
  builder: Builder,
  measurer: PointMeasurer,
): Promise<number> {
  const { kind, most } = target;
  if (kind === "loss") return most;
  const dense = (await measurer.cost(DENSE))!;
  const asked = kind === "macs" ? most * dense : most;
  if (dense <= asked) return asked;
  const least = await leastCost(kind, space, builder);
  if (asked >= least) return asked;
  const shown = {
    ms: (value: number) => `${value.toFixed(1)} ms`,
    macs: (value: number) => `${percent(value / dense)} of the MACs (${si(value)})`,
    bytes: (value: number) => `${si(value)}B`,
  }[kind];
  const hint = kind === "bytes" ? " Only widths and 8 bits make a file smaller." : "";
  throw new SlimViTError(
    "bad-option",
    `slim: ${FLAGS[kind === "ms" ? "latencyMs" : kind]} ${most} cannot be reached: the smallest model that slim makes of this one ` +
      `has ${shown(least)}.${hint} Give a larger target, or start from a smaller model.`,
  );
}

/** The cost of the smallest model, with as few patches as it can have. */
async function leastCost(kind: "ms" | "macs" | "bytes", space: Space, builder: Builder): Promise<number> {
  const { manifest } = builder.dense;
  const all = [...smallestFirst(space, COSTS[kind].axes)].map((point) => settingOf(space, point));
  const setting = all.find((one) => shapeOf(manifest, one))!; // the last has all of its patches
  if (kind === "macs") return countMacs(shapeOf(manifest, setting)!, manifest.labels.length);
  const outline = builder.outline(setting);
  return kind === "bytes" ? fileBytes(outline.tensors, outline.dtype) : (await timeInTurn([outline], RUNS))[0];
}

const RUNS = 9;
