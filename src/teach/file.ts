/** taught.safetensors: the embeddings that a model was taught with, in a file beside its weights. */
import { SlimViTError } from "../errors.ts";
import { readSafetensors, writeSafetensors } from "../format/safetensors.ts";
import type { Taught } from "../protocol.ts";
import { checkTaught } from "./taught.ts";

export const TAUGHT_FILE = "taught.safetensors";

export function writeTaught({ classOf, embeddings }: Taught): Uint8Array {
  const count = classOf.length;
  return writeSafetensors(
    new Map([
      ["embeddings", { dtype: "F32" as const, shape: [count, embeddings.length / count], data: embeddings }],
      ["classes", { dtype: "I32" as const, shape: [count], data: classOf }],
    ]),
    { format: "pt" },
  );
}

/**
 * @param names of the model's classes
 * @param dim length of an embedding
 * @throws SlimViTError `bad-model`
 */
export function readTaught(bytes: Uint8Array, names: string[], dim: number, name: string): Taught {
  const fail = (fault: string): never => {
    throw new SlimViTError("bad-model", `${name}: ${fault}`);
  };
  const stored = readSafetensors(bytes, name);
  const [embeddings, classes] = [stored.get("embeddings"), stored.get("classes")];
  if (embeddings?.dtype !== "F32" || classes?.dtype !== "I32")
    return fail("has no embeddings (F32) with their classes (I32).");
  const classOf = (classes.data as Int32Array).slice();
  if (!classOf.every((kind) => kind >= 0 && kind < names.length))
    fail(`names a class beyond the model's ${names.length}.`);
  const taught = { names, classOf, embeddings: (embeddings.data as Float32Array).slice() };
  try {
    checkTaught(taught, dim);
  } catch (error) {
    fail((error as Error).message);
  }
  return taught;
}
