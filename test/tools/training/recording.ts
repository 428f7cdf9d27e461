/** A training whose network only listens: what `train` hands to it, and what it makes of a gradient that is always 1. */
import type { Tensor, TF } from "../../../src/tfjs/ops.ts";
import { variablesFrom } from "../../../tools/models/variables.ts";
import type { Backend } from "../../../tools/training/backend.ts";
import type { TrainData } from "../../../tools/training/batches.ts";
import type { Recipe } from "../../../tools/training/recipe.ts";
import { type TrainTask, train } from "../../../tools/training/train.ts";
import { recipe } from "../training.ts";

export interface SeenBatch {
  size: number;
  /** [size, 3, height, width] */
  pixels: Float32Array;
  /** [size, classes]; of unlabelled pictures none are seen */
  targets: Float32Array;
  /** per block the factors of each picture's two branches */
  gates: { attn: Float32Array; mlp: Float32Array }[];
  progress: number;
}

export interface Recording {
  batches: SeenBatch[];
  /** of the one variable, before the first step and after each; it starts at 0 */
  values: number[];
  /** of the variable once the training is over */
  result: number;
}

export interface Listener {
  backend: Backend;
  data: TrainData;
  /** path of the checkpoint's file */
  checkpoint: string;
  classes?: number;
  /** blocks that stochastic depth may drop */
  depth?: number;
  /** what the variable is after each step, in place of the optimiser's value */
  forced?: number[];
  /** further parts of the task */
  task?: Partial<TrainTask>;
}

/** The logits are zeros, so the cross-entropy's gradient is (1 / classes − target) / size: the targets are read from it. */
export async function record(
  { backend, data, checkpoint, classes = 3, depth = 1, forced, task: parts }: Listener,
  options: Partial<Recipe>,
): Promise<Recording> {
  const { tf } = backend;
  const batches: SeenBatch[] = [];
  const variables = variablesFrom(tf, [["probe", { shape: [1], data: new Float32Array(1) }]]);
  const probe = variables.get("probe")!;
  const values = [0];
  const task: TrainTask = {
    name: "recording",
    variables,
    forward(pixels, branchGates, progress) {
      const size = pixels.shape[0]!;
      const seen: SeenBatch = {
        ...{ size, progress, pixels: pixels.dataSync() as Float32Array, targets: new Float32Array() },
        gates: (branchGates ?? []).map(({ attn, mlp }) => ({
          attn: attn.dataSync() as Float32Array,
          mlp: mlp.dataSync() as Float32Array,
        })),
      };
      batches.push(seen);
      const logits = listening(tf, probe as Tensor, [size, classes], (gradient) => {
        seen.targets = gradient.map((g) => 1 / classes - g * size);
      });
      return { logits, classLogits: logits, features: logits };
    },
    classes,
    depth,
    data,
    afterStep: () => {
      if (forced) probe.assign(tf.tensor1d([forced[values.length - 1]]));
      values.push(probe.dataSync()[0]);
    },
    checkpoint: { path: checkpoint, identity: {}, rates: "{}", start: "anew" },
    ...parts,
  };
  await train(backend, task, recipe({ weightDecay: 0, smoothing: 0, ...options }));
  return { batches, values, result: probe.dataSync()[0] };
}

/** Zeros whose gradient is given to `hear`, and 1 to `input`. */
function listening(tf: TF, input: Tensor, shape: [number, number], hear: (gradient: Float32Array) => void): Tensor {
  const op = tf.customGrad((_) => ({
    value: tf.zeros(shape),
    gradFunc: (dy: Tensor) => {
      hear(dy.dataSync() as Float32Array);
      return tf.ones(input.shape);
    },
  }));
  return op(input as never);
}
