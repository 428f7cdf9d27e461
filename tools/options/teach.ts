import { availableParallelism } from "node:os";
import { data, FORCE, NAME, OUT } from "./shared.ts";
import { flag, optional, withDefault } from "./spec.ts";
import { count, fraction } from "./values.ts";

export const TEACH = {
  ...data("train"),
  out: OUT,
  name: NAME,
  force: FORCE,
  threads: withDefault(
    "--threads <n>",
    "of the engine; default the machine's, at most 4",
    count,
    Math.min(4, availableParallelism()),
  ),
  falseRejection: optional(
    "--false-rejection <share>",
    "of pictures of its classes that the model may call unknown; default 0.05",
    fraction,
  ),
  embeddings: flag(
    "--embeddings",
    "write the pictures' embeddings beside the weights, so that a page can teach it more",
  ),
};
