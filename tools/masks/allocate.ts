/**
 * One target for three families: which channels, units and tokens go first, by importance per MAC or parameter saved.
 * The order of removal does not depend on the target, so the models of one search are nested.
 */
import { type Architecture, innerDim } from "../../src/format/model.ts";
import type { BlockMask, BlockZeta, MaskMode } from "./masks.ts";

/** What is to be saved. */
export type Cost = "macs" | "params";

/** A block's current width and tokens, on which depends what removing one more unit saves. */
export interface BlockCost {
  tokens: number;
  channels: number;
  units: number;
}

/** What one more unit of each kind saves; without `token`, tokens cost nothing and stay. */
export interface Savings {
  channel(cost: BlockCost, block: number): number;
  unit(cost: BlockCost, block: number): number;
  token?(cost: BlockCost, block: number): number;
}

/**
 * Removes the unit with the least importance per MAC (or parameter) saved until at most `share` of the dense cost is left,
 * or nothing is left that may go.
 * A token goes in the deepest block where it still lives, so keep-lists stay nested; prefix tokens never go; a family
 * whose mask was frozen stays whole. A token has no parameters of its own: with them as the cost all tokens stay.
 * The cost may also be one that a device's tables give: see latency.ts.
 *
 * @param importance per block, `attn` spread over channels, `patch` by token
 * @param dense the dense model's cost
 */
export function allocate(
  arch: Architecture,
  mode: MaskMode,
  importance: BlockZeta[],
  frozen: { attn: boolean; mlp: boolean; patch: boolean },
  dense: number,
  share: number,
  cost: Cost | Savings = "macs",
): BlockMask[] {
  const { headDim, prefixTokens, blocks } = arch;
  const savings = typeof cost === "string" ? countedSavings(arch)[cost] : cost;
  const masks: BlockMask[] = blocks.map((block) => ({
    attn: Array(innerDim(block)).fill(true),
    mlp: Array(block.mlpHidden).fill(true),
    tokens: Array(block.keepIdx.length).fill(true),
  }));
  const state: BlockCost[] = blocks.map((block) => ({
    tokens: block.keepIdx.length,
    channels: innerDim(block),
    units: block.mlpHidden,
  }));
  /** the deepest block in which each token lives */
  const deepest: number[] = Array(blocks[0].keepIdx.length).fill(blocks.length - 1);
  const groups = channelGroups(mode, blocks[0].headDims.length, headDim, blocks.length);

  let left = dense;
  while (left > dense * share) {
    let best: { score: number; saving: number; remove: () => void } | undefined;
    const offer = (value: number, saving: number, remove: () => void) => {
      // A token in a block that has lost everything else does nothing there and is in the way: it goes first.
      const score = saving > 0 ? value / saving : -1;
      // Strictly less: ties go to the first block, family and index.
      if (!best || score < best.score) best = { score, saving, remove };
    };
    if (!frozen.attn) {
      const saved = state.map((cost, block) => savings.channel(cost, block));
      for (const group of groups) {
        if (!masks[group[0].block].attn[group[0].channel]) continue;
        let [value, saving] = [0, 0];
        for (const { block, channel } of group) {
          value += importance[block].attn[channel];
          saving += saved[block];
        }
        // ζ shared by a group has one importance, spread over its channels
        offer(mode === "channel" ? value : value / group.length, saving, () => {
          for (const { block, channel } of group) {
            masks[block].attn[channel] = false;
            state[block].channels--;
          }
        });
      }
    }
    blocks.forEach((_, block) => {
      if (frozen.mlp) return;
      const saving = savings.unit(state[block], block);
      const values = importance[block].mlp;
      const mask = masks[block].mlp;
      for (let unit = 0; unit < mask.length; unit++) {
        if (mask[unit] && (!best || values[unit] / saving < best.score)) {
          offer(values[unit], saving, () => {
            mask[unit] = false;
            state[block].units--;
          });
        }
      }
    });
    if (!frozen.patch && savings.token) {
      const saved = state.map((cost, block) => savings.token!(cost, block));
      for (let token = prefixTokens; token < deepest.length; token++) {
        const block = deepest[token];
        if (block < 0) continue;
        offer(importance[block].patch[token], saved[block], () => {
          masks[block].tokens[token] = false;
          state[block].tokens--;
          deepest[token]--;
        });
      }
    }
    if (!best) break; // nothing is left that may go
    best.remove();
    left -= best.saving;
  }
  return masks;
}

function countedSavings({ embedDim: d, patchSize }: Architecture): Record<Cost, Savings> {
  return {
    macs: {
      channel: ({ tokens: n }) => 4 * n * d + 2 * n * n,
      unit: ({ tokens: n }) => 2 * n * d,
      token: ({ tokens: n, channels: s, units: m }, block) =>
        4 * d * s + 2 * (2 * n - 1) * s + 2 * d * m + (block === 0 ? 3 * patchSize ** 2 * d : 0),
    },
    // Weights, and the biases of q, k, v and of fc1.
    params: { channel: () => 4 * d + 3, unit: () => 2 * d + 1 },
  };
}

interface Channel {
  block: number;
  channel: number;
}

/** Channels that one ζ covers go together: one; the channels of a head; the same channel of every head. */
function channelGroups(mode: MaskMode, heads: number, headDim: number, depth: number): Channel[][] {
  const groups: Channel[][] = [];
  for (let block = 0; block < depth; block++) {
    const all = Array.from({ length: heads * headDim }, (_, channel) => ({ block, channel }));
    if (mode === "channel") groups.push(...all.map((channel) => [channel]));
    else if (mode === "head") for (let h = 0; h < heads; h++) groups.push(all.slice(h * headDim, (h + 1) * headDim));
    else for (let c = 0; c < headDim; c++) groups.push(all.filter(({ channel }) => channel % headDim === c));
  }
  return groups;
}
