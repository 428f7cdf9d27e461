/** slimvit export MODEL -o DIR --dtype f32,f16,int8 [--onnx]: writes weights for shipping, and standalone ONNX files. */
import { basename, resolve } from "node:path";
import { SlimViTError } from "../../src/errors.ts";
import type { Manifest, Model, Tensors, WeightsDtype } from "../../src/format/model.ts";
import { encodeTensors } from "../../src/format/write.ts";
import { openDataset, type Split } from "../data/data.ts";
import { digestData } from "../data/digest.ts";
import { cardText } from "../models/card.ts";
import { claimOutput, readModelFolder, variantSources, withStep, writeModel } from "../models/folders.ts";
import { checkOnnxFiles, onnxFiles } from "../models/onnx.ts";
import type { Files } from "../models/outputs.ts";
import { activationRanges } from "../quantise/activations.ts";
import { GPTQ_PICTURES, roundByInputs } from "../quantise/gptq.ts";
import { say } from "../shared/terminal.ts";
import { environmentOf, openBackend } from "../training/backend.ts";

export interface ExportOptions {
  out: string;
  dtype: WeightsDtype[];
  onnx?: boolean;
  name?: string;
  force?: boolean;
  /** int8: weights on the grid of so many root mean squares of a row (quantise.ts) */
  weightStep?: number;
  /** int8: pictures for the activations' ranges, and with `weightStep` to round by (gptq.ts); each weight to the nearest level without */
  data?: string[];
  split?: Split;
}

/** @param origin further facts for the provenance */
export async function exportModel(
  source: string,
  options: ExportOptions,
  origin: Record<string, unknown> = {},
): Promise<{ files: Record<string, number> }> {
  const { weightStep } = options;
  if (weightStep && !options.dtype.includes("int8")) {
    throw new SlimViTError("bad-option", "export: --weight-step applies to int8 weights, which --dtype does not name.");
  }
  const model = readModelFolder(source);
  const variants = variantSources(source);
  if (variants.length > 1)
    say(
      `export: writes only ${variants[0]} of ${variants.length} variants. ` +
        '"slimvit elastic FOLDER --dtype LIST -o OUT" writes all of them in other dtypes.',
    );
  claimOutput(options.out, options.force, [source], options.data);
  const rounded = weightStep ? await round(model, weightStep, options) : undefined;
  const { format: _, weights: __, ...draft } = model.manifest;
  const name = options.name ?? basename(resolve(options.out));
  const provenance = withStep({ ...draft.provenance, ...origin }, "export", {
    dtype: options.dtype,
    ...rounded?.recorded,
  });
  const { out, dtype, force } = options;
  const tensors = (d: WeightsDtype) => (d === "int8" && rounded ? rounded.tensors : model.tensors);
  let onnx: Files = {};
  const extra = (manifest: Manifest) => {
    if (options.onnx) onnx = onnxFiles({ ...model, manifest }, int8Model(manifest, tensors("int8")));
    return { ...onnx, "card.md": cardText(manifest) };
  };
  const activations = dtype.includes("int8")
    ? await calibrate({ ...model, tensors: tensors("int8") }, options)
    : undefined;
  const check = (manifest: Manifest) => checkOnnxFiles(onnx, manifest);
  const content = { draft: { ...draft, name, provenance }, tensors, dtypes: dtype, extra, activations, check };
  const manifest = await writeModel(out, content, force);
  const files = Object.fromEntries(manifest.weights.map(({ file, bytes }) => [file, bytes]));
  for (const [file, content] of Object.entries(onnx)) if (file.endsWith(".onnx")) files[file] = content.length;
  for (const [file, bytes] of Object.entries(files)) say(`export: ${file} ${(bytes / 1e6).toFixed(2)} MB`);
  return { files };
}

/** undefined where the folder has no int8 weights. */
function int8Model(manifest: Manifest, tensors: Tensors): Model | undefined {
  const hasInt8 = manifest.weights.some(({ dtype }) => dtype === "int8");
  return hasInt8 ? { manifest, dtype: "int8", tensors: encodeTensors(tensors, "int8") } : undefined;
}

/** The ranges of the int8 weights' activations; undefined without pictures. */
async function calibrate(model: Model, { data, split = "train" }: ExportOptions) {
  if (!data?.length) return undefined;
  const { pictures } = await openDataset(data, split, { unlabelled: true });
  return activationRanges({ ...model, dtype: "int8", tensors: encodeTensors(model.tensors, "int8") }, pictures);
}

/** The linears on the grid, and what the provenance says of it. */
async function round(model: Model, weightStep: number, { data, split = "train" }: ExportOptions) {
  if (!data?.length) return { tensors: encodeTensors(model.tensors, "int8", weightStep), recorded: { weightStep } };
  const { pictures } = await openDataset(data, split, { unlabelled: true });
  const opened = await openBackend();
  const { tensors } = await roundByInputs(opened.tf, model, pictures, weightStep);
  const digests = await Promise.all(data.map(digestData));
  const recorded = {
    weightStep,
    split,
    data: data.map((path) => basename(path)),
    dataSha256: digests.map(({ sha256 }) => sha256),
    pictures: Math.min(GPTQ_PICTURES, pictures.length),
    environment: environmentOf(opened),
  };
  return { tensors, recorded };
}
