/** The request of a slim run, and the state that all its phases share. */
import type { Backend } from "../training/backend.ts";
import type { TrainChoice, TrainingClock } from "./clock.ts";
import type { SlimData } from "./dataReport.ts";
import type { Stops } from "./stops.ts";
import type { Target, Targets } from "./target.ts";

export interface SlimOptions extends Targets {
  data: string[];
  out: string;
  unlabelled?: boolean;
  train: TrainChoice;
  /** one folder with what was taken and the models beside it as variants of one set of weights, so no widths are cut */
  elastic?: boolean;
  /** the folder for measurements and trained models; default the output folder's name with .stages */
  stages?: string;
  force?: boolean;
  seed?: number;
}

/** The data that all phases share. */
export interface SlimRun {
  options: SlimOptions;
  target: Target;
  data: SlimData;
  /** of the dense model: MODEL, or what it was finetuned to */
  source: string;
  folder: string;
  /** of all that the result depends on */
  key: string;
  /** of all that trained models depend on, so that a run with another target uses the same ones */
  trainingKey: string;
  backend: Backend | undefined;
  clock: TrainingClock;
  stops: Stops;
  /** the reason why nothing is trained, whatever the options say */
  untrainable?: string;
  notes: string[];
}
