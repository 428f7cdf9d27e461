import { USUAL_THREADS } from "../shared/threads.ts";
import { data, FORCE, NAME, OUT } from "./shared.ts";
import { flag, optional, withDefault } from "./spec.ts";
import { fraction, threads } from "./values.ts";

export const TEACH = {
  ...data("train"),
  out: OUT,
  name: NAME,
  force: FORCE,
  threads: withDefault(
    "--threads <n>",
    "threads of the engine; default the number of cores, at most 4",
    threads,
    USUAL_THREADS,
  ),
  falseRejection: optional(
    "--false-rejection <share>",
    "share of pictures of its own classes that the model may call unknown; default 0.05",
    fraction,
  ),
  embeddings: flag("--embeddings", "also write the pictures' embeddings, so that a page can teach the model more"),
};
