/** The network, losses and variables of a training. */
import type { ForwardOptions, ForwardOutput } from "../../src/tfjs/forward.ts";
import type { Tensor } from "../../src/tfjs/ops.ts";
import type { TrainData } from "./batches.ts";
import type { CheckpointedTask } from "./checkpoint.ts";
import type { Learns } from "./losses.ts";
import type { Validation } from "./validation.ts";

export interface TrainTask extends CheckpointedTask {
  /**
   * The base loss's forward pass.
   * @param progress 0 at the first step, 1 after the last
   */
  forward(pixels: Tensor, branchGates: ForwardOptions["branchGates"], progress: number): ForwardOutput;
  /** several networks on the same variables, which are trained in place of `forward` */
  together?: Together;
  /** further terms, already weighted, by name */
  penalties?(): Record<string, Tensor>;
  /** pixels → what is learnt from it: logits, or features */
  teacher?: (pixels: Tensor) => Tensor;
  /** softmax unless given */
  learns?: Learns;
  classes: number;
  depth: number;
  /** the recipe's rate → this variable's */
  rate?: (name: string, lr: number) => number;
  decays?: (name: string, variable: Tensor) => boolean;
  /** further figures of a line of the history, by names with a dot */
  figures?: () => Promise<Record<string, number>>;
  /** e.g. a projection of masks onto their allowed range */
  afterStep?: () => void;
  data: TrainData;
  /** pictures to measure accuracy on, before the first step, while training and at the end */
  validation?: Validation;
}

/** Networks that share variables. Each is measured on val; what counts is the mean. */
export interface Together {
  all: Student[];
  /** those that a step trains: their gradients are summed */
  ofStep(step: number): Student[];
}

export interface Student {
  name: string;
  forward: TrainTask["forward"];
  /** the weight of its loss in a step's sum */
  weight: number;
}
