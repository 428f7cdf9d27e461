/**
 * slimvit classes MODEL --embeddings FILE -o OUT: makes a zero-shot classifier from an embedding model such as CLIP or
 * SigLIP. Its head is the text vectors, normalised and multiplied by the model's scale. Features are normalised at run
 * time.
 */
import { existsSync, readFileSync } from "node:fs";
import { SlimViTError } from "../../src/errors.ts";
import { featureDim, type Head, type Label, type Model, type Tensors, type ZeroShot } from "../../src/format/model.ts";
import { readSafetensors } from "../../src/format/safetensors.ts";
import { claimOutput, readModelFolder, withStep, writeModel } from "../models/folders.ts";
import { safetensorsMetadata } from "../models/metadata.ts";
import { say } from "../shared/terminal.ts";
import { Weights } from "./weights.ts";

export interface ClassesOptions {
  out: string;
  /** .safetensors: one matrix of a row each, or one vector each by the class's name */
  embeddings: string;
  /** one name a line, in the matrix's order */
  labels?: string;
  scores?: Head["scores"];
  scale?: number;
  bias?: number;
  name?: string;
  force?: boolean;
}

/** CLIP's logit scale, which training caps there: a temperature of 0.01. */
const CLIP_SCALE = 100;

export async function makeClasses(
  source: string,
  options: ClassesOptions,
): Promise<{ classes: number; scores: Head["scores"]; scale: number; bias: number }> {
  claimOutput(options.out, options.force, [source, options.embeddings]);
  const model = readModelFolder(source);
  const embeddings = readEmbeddings(options.embeddings, options.labels, featureDim(model.manifest));
  const zeroShot = zeroShotOf(model, embeddings.metadata, options);
  const { manifest, tensors } = withTextHead(model, embeddings, zeroShot);
  const { format: _, weights: __, variants: ___, variant: ____, ...draft } = manifest;
  const provenance = withStep(manifest.provenance, "classes", { classes: embeddings.labels.length, ...zeroShot });
  const named = { ...draft, name: options.name ?? manifest.name, provenance, metrics: {} };
  await writeModel(options.out, { draft: named, tensors, dtypes: [model.dtype] }, options.force);
  say(
    `classes: ${embeddings.labels.length}, "${embeddings.labels[0].label}" to "${embeddings.labels.at(-1)!.label}" → ${options.out}`,
  );
  return { classes: embeddings.labels.length, ...zeroShot };
}

export interface Embeddings {
  labels: Label[];
  /** [classes, width], of any length */
  rows: Float32Array;
}

/** The same network with the vectors as its head. */
export function withTextHead(model: Model, { labels, rows }: Embeddings, { scores, scale, bias }: ZeroShot): Model {
  const width = rows.length / labels.length;
  const weight = new Float32Array(rows.length);
  for (let k = 0; k < labels.length; k++) {
    const row = rows.subarray(k * width, (k + 1) * width);
    const length = Math.hypot(...row);
    if (!(length > 0))
      throw new SlimViTError(
        "bad-input",
        `The vector of "${labels[k].label}" is all zeros; expected a text embedding.`,
      );
    weight.set(
      row.map((v) => (scale * v) / length),
      k * width,
    );
  }
  const tensors: Tensors = new Map([...model.tensors].filter(([name]) => !/^head(_dist)?\./.test(name)));
  tensors.set("head.weight", { dtype: "F32", shape: [labels.length, width], data: weight });
  tensors.set("head.bias", { dtype: "F32", shape: [labels.length], data: new Float32Array(labels.length).fill(bias) });
  return { ...model, manifest: { ...model.manifest, head: { scores, cosine: true }, labels }, tensors };
}

function readEmbeddings(
  file: string,
  labelsFile: string | undefined,
  width: number,
): Embeddings & { metadata: Record<string, string> } {
  if (!existsSync(file)) throw new SlimViTError("bad-input", `${file}: no such file.`);
  const bytes = readFileSync(file);
  const stored = readSafetensors(bytes, file);
  const metadata = safetensorsMetadata(bytes);
  const weights = new Weights(stored, file);
  const names = weights.names();
  const [first] = names;
  if (names.length === 1 && weights.shape(first).length === 2 && weights.shape(first)[0] > 1) {
    const { shape, data } = weights.take(first);
    checkWidth(file, first, shape[1], width);
    return { labels: labelsOf(file, labelsFile, metadata, shape[0]), rows: data, metadata };
  }
  if (!names.length) throw new SlimViTError("bad-input", `${file}: holds no tensors; expected text embeddings.`);
  const rows = new Float32Array(names.length * width);
  names.forEach((name, k) => {
    const { data } = weights.take(name);
    checkWidth(file, name, data.length, width);
    rows.set(data, k * width);
  });
  return { labels: names.map((name) => ({ id: name, label: name })), rows, metadata };
}

function checkWidth(file: string, name: string, found: number, width: number): void {
  if (found === width) return;
  throw new SlimViTError(
    "bad-input",
    `${file}: "${name}" has ${found} numbers a class; the model's embeddings have ${width}. Make the text embeddings with the same model's text tower.`,
  );
}

/** --labels, or the file's own metadata: a JSON list under "labels". */
function labelsOf(
  file: string,
  labelsFile: string | undefined,
  metadata: Record<string, string>,
  classes: number,
): Label[] {
  let names: unknown;
  if (labelsFile) {
    if (!existsSync(labelsFile)) throw new SlimViTError("bad-input", `${labelsFile}: no such file.`);
    names = readFileSync(labelsFile, "utf8").split(/\r?\n/).filter(Boolean);
  } else {
    try {
      names = JSON.parse(metadata.labels ?? "null");
    } catch {
      names = null;
    }
  }
  const isList = Array.isArray(names) && names.every((name) => typeof name === "string");
  if (!isList || (names as string[]).length !== classes)
    throw new SlimViTError(
      "bad-input",
      `${file}: has ${classes} rows and ${isList ? (names as string[]).length : "no"} names; give --labels FILE with one name a line, or a JSON list as the file's metadata "labels".`,
    );
  return (names as string[]).map((label, k) => ({ id: String(k), label }));
}

/** Scale and bias from the options, else from the embeddings' file, else from the checkpoint at import. */
function zeroShotOf({ manifest }: Model, metadata: Record<string, string>, options: ClassesOptions): ZeroShot {
  const imported = manifest.provenance.zeroShot;
  const number = (key: string) => (metadata[key] === undefined ? undefined : Number(metadata[key]));
  const scores = options.scores ?? imported?.scores ?? "softmax";
  const scale = options.scale ?? number("scale") ?? imported?.scale;
  const bias = options.bias ?? number("bias") ?? imported?.bias ?? (scores === "softmax" ? 0 : undefined);
  if (scale === undefined && scores === "softmax") say(`classes: assumed a scale of ${CLIP_SCALE}, CLIP's (--scale)`);
  const known = { scores, scale: scale ?? (scores === "softmax" ? CLIP_SCALE : undefined), bias };
  if (!Number.isFinite(known.scale) || !(known.scale! > 0) || !Number.isFinite(known.bias))
    throw new SlimViTError(
      "bad-option",
      `The model does not say its scale and bias, which sigmoid scores need; give --scale (exp of logit_scale) and --bias (logit_bias).`,
    );
  return known as ZeroShot;
}
