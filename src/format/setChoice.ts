/** What a load out of a set of models chose. */
import type { SetAccuracy } from "./set.ts";

/** Which member of a set was taken, and why. */
export interface SetChoice {
  /** of set.json */
  name: string;
  /** the member's folder in the set */
  member: string;
  /** fraction of the `n` pictures of `data` that it classifies correctly, from set.json */
  accuracy: SetAccuracy;
  /** the budget asked for, milliseconds of inference */
  latencyMs?: number;
  /** Whether the member was measured to meet it; undefined without a budget. */
  meets?: boolean;
  /** members that were measured, the cheapest first */
  measured: MeasuredMember[];
  /** why this one, for people */
  reason: string;
}

export interface MeasuredMember {
  member: string;
  /** Median inference of a few pictures; undefined where it did not run. */
  ms?: number;
  /** Now, or on an earlier visit whose measurement was kept. */
  when: "now" | "earlier";
  /** why it did not run */
  fault?: string;
}
