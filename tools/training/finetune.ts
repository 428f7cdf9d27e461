/**
 * slimvit finetune MODEL --data D -o OUT: makes a new head for D's classes, and trains all weights on D's labels. With
 * --image-size, position embeddings and keep-lists are resampled first.
 */
import { featureDim, MEANS, type Model, type Tensors } from "../../src/format/model.ts";
import { float32 } from "../../src/format/read.ts";
import { openDataset } from "../data/data.ts";
import { claimOutput, readModelFolder } from "../models/folders.ts";
import { say } from "../shared/terminal.ts";
import { requireClasses } from "./options.ts";
import { type RetrainOptions, trainWeights } from "./retrain.ts";
import type { TrainReport } from "./train.ts";

export interface FinetuneOptions extends RetrainOptions {
  /** the new head's rate; it starts from nothing and the rest does not, so it is ten times `lr` unless given */
  lrHead?: number;
}

export async function finetune(source: string, options: FinetuneOptions): Promise<TrainReport> {
  claimOutput(options.out, options.force, [source, options.teacher], options.data);
  const model = readModelFolder(source);
  const { classNames } = await openDataset(options.data, options.split);
  requireClasses(classNames);
  say(`finetune: new head for ${classNames.length} classes, "${classNames[0]}" to "${classNames.at(-1)}"`);
  const { lr, lrHead = 10 * lr } = options;
  const recorded: FinetuneOptions = { ...options, lrHead };
  const rate = (name: string, scheduled: number) => (isHead(name) ? (scheduled / lr) * lrHead : scheduled);
  return trainWeights("finetune", withoutText(withNewHead(model, classNames)), recorded, rate);
}

/** Training moves the embeddings away from those of the text encoder, which zero-shot scores compare them with. */
function withoutText(model: Model): Model {
  const { zeroShot: _, ...provenance } = model.manifest.provenance;
  return { ...model, manifest: { ...model.manifest, provenance } };
}

const isHead = (name: string) => /^head(_dist)?\./.test(name);

/** Embedding models get one too. Zero weights: every class starts equally likely, and the first steps train the head alone in effect. */
export function withNewHead(model: Model, classNames: string[]): Model {
  const { manifest } = model;
  const width = featureDim(manifest);
  const tensors: Tensors = new Map(
    [...model.tensors].map(([name, { shape }]) => [name, { dtype: "F32", shape, data: float32(model.tensors, name) }]),
  );
  tensors.delete(MEANS); // of the classes before
  for (const head of manifest.distilled ? ["head", "head_dist"] : ["head"]) {
    tensors.set(`${head}.weight`, {
      dtype: "F32",
      shape: [classNames.length, width],
      data: new Float32Array(classNames.length * width),
    });
    tensors.set(`${head}.bias`, {
      dtype: "F32",
      shape: [classNames.length],
      data: new Float32Array(classNames.length),
    });
  }
  const labels = classNames.map((name) => ({ id: name, label: name.replaceAll("_", " ") }));
  return { ...model, manifest: { ...manifest, head: { scores: "softmax" }, labels }, tensors };
}
