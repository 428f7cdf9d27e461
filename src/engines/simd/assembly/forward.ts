/**
 * The forward pass in stages. Stage 0 embeds, stages 1 … blocks are the blocks, and stage blocks + 1 pools, and
 * classifies if there is a head. Every thread calls every stage and opens the same phases. The arithmetic is that of
 * src/reference/forward.ts.
 */
import { BLOCK_WORDS, PLAN_BLOCK_TABLE, PLAN_BLOCKS } from "../layout";
import { runBlock } from "./block";
import { classify } from "./classify";
import { embed } from "./embed";
import { plan } from "./model";
import { address, word } from "./words";

export function runStage(stage: i32): void {
  const blocks = word(plan, PLAN_BLOCKS);
  const table = address(plan, PLAN_BLOCK_TABLE);
  if (stage == 0) embed();
  else if (stage <= blocks) runBlock(table + (stage - 1) * BLOCK_WORDS * 4);
  else classify(table + (blocks - 1) * BLOCK_WORDS * 4);
}
