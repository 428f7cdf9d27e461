import { DTYPES, FORCE, OUT, optionalData, SEED, WEIGHT_STEP } from "./shared.ts";
import { flag, optional, required } from "./spec.ts";
import { list, text } from "./values.ts";

export const EXPORT = {
  ...optionalData("pictures to round --weight-step by", "train"),
  out: OUT,
  dtype: required("--dtype <list>", `of ${DTYPES.join(", ")}, separated by commas`, list(DTYPES)),
  onnx: flag("--onnx", "write a standalone model.onnx too"),
  weightStep: WEIGHT_STEP,
  name: optional("--name <name>", "what the model is called; default the output folder's name", text),
  force: FORCE,
  seed: SEED,
};
