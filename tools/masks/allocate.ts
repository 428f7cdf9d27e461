/**
 * One target for three families: the order in which channels, units and tokens are removed, by importance for each MAC
 * or parameter saved. The order does not depend on the target, so the models of one search are nested.
 */
import { type Architecture, innerDim, tokenCounts } from "../../src/format/model.ts";
import { type BlockMask, type BlockZeta, channelGroupsOf, type MaskMode } from "./masks.ts";

/** The cost that is to be reduced. */
export type Cost = "macs" | "params";

/** A block's current width and tokens, on which the saving of one more removed unit depends. */
export interface BlockCost {
  tokens: number;
  channels: number;
  units: number;
}

/** The saving of removing one more unit of each kind. Without `token`, tokens cost nothing and stay. */
export interface Savings {
  channel(cost: BlockCost, block: number): number;
  unit(cost: BlockCost, block: number): number;
  token?(cost: BlockCost, block: number): number;
}

/**
 * Removes the unit with the least importance per MAC (or parameter) saved until at most `share` of the dense cost is left,
 * or nothing is left that may go.
 * A token goes in the deepest block where it still lives, so keep-lists stay nested; prefix tokens never go; a family
 * whose mask was frozen stays whole. A block that merges keeps keys to compare, and pooling by more than the class token
 * keeps a patch. A token has no parameters of its own: with them as the cost all tokens stay.
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
  const { prefixTokens, pooling, blocks } = arch;
  const savings = typeof cost === "string" ? countedSavings(arch)[cost] : cost;
  const masks: BlockMask[] = blocks.map((block) => ({
    attn: Array(innerDim(block)).fill(true),
    mlp: Array(block.mlpHidden).fill(true),
    tokens: Array(block.keepIdx.length).fill(true),
  }));
  const counts = tokenCounts(arch);
  const state: BlockCost[] = blocks.map((block, i) => ({
    tokens: counts[i].entering,
    channels: innerDim(block),
    units: block.mlpHidden,
  }));
  /** the deepest block in which each token lives */
  const deepest: number[] = Array(blocks[0].keepIdx.length).fill(blocks.length - 1);
  const groups = blocks.flatMap((of, block) =>
    channelGroupsOf(arch, mode, of).map((channels) => channels.map((channel): Channel => ({ block, channel }))),
  );
  const mayEmpty = (block: number) => pooling === "class" || block < blocks.length - 1;

  let left = dense;
  while (left > dense * share) {
    let best: { score: number; saving: number; remove: () => void } | undefined;
    const offer = (value: number, saving: number, remove: () => void) => {
      // A token has no effect in a block that has lost everything else, but blocks other removals. It goes first.
      const score = saving > 0 ? value / saving : -1;
      // Strictly less: ties go to the first block, family and index.
      if (!best || score < best.score) best = { score, saving, remove };
    };
    if (!frozen.attn) {
      const saved = state.map((cost, block) => savings.channel(cost, block));
      for (const group of groups) {
        const [{ block: of, channel: first }] = group;
        if (!masks[of].attn[first]) continue;
        if (blocks[of].merge && state[of].channels <= group.length) continue;
        let [value, saving] = [0, 0];
        for (const { block, channel } of group) {
          value += importance[block].attn[channel];
          saving += saved[block];
        }
        // ζ shared by a group has one importance, spread over its channels
        offer(value / group.length, saving, () => {
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
        if (block < 0 || (!mayEmpty(block) && state[block].tokens === prefixTokens + 1)) continue;
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

/** Savings as `countMacs` and `countParams` count them. */
function countedSavings(arch: Architecture): Record<Cost, Savings> {
  const { embedDim: d, patchSize, prefixTokens, blocks } = arch;
  const linears = arch.mlp === "swiglu" ? 3 : 2;
  const similarities = (n: number) => Math.floor((n - prefixTokens) / 2) * Math.ceil((n - prefixTokens) / 2);
  const pooled = arch.pooling === "map" ? d * (arch.poolHeads! + d + 1) : 0;
  return {
    macs: {
      channel: ({ tokens: n }, block) => 4 * n * d + 2 * n * n + (blocks[block].merge ? similarities(n) : 0),
      unit: ({ tokens: n }, block) => linears * (n - blocks[block].merge) * d,
      token: ({ tokens: n, channels: s, units: m }, block) =>
        4 * d * s +
        2 * (2 * n - 1) * s +
        linears * d * m +
        (block === 0 ? 3 * patchSize ** 2 * d : 0) +
        (block === blocks.length - 1 ? pooled : 0),
    },
    // Weights, and what each channel and unit has of biases, norms and RoPE.
    params: {
      channel: () => 4 * d + 3 + (arch.qkNorm ? 4 : 0) + Number(arch.position === "rope"),
      unit: () => linears * d + linears - 1 + (arch.hiddenNorm ? 2 : 0),
    },
  };
}

interface Channel {
  block: number;
  channel: number;
}
