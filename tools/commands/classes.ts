import { FORCE, NAME, OUT, SEED } from "../options/shared.ts";
import { choice, optional, required } from "../options/spec.ts";
import { number, path, positive } from "../options/values.ts";
import { MODEL, simpleCommand } from "./command.ts";

const OPTIONS = {
  out: OUT,
  embeddings: required(
    "--embeddings <file>",
    "text vectors as .safetensors: one tensor under each class name, or one matrix with a row for each class",
    path,
  ),
  labels: optional("--labels <file>", "names of the rows, one in each line", path),
  scores: choice("--scores <how>", "how logits become scores; default as in the model's training", [
    "softmax",
    "sigmoid",
  ] as ("softmax" | "sigmoid")[]),
  scale: optional("--scale <s>", "exp of the model's logit_scale; default as imported, else 100", positive),
  bias: optional("--bias <b>", "the model's logit_bias; default as imported, else 0", number),
  name: NAME,
  force: FORCE,
  seed: SEED,
};

export const classesCommand = () =>
  simpleCommand(
    "classes",
    "make a classifier whose head is text embeddings, for CLIP and SigLIP",
    MODEL,
    OPTIONS,
    async (source, options) => {
      const { makeClasses } = await import("../checkpoints/classes.ts");
      return makeClasses(source, options);
    },
  );
