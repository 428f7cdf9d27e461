/**
 * Trains all variants of a folder together, on their shared weights. Each step trains the largest variant, the smallest
 * and a random one between, and sums their gradients. A fixed model teaches them all.
 *
 * @see Yu, Huang 2019, the sandwich rule — https://arxiv.org/abs/1903.05134
 * @see Haberer et al. 2024, HydraViT — https://arxiv.org/abs/2409.17978
 */
import type { Model } from "../../src/format/model.ts";
import { forward } from "../../src/tfjs/forward.ts";
import { random } from "../shared/random.ts";
import { percent, say } from "../shared/terminal.ts";
import { decaysByDefault } from "../training/adamw.ts";
import { openBackend } from "../training/backend.ts";
import { BestWeights } from "../training/best.ts";
import { learnsOf } from "../training/losses.ts";
import { checkpointOf, openTrainData, recordedOptions, type TrainOptions } from "../training/options.ts";
import { adapted, openTeacher } from "../training/teacher.ts";
import { type Student, type TrainReport, type TrainTask, train } from "../training/train.ts";
import { isOwnName, shareWeights, tensorName } from "./weights.ts";

/** A variant before it is written. */
export interface NamedModel {
  name: string;
  /** in f32 */
  model: Model;
}

export interface TrainedTogether {
  models: NamedModel[];
  report: TrainReport;
  /** the record of the training for the folder */
  recorded: Record<string, unknown>;
  /** to be called once the result is safely written */
  task: TrainTask;
}

export interface TogetherOptions extends TrainOptions {
  /** the rate of what variants have of their own; ten times `lr` unless given, as nothing else is to change by it */
  lrOwn?: number;
}

/** @param models the largest first */
export async function trainTogether(models: NamedModel[], options: TogetherOptions): Promise<TrainedTogether> {
  const [{ model: largest }] = models;
  // Pictures are cropped once, as the variant of the largest pictures wants them; the others see them made smaller.
  const area = ({ model }: NamedModel) => model.manifest.imageSize[0] * model.manifest.imageSize[1];
  const { manifest } = [...models].sort((a, b) => area(b) - area(a))[0].model;
  const { dataset, data, validation } = await openTrainData(options, manifest);
  const backend = await openBackend(options.backend, options.precision);
  const { tf } = backend;
  const shared = shareWeights(tf, models);
  const teacher = openTeacher(tf, options.teacher, manifest);
  const students = models.map(({ name, model }, i): Student => {
    const { manifest: own } = model;
    return {
      name,
      weight: 1,
      forward: (pixels, branchGates) => {
        const input = adapted(tf, pixels, manifest.preprocess, own.preprocess);
        return forward(tf, own, shared.weightsOf(i), input, { branchGates });
      },
    };
  });
  const plan = await checkpointOf("elastic", largest.manifest, options);
  const variants = models.map(({ name, model: { manifest: own } }) => [name, own.imageSize, own.blocks]);
  const task: TrainTask = {
    name: "elastic",
    variables: shared.variables,
    forward: students[0].forward,
    together: { all: students, ofStep: (step) => sandwich(students, options.seed, step) },
    teacher: teacher?.outputs,
    learns: learnsOf(manifest),
    classes: manifest.labels.length,
    depth: manifest.blocks.length,
    rate: (name, lr) => (isOwnName(name) ? (lr / options.lr) * (options.lrOwn ?? 10 * options.lr) : lr),
    decays: (name, variable) => decaysByDefault(tensorName(name), variable),
    data,
    validation,
    ...(validation && { best: new BestWeights() }),
    checkpoint: { ...plan, identity: { ...plan.identity, variants } },
  };
  const report = await train(backend, task, options);
  const trained: NamedModel[] = [];
  for (const [i, { name, model }] of models.entries())
    trained.push({ name, model: { ...model, tensors: await shared.tensorsOf(i) } });
  const { history: _, ...figures } = report;
  const recorded = { ...(await recordedOptions(options, dataset, backend)), ...figures };
  teacher?.dispose();
  tf.dispose([...shared.variables.values()]);
  say(
    `elastic: ${report.steps} steps at ${report.imagesPerSecond.toFixed(1)} images/s on ${backend.name} ` +
      `(${percent(report.waitShare)} of the time waiting for pictures)`,
  );
  return { models: trained, report, recorded, task };
}

/** The largest, the smallest and one between: what a step trains. */
export function sandwich<S>(students: S[], seed: number, step: number): S[] {
  const between = students.slice(1, -1);
  if (between.length < 2) return students;
  const drawn = between[Math.floor(random(seed, 0x73616e64, step)() * between.length)];
  return [students[0], drawn, students.at(-1)!];
}
