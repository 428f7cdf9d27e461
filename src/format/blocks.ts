/** The blocks of one variant, read and checked. */
import { type Architecture, type BlockShape, denseTokens, tokenCounts } from "./architecture.ts";
import type { Check } from "./check.ts";
import { LIMITS } from "./limits.ts";

/**
 * @param at what stands before "blocks" in messages
 * @param arch the variant's, whose own blocks are not read
 * @param isVersion1 of format version 1, which merges nothing
 */
export function checkBlocks(
  check: Check,
  value: unknown,
  at: string,
  arch: Architecture,
  isVersion1: boolean,
): BlockShape[] {
  const tokens = denseTokens(arch);
  const blocks: BlockShape[] = [];
  check.list(value, `${at}blocks`, 1, LIMITS.blocks).forEach((entry, i) => {
    const where = `${at}blocks[${i}]`;
    const block = check.object(entry, where);
    const headDims = check.list(block.headDims, `${where}.headDims`, 0, LIMITS.heads) as number[];
    for (const width of headDims) {
      check.integer(width, `${where}.headDims`, 1, arch.headDim);
      if (arch.position === "rope" && width % 2)
        check.fail(`${where}.headDims is ${width}; expected even widths, as RoPE turns channels in pairs.`);
    }
    const most = Math.min(LIMITS.mlpHidden, arch.hiddenNorm ?? LIMITS.mlpHidden);
    const mlpHidden = check.integer(block.mlpHidden, `${where}.mlpHidden`, 0, most);
    const keepIdx = checkKeepIdx(check, block.keepIdx, where, tokens, arch.prefixTokens);
    if (i > 0) checkSubset(check, keepIdx, blocks, `${at}block`);
    const merge = isVersion1 ? 0 : check.integer(block.merge ?? 0, `${where}.merge`, 0, tokens);
    blocks.push({ headDims, mlpHidden, keepIdx, merge });
    if (merge) checkMerge(check, blocks, where, arch);
  });
  const last = blocks.length - 1;
  const pooled = `pooling "${arch.pooling}"`;
  if (arch.pooling === "class" && blocks[last].merge)
    check.fail(
      `${at}blocks[${last}].merge is ${blocks[last].merge}; expected 0, as ${pooled} reads no patch after it.`,
    );
  if (arch.pooling !== "class" && blocks[last].keepIdx.length === arch.prefixTokens)
    check.fail(`${at}blocks[${last}].keepIdx has no patch left; ${pooled} needs one at least.`);
  return blocks;
}

function checkKeepIdx(check: Check, value: unknown, at: string, tokens: number, prefixTokens: number): number[] {
  const where = `${at}.keepIdx`;
  const keepIdx = check.list(value, where, 1, tokens) as number[];
  keepIdx.forEach((token, k) => {
    check.integer(token, where, 0, tokens - 1);
    if (k > 0 && token <= keepIdx[k - 1]) check.fail(`${where} is not ascending at ${keepIdx[k - 1]}, ${token}.`);
  });
  for (let prefix = 0; prefix < prefixTokens; prefix++) {
    if (keepIdx[prefix] !== prefix)
      check.fail(
        `${where} lacks token ${prefix}: class and distillation tokens are always kept, as are all other prefix tokens.`,
      );
  }
  return keepIdx;
}

/** @param before the blocks before the one whose list it is */
function checkSubset(check: Check, keepIdx: number[], before: BlockShape[], block: string): void {
  const i = before.length;
  const listBefore = before[i - 1].keepIdx;
  const alive = new Set(listBefore);
  const lost = keepIdx.find((token) => !alive.has(token));
  if (lost !== undefined)
    check.fail(
      `${block} ${i} keeps token ${lost}, which block ${i - 1} has already dropped. keepIdx must shrink from block to block.`,
    );
  const merging = before.findIndex(({ merge }) => merge > 0);
  if (merging >= 0 && keepIdx.length < listBefore.length)
    check.fail(
      `${block} ${i} drops ${listBefore.length - keepIdx.length} tokens after block ${merging} has merged some. ` +
        "keepIdx may shrink only before the first merge.",
    );
}

/** Checks the merge of the last of `blocks`. */
function checkMerge(check: Check, blocks: BlockShape[], where: string, { position, prefixTokens }: Architecture): void {
  const { merge, headDims } = blocks[blocks.length - 1];
  if (position === "relative")
    check.fail(`${where}.merge is ${merge}; expected 0, as a merged token has no place for a relative position bias.`);
  if (!headDims.length)
    check.fail(`${where}.merge is ${merge}; expected 0, as a block without heads has no keys to compare.`);
  const pairs = Math.floor((tokenCounts({ blocks }).at(-1)!.entering - prefixTokens) / 2);
  if (merge > pairs)
    check.fail(`${where}.merge is ${merge}; expected ${pairs} at most, half of the patches that enter.`);
}
