/** The result of slim as data: the models before and after, the frontier between them, and the chosen model. */
import type { WeightsDtype } from "../../src/format/model.ts";
import type { Setting } from "./space.ts";

/** One model, dense, on the frontier, or trained. */
export interface Row {
  /** "160×160 px, 40 % of the work merged away, int8", for people */
  what: string;
  dtype: WeightsDtype;
  macs: number;
  /** of the dense model's */
  macsShare: number;
  bytes: number;
  /** on one thread of this machine, run in turn with the others */
  ms: number;
  /** share of the val pictures: right, or of the dense model's best class where labels are not looked at */
  top1: number;
  /** `top1` less the dense model's, and its 95 % interval from the same pictures */
  difference: number;
  interval: [low: number, high: number];
  setting?: Setting;
  isTaken: boolean;
}

/** Two models on the same pictures. */
export interface PairedTop1 {
  n: number;
  dense: number;
  slim: number;
  difference: number;
  interval: [low: number, high: number];
}

export interface Outcome {
  /** of all that the result depends on */
  key: string;
  out: string;
  /** in words */
  target: string;
  unlabelled: boolean;
  /** the model that was slimmed: MODEL, or what it was finetuned to */
  denseName: string;
  dense: Row;
  slim: Row;
  /** the most expensive first; no model in it is beaten in both cost and closeness to the dense one */
  frontier: Row[];
  val: PairedTop1;
  /** on pictures that no choice was made by; absent where the data has no test split */
  test?: PairedTop1;
  /** what was trained, with its result */
  notes: string[];
  seconds: number;
  pointsMeasured: number;
}
