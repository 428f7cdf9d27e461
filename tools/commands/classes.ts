import { FORCE, NAME, OUT, SEED } from "../options/shared.ts";
import { choice, optional, required } from "../options/spec.ts";
import { number, path, positive } from "../options/values.ts";
import { MODEL, simpleCommand } from "./command.ts";

const OPTIONS = {
  out: OUT,
  embeddings: required("--embeddings <file>", "text vectors as .safetensors: one a class by its name, or rows", path),
  labels: optional("--labels <file>", "the rows' names, one a line", path),
  scores: choice("--scores <how>", "how logits become scores; default as the model was trained", [
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
    "zero-shot classifier: text embeddings as the head of a CLIP or SigLIP",
    MODEL,
    OPTIONS,
    async (source, options) => {
      const { makeClasses } = await import("../checkpoints/classes.ts");
      return makeClasses(source, options);
    },
  );
