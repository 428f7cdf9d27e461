/**
 * slimvit retrain MODEL --data D --teacher DENSE -o OUT: trains a slim network in its own arithmetic, without the
 * removed heads and tokens.
 */
import { existsSync } from "node:fs";
import { basename, resolve } from "node:path";
import { SlimViTError } from "../../src/errors.ts";
import { type Architecture, denseTokens, MEANS, type Model, type Tensors } from "../../src/format/model.ts";
import { encodeTensors } from "../../src/format/write.ts";
import { forward } from "../../src/tfjs/forward.ts";
import { resizeModel } from "../checkpoints/resize.ts";
import { architectureOf, claimOutput, readModelFolder, withStep, writeModel } from "../models/folders.ts";
import { variablesFrom } from "../models/variables.ts";
import { roundByInputs } from "../quantise/gptq.ts";
import { onGrid } from "../quantise/straightThrough.ts";
import { reportHtml } from "../report/report.ts";
import { percent, say } from "../shared/terminal.ts";
import { openBackend } from "./backend.ts";
import { BestWeights } from "./best.ts";
import { checkpointPath, removeCheckpoint, storedTensor } from "./checkpoint.ts";
import { learnsOf } from "./losses.ts";
import { checkpointOf, openTrainData, recordedOptions, type TrainOptions } from "./options.ts";
import { historyFiles } from "./scalars.ts";
import { openTeacher } from "./teacher.ts";
import { type TrainReport, type TrainTask, train } from "./train.ts";

export interface RetrainOptions extends TrainOptions {
  /** the result is the weights that were most accurate on val, not the last ones */
  keepBest?: boolean;
  /** position embeddings and keep-lists are resampled to it first */
  imageSize?: [number, number];
  ghost?: boolean;
  /** the large linears are trained, and written, on the grid of so many root mean squares of a row (quantise.ts) */
  weightStep?: number;
}

export async function retrain(source: string, options: RetrainOptions): Promise<TrainReport> {
  claimOutput(options.out, options.force, [source, options.teacher], options.data);
  const model = withoutUnknown(readModelFolder(source));
  if (options.ghost) requireNoPlaces(model.manifest, source);
  return trainWeights("retrain", model, options);
}

/** Removes a taught model's rule for unknown pictures, which was measured on features that training changes. */
function withoutUnknown(model: Model): Model {
  const { head } = model.manifest;
  if (!head?.unknown) return model;
  say(
    "retrain: the rule for unknown pictures is left out, as the embeddings change; teach the model again to have one",
  );
  const { unknown: _, ...rest } = head;
  const tensors = new Map(model.tensors);
  tensors.delete(MEANS);
  return { ...model, manifest: { ...model.manifest, head: rest }, tensors };
}

/** @throws SlimViTError `unsupported` where what a removed token was depends on its place */
function requireNoPlaces({ position }: Architecture, source: string): void {
  if (position === "learned") return;
  throw new SlimViTError(
    "unsupported",
    `${source}: has ${position === "rope" ? "rotary" : "relative"} positions, so one key cannot stand for removed tokens of different places. ` +
      "Leave out --ghost.",
  );
}

/** Share of the training after which no ghost is left. The rest trains the network that ships. */
const GHOSTS_END = 0.5;

/** The number of removed tokens that each block's ghost stands for. */
export function ghostCounts(arch: Architecture): number[] {
  return arch.blocks.map((block) => denseTokens(arch) - block.keepIdx.length);
}

/**
 * In the search a removed token still was a key made of biases, so removing all of them at once would be a jump. One
 * ghost in each block counts as all of the block's removed tokens at first and as none from half time on: its score
 * falls from log n to −∞.
 */
export function ghostsAt(arch: Architecture, progress: number): number[] {
  const share = Math.max(0, 1 - progress / GHOSTS_END);
  return ghostCounts(arch).map((count) => count * share);
}

/**
 * Trains all weights of a model in its own arithmetic, at the image size of the options, and writes the result.
 * @param rate the schedule's rate → this tensor's; the same for all unless given
 */
export async function trainWeights(
  name: "retrain" | "finetune",
  original: Model,
  options: RetrainOptions,
  rate?: TrainTask["rate"],
): Promise<TrainReport> {
  const imageSizeBefore = original.manifest.imageSize;
  const model = resizeModel(original, options.imageSize ?? imageSizeBefore);
  const arch = architectureOf(model.manifest);
  const { dataset, data, validation } = await openTrainData(options, model.manifest);
  const backend = await openBackend(options.backend, options.precision);
  const { tf } = backend;
  const { weightStep } = options;
  const isResumed = !options.restart && existsSync(checkpointPath(options.out));
  const start =
    weightStep && !isResumed ? (await roundByInputs(tf, model, dataset.pictures, weightStep)).exact : model.tensors;
  const variables = variablesFrom(
    tf,
    [...encodeTensors(start, "f32")].map(([name, { shape, data }]) => [name, { shape, data: data as Float32Array }]),
  );
  const teacher = openTeacher(tf, options.teacher, model.manifest);
  const task: TrainTask = {
    name,
    variables,
    forward: (pixels, branchGates, progress) => {
      const weights = weightStep ? onGrid(tf, variables, weightStep) : variables;
      const ghosts = options.ghost ? { ghosts: ghostsAt(arch, progress) } : {};
      return forward(tf, arch, weights, pixels, { branchGates, ...ghosts });
    },
    teacher: teacher?.outputs,
    learns: learnsOf(arch),
    classes: model.manifest.labels.length,
    depth: arch.blocks.length,
    ...(rate && { rate }),
    data,
    validation,
    ...(options.keepBest && validation && { best: new BestWeights() }),
    checkpoint: await checkpointOf(name, model.manifest, options),
  };
  const report = await train(backend, task, options);
  const tensors: Tensors = new Map();
  for (const [name, variable] of variables) tensors.set(name, await storedTensor(variable));
  const { history, ...figures } = report;
  const { format: _, weights: __, ...draft } = model.manifest;
  const provenance = withStep(model.manifest.provenance, name, {
    ...(await recordedOptions(options, dataset, backend)),
    ...(model !== original && { imageSizeBefore }),
    ...figures,
  });
  const records = {
    ...historyFiles(history),
    "report.html": reportHtml([{ manifest: { ...draft, provenance }, history }]),
  };
  const [result, dtype] = weightStep
    ? ([encodeTensors(tensors, "int8", weightStep), "int8"] as const)
    : ([tensors, "f32"] as const);
  const named = { ...draft, name: basename(resolve(options.out)), provenance, metrics: {} };
  await writeModel(options.out, { draft: named, tensors: result, dtypes: [dtype], extra: records }, options.force);
  removeCheckpoint(task);
  teacher?.dispose();
  tf.dispose([...variables.values()]);
  say(
    `${name}: ${report.steps} steps at ${report.imagesPerSecond.toFixed(1)} images/s on ${backend.name} ` +
      `(${percent(report.waitShare)} of the time waiting for pictures) → ${options.out}`,
  );
  return report;
}
