/** Masks that give a network a certain cost: MACs, parameters, or milliseconds on a profiled device. */
import { SlimViTError } from "../../src/errors.ts";
import { type Architecture, countMacs, countParams } from "../../src/format/model.ts";
import { percent } from "../shared/terminal.ts";
import type { Cost, Savings } from "./allocate.ts";
import { latencySavings, predictMs, readProfile } from "./latency.ts";
import { type BlockMask, slimArchitecture } from "./masks.ts";

export type TargetCost = Cost | "latencyMs";

export interface Target {
  cost: TargetCost;
  /** of the dense model's; milliseconds of latency */
  share: number;
}

/** The options of compress that give a target. */
interface TargetOptions {
  macs?: number | true;
  params?: number | true;
  latencyMs?: number;
  profile?: string;
  budgets?: number[];
}

/**
 * @returns nothing where none is given; `true` where `budgets` has the shares
 * @throws SlimViTError `bad-option` for more than one
 */
export function targetOf({
  macs,
  params,
  latencyMs,
  profile,
  budgets,
}: TargetOptions): { cost: TargetCost; share: number | true } | undefined {
  if ((latencyMs === undefined) !== (profile === undefined))
    throw new SlimViTError("bad-option", "compress: --latency-ms and --profile must be given together.");
  if (latencyMs !== undefined) {
    if (macs !== undefined || params !== undefined || budgets)
      throw new SlimViTError("bad-option", "compress: --latency-ms is a target of its own; give no other.");
    return { cost: "latencyMs", share: latencyMs };
  }
  if (macs !== undefined && params !== undefined)
    throw new SlimViTError("bad-option", "compress: --macs and --params are two targets; give one of them.");
  if (macs !== undefined) return { cost: "macs", share: macs };
  return params === undefined ? undefined : { cost: "params", share: params };
}

export const COUNT = { macs: countMacs, params: countParams };

export const FLAG: Record<TargetCost, string> = { macs: "macs", params: "params", latencyMs: "latency-ms" };

/** The cost of a network. */
export type CostOf = (net: Architecture) => number;

/** @param file the device's profile, where the cost is its milliseconds */
export function costFunction(cost: TargetCost, file: string | undefined, arch: Architecture, classes: number): CostOf {
  if (cost !== "latencyMs") return (net) => COUNT[cost](net, classes);
  const profile = readProfile(file!, arch);
  return (net) => predictMs(profile, net);
}

/** The cost that a target leaves, in its own unit. */
export const goalOf = ({ cost, share }: Target, dense: number): number =>
  cost === "latencyMs" ? share : share * dense;

/** Enough steps to reach a thousandth of the target. */
const BISECTIONS = 10;

/**
 * @param file the device's profile, where the target is its milliseconds
 * @param cut masks that leave a share of a cost
 * @throws SlimViTError `bad-option` for a target that cannot be reached
 */
export function toTarget(
  target: Target,
  file: string | undefined,
  arch: Architecture,
  classes: number,
  cut: (cost: Cost | Savings, dense: number, share: number) => BlockMask[],
): BlockMask[] {
  const { cost, share } = target;
  const profile = cost === "latencyMs" ? readProfile(file!, arch) : undefined;
  const costOf = costFunction(cost, file, arch, classes);
  const dense = costOf(arch);
  const goal = goalOf(target, dense);
  const savings = profile ? latencySavings(profile, arch) : (cost as Cost);
  const cutTo = (aim: number) => {
    const masks = cut(savings, dense, aim / dense);
    return { masks, left: costOf(slimArchitecture(arch, masks)) };
  };
  const first = cutTo(goal);
  if (first.left <= goal) return first.masks;
  // Milliseconds go by panels of channels and units, savings one by one: aim lower, but no lower than it takes.
  let reached = profile ? cutTo(0) : first;
  const { left } = reached;
  if (left <= goal) {
    let [low, high] = [0, goal];
    for (let step = 0; step < BISECTIONS; step++) {
      const middle = (low + high) / 2;
      const tried = cutTo(middle);
      if (tried.left <= goal) [low, reached] = [middle, tried];
      else high = middle;
    }
    return reached.masks;
  }
  throw new SlimViTError(
    "bad-option",
    `compress: --${FLAG[cost]} ${share} cannot be reached: ${profile ? `${left.toFixed(3)} ms` : percent(left / dense)} is left when ` +
      `all that the search had masks for ${cost === "params" ? "and that has parameters " : ""}is gone.`,
  );
}
