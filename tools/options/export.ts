import { DTYPES, FORCE, OUT, optionalData, SEED, WEIGHT_STEP } from "./shared.ts";
import { flag, optional, required } from "./spec.ts";
import { list, text } from "./values.ts";

export const EXPORT = {
  ...optionalData("pictures that give the ranges of int8 activations and the rounding of --weight-step", "train"),
  out: OUT,
  dtype: required("--dtype <list>", `of ${DTYPES.join(", ")}, separated by commas`, list(DTYPES)),
  onnx: flag("--onnx", "also write model.onnx and the files that transformers.js reads"),
  weightStep: WEIGHT_STEP,
  name: optional("--name <name>", "name of the model; default the output folder's name", text),
  force: FORCE,
  seed: SEED,
};
