import { FORCE, NAME, OUT, SEED } from "./shared.ts";
import { optional } from "./spec.ts";
import { count, path, positive, size, text, triple } from "./values.ts";

export const IMPORT = {
  out: OUT,
  labels: optional("--labels <file>", "one line a class: id TAB name", path),
  name: NAME,
  heads: optional("--heads <n>", "attention heads", count),
  imageSize: optional("--image-size <size>", "SIDE or HEIGHTxWIDTH in pixels", size),
  mean: optional("--mean <r,g,b>", "of RGB in 0..1", triple),
  std: optional("--std <r,g,b>", "of RGB in 0..1", triple),
  eps: optional("--eps <eps>", "of LayerNorm", positive),
  license: optional("--license <id>", "SPDX identifier", text),
  force: FORCE,
  seed: SEED,
};
