/**
 * The predicted cost of a network on one device, from tables that `slimvit profile` measured there: milliseconds of a
 * block by its tokens and its widths. Widths count as the kernels compute them, each head's and the MLP's rounded up to
 * a multiple of 8. Between the points, the cost of one token is interpolated linearly over the widths and over the
 * tokens, which is exact for attention, whose cost is quadratic in the tokens.
 */
import { readFileSync } from "node:fs";
import type { EngineName } from "../../src/engines/engine.ts";
import { messageOf, SlimViTError } from "../../src/errors.ts";
import { type Feature, unsupportedFeature } from "../../src/format/features.ts";
import { type Architecture, denseTokens, type WeightsDtype } from "../../src/format/model.ts";
import type { BlockCost, Savings } from "./allocate.ts";

export const PROFILE_FORMAT = "slimvit-profile/2";

/** `device.json` */
export interface DeviceProfile {
  format: typeof PROFILE_FORMAT;
  engine: EngineName;
  dtype: WeightsDtype;
  threads: number;
  /** processor and browser, in words */
  device: string;
  /** this and the five below: the network shape that the tables are valid for */
  embedDim: number;
  headDim: number;
  patchSize: number;
  imageSize: [number, number];
  prefixTokens: number;
  classes: number;
  /** of a dense block */
  heads: number;
  /** ascending */
  tokens: number[];
  /** ascending, from 0; of all heads, each padded */
  channels: number[];
  /** ascending, from 0; padded */
  units: number[];
  /** by tokens: a block without heads and units */
  emptyMs: number[];
  /** by tokens: the additional time of such a block when it is the first with so few tokens */
  dropMs: number[];
  /** the additional time of attention with all heads, [tokens][channels] */
  attentionMs: number[][];
  /** by tokens: the additional time of one more head for the same number of channels */
  headMs: number[];
  /** the additional time of the MLP, [tokens][units] */
  mlpMs: number[][];
  /**
   * The last block, where only the prefix tokens have a query, a projection and an MLP: without heads, and with all of them
   * dense, by `tokens` of its own.
   */
  last: { tokens: number[]; emptyMs: number[]; fullMs: number[] };
  /** outside of the blocks: [nothing embedded, every patch embedded] */
  outsideMs: [number, number];
}

/**
 * @throws SlimViTError `bad-input` for a file that is no profile, `bad-option` for one of another shape of network,
 *   `unsupported` for a network whose blocks the tables do not have
 */
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
  const unknown = unsupportedFeature(arch, MEASURED_ALIKE);
  if (unknown)
    throw new SlimViTError(
      "unsupported",
      `${path}: the tables of a profile hold for plain networks only, not for ${unknown}. Give a share of the MACs instead.`,
    );
  return profile;
}

/** Features beyond a plain DeiT that a network may have, because its blocks cost about the same. */
const MEASURED_ALIKE: Feature[] = [
  ...(["registers", "pooledNorm", "noTokenNorm", "activation", "preNorm", "normEps"] as const),
  ...(["projection", "noHead", "cosine"] as const),
];

/** Milliseconds of one picture's inference. */
export function predictMs(profile: DeviceProfile, arch: Architecture): number {
  const embedded = (arch.blocks[0].keepIdx.length - arch.prefixTokens) / (denseTokens(arch) - arch.prefixTokens);
  const [nothing, everything] = profile.outsideMs;
  let total = nothing + embedded * (everything - nothing);
  arch.blocks.forEach(({ headDims, mlpHidden, keepIdx }, i) => {
    const tokens = keepIdx.length;
    const channels = headDims.reduce((sum, width) => sum + padded(width), 0);
    const cost = { tokens, channels, units: padded(mlpHidden) };
    if (i > 0 && tokens < arch.blocks[i - 1].keepIdx.length)
      total += overTokens(profile.tokens, profile.dropMs, tokens);
    total += blockMs(profile, arch, cost, i, headDims.length);
  });
  return total;
}

/** Lanes of the kernels' panels: a narrower width costs as much. */
export const padded = (width: number): number => Math.ceil(width / 8) * 8;

function blockMs(
  profile: DeviceProfile,
  { blocks, prefixTokens }: Architecture,
  { tokens: n, channels, units }: BlockCost,
  index: number,
  heads = channels ? profile.heads : 0,
): number {
  const { tokens, last } = profile;
  const mlp = (rows: number) =>
    overTokens(
      tokens,
      tokens.map((_, k) => between(profile.units, profile.mlpMs[k], units)),
      rows,
    );
  if (index === blocks.length - 1) {
    const share = channels / profile.channels.at(-1)!;
    const row = last.tokens.map((_, k) => last.emptyMs[k] + share * (last.fullMs[k] - last.emptyMs[k]));
    return overTokens(last.tokens, row, n) + mlp(prefixTokens);
  }
  let attention = 0;
  if (heads) {
    // A width of 0 has no heads, and lies on no line with the others; it serves where there is but one other.
    const from = profile.channels.length > 2 ? 1 : 0;
    const allHeads = tokens.map((_, k) =>
      between(profile.channels.slice(from), profile.attentionMs[k].slice(from), channels),
    );
    const fewer = (profile.heads - heads) * overTokens(tokens, profile.headMs, n);
    attention = Math.max(0, overTokens(tokens, allHeads, n) - fewer);
  }
  return overTokens(tokens, profile.emptyMs, n) + attention + mlp(n);
}

/**
 * The saving of removing one more channel, unit or token, for `allocate`. Widths are smoothed, because single ones save
 * nothing.
 */
export function latencySavings(profile: DeviceProfile, arch: Architecture): Savings {
  const saving = (block: number, cost: BlockCost, less: Partial<BlockCost>) =>
    Math.max(MIN_SAVING, blockMs(profile, arch, cost, block) - blockMs(profile, arch, { ...cost, ...less }, block));
  const [nothing, everything] = profile.outsideMs;
  const patchMs = (everything - nothing) / (denseTokens(arch) - arch.prefixTokens);
  return {
    channel: (cost, block) => saving(block, cost, { channels: cost.channels - 1 }),
    unit: (cost, block) => saving(block, cost, { units: cost.units - 1 }),
    token: (cost, block) => saving(block, cost, { tokens: cost.tokens - 1 }) + (block === 0 ? patchMs : 0),
  };
}

/** Milliseconds. Where a table is flat, removal must not seem free. */
const MIN_SAVING = 1e-9;

/** The line between the two points around `x`, or the outermost two where it lies outside. */
function between(points: number[], values: number[], x: number): number {
  if (points.length === 1) return values[0];
  let k = 1;
  while (k < points.length - 1 && points[k] < x) k++;
  const [low, high] = [points[k - 1], points[k]];
  const share = (x - low) / (high - low);
  return values[k - 1] * (1 - share) + values[k] * share;
}

/** Interpolates the cost of one token and multiplies it by n. This is exact where n tokens cost a n + b n². */
function overTokens(points: number[], values: number[], n: number): number {
  return (
    n *
    between(
      points,
      values.map((v, k) => v / points[k]),
      n,
    )
  );
}
