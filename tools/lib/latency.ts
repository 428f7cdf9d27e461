/**
 * What a network costs on one device, from tables that `slimvit profile` measured there: milliseconds of a block by its
 * tokens and its widths, read between their points by straight lines.
 */
import { readFileSync } from "node:fs";
import type { EngineName } from "../../src/engines/engine.ts";
import { messageOf, SlimViTError } from "../../src/errors.ts";
import { type Architecture, denseTokens, innerDim, type WeightsDtype } from "../../src/format/model.ts";
import type { BlockCost, Savings } from "./allocate.ts";

export const PROFILE_FORMAT = "slimvit-profile/1";

/** `device.json` */
export interface DeviceProfile {
  format: typeof PROFILE_FORMAT;
  engine: EngineName;
  dtype: WeightsDtype;
  threads: number;
  /** processor and browser, in words */
  device: string;
  /** what the tables hold for */
  embedDim: number;
  headDim: number;
  patchSize: number;
  imageSize: [number, number];
  prefixTokens: number;
  classes: number;
  /** ascending */
  tokens: number[];
  /** ascending, from 0 */
  channels: number[];
  units: number[];
  /** by tokens: a block without heads and units */
  emptyMs: number[];
  /** what attention adds to it, [tokens][channels] */
  attentionMs: number[][];
  /** what the MLP adds to it, [tokens][units] */
  mlpMs: number[][];
  /** the last block's part of another's cost: only the prefix tokens' query, projection and MLP are needed there */
  lastShare: number;
  /** outside of the blocks: [nothing embedded, every patch embedded] */
  outsideMs: [number, number];
}

/** @throws SlimViTError `bad-input` for a file that is no profile, `bad-option` for one of another shape of network */
export function readProfile(path: string, arch: Architecture): DeviceProfile {
  let profile: DeviceProfile;
  try {
    profile = JSON.parse(readFileSync(path, "utf8"));
  } catch (error) {
    throw new SlimViTError("bad-input", `${path}: cannot be read as JSON (${messageOf(error)}).`);
  }
  if (profile?.format !== PROFILE_FORMAT)
    throw new SlimViTError("bad-input", `${path}: is no device profile; "slimvit profile -o ${path}" measures one.`);
  for (const key of ["embedDim", "headDim", "patchSize", "imageSize", "prefixTokens"] as const) {
    if (String(profile[key]) !== String(arch[key])) {
      throw new SlimViTError(
        "bad-option",
        `${path}: was measured for ${key} ${profile[key]}, the model has ${arch[key]}; measure it with "slimvit profile --shape MODEL".`,
      );
    }
  }
  return profile;
}

/** Milliseconds of one picture's inference. */
export function predictMs(profile: DeviceProfile, arch: Architecture): number {
  const embedded = (arch.blocks[0].keepIdx.length - arch.prefixTokens) / (denseTokens(arch) - arch.prefixTokens);
  const [nothing, everything] = profile.outsideMs;
  let total = nothing + embedded * (everything - nothing);
  arch.blocks.forEach((block, i) => {
    const cost = { tokens: block.keepIdx.length, channels: innerDim(block), units: block.mlpHidden };
    total += blockMs(profile, cost) * (i === arch.blocks.length - 1 ? profile.lastShare : 1);
  });
  return total;
}

function blockMs(profile: DeviceProfile, { tokens: n, channels, units }: BlockCost): number {
  const { tokens } = profile;
  return (
    between(tokens, (k) => profile.emptyMs[k], n) +
    between(tokens, (k) => between(profile.channels, (c) => profile.attentionMs[k][c], channels), n) +
    between(tokens, (k) => between(profile.units, (u) => profile.mlpMs[k][u], units), n)
  );
}

/** What removing one more channel, unit or token saves, for `allocate`. */
export function latencySavings(profile: DeviceProfile, arch: Architecture): Savings {
  const share = (block: number) => (block === arch.blocks.length - 1 ? profile.lastShare : 1);
  const saving = (block: number, cost: BlockCost, less: Partial<BlockCost>) =>
    Math.max(MIN_SAVING, share(block) * (blockMs(profile, cost) - blockMs(profile, { ...cost, ...less })));
  const [nothing, everything] = profile.outsideMs;
  const patchMs = (everything - nothing) / (denseTokens(arch) - arch.prefixTokens);
  return {
    channel: (cost, block) => saving(block, cost, { channels: cost.channels - 1 }),
    unit: (cost, block) => saving(block, cost, { units: cost.units - 1 }),
    token: (cost, block) => saving(block, cost, { tokens: cost.tokens - 1 }) + (block === 0 ? patchMs : 0),
  };
}

/** Milliseconds; where a table is flat, removal must not look free. */
const MIN_SAVING = 1e-9;

/** The line between the two points around `x`, or the outermost two where it lies outside. */
function between(points: number[], value: (index: number) => number, x: number): number {
  if (points.length === 1) return value(0);
  let k = 1;
  while (k < points.length - 1 && points[k] < x) k++;
  const [low, high] = [points[k - 1], points[k]];
  const share = (x - low) / (high - low);
  return value(k - 1) * (1 - share) + value(k) * share;
}
