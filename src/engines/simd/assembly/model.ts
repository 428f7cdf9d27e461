/** The words of the plan that every stage uses, read once by each thread. */
import { PLAN_DIM, PLAN_DIM_BYTES, PLAN_NORMED, PLAN_QUANTISED, PLAN_RANGES } from "../layout";
import { takeScratch } from "./calls";
import { thread } from "./sync";
import { address, word } from "./words";

export let plan: usize = 0;
export let dim: i32 = 0;
export let dimBytes: usize = 0;
export let normed: usize = 0;
export let quantised: usize = 0;
export let ranges: usize = 0;

/** After joinThreads. */
export function readPlan(at: usize): void {
  plan = at;
  dim = word(plan, PLAN_DIM);
  dimBytes = address(plan, PLAN_DIM_BYTES);
  takeScratch(plan, thread);
  normed = address(plan, PLAN_NORMED);
  quantised = address(plan, PLAN_QUANTISED);
  ranges = address(plan, PLAN_RANGES);
}
