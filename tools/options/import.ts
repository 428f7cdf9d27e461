import { FORCE, NAME, OUT, SEED } from "./shared.ts";
import { optional } from "./spec.ts";
import { count, path, positive, size, text, triple } from "./values.ts";

export const IMPORT = {
  out: OUT,
  labels: optional("--labels <file>", "labels, one line for each class: id TAB name", path),
  name: NAME,
  heads: optional("--heads <n>", "number of attention heads", count),
  imageSize: optional("--image-size <size>", "SIDE or HEIGHTxWIDTH in pixels", size),
  mean: optional("--mean <r,g,b>", "mean of the training pictures, for RGB in 0..1", triple),
  std: optional("--std <r,g,b>", "standard deviation of the training pictures, for RGB in 0..1", triple),
  eps: optional("--eps <eps>", "epsilon of LayerNorm", positive),
  license: optional("--license <id>", "SPDX identifier of the weights' licence", text),
  force: FORCE,
  seed: SEED,
};
