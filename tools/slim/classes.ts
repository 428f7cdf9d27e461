/** Where the data's classes are not the model's: a head for them first. That model is then the dense one. */
import { SlimViTError } from "../../src/errors.ts";
import type { Label } from "../../src/format/model.ts";
import { labelIndices, unknownClass } from "../data/data.ts";
import { readManifestFile } from "../models/folders.ts";
import type { SlimRun } from "./run.ts";
import { finetuneDense } from "./trained.ts";

/** @returns the folder of a model that knows the data's classes */
export async function withDataClasses(run: SlimRun): Promise<string> {
  const { options, data, source } = run;
  if (options.unlabelled) return source;
  const unknown = unknownClass(data.classNames, readManifestFile(source).labels);
  if (unknown === undefined) return source;
  const folder = await NEW_HEADS.reduce<Promise<string | undefined>>(
    async (found, make) => (await found) ?? make(run, unknown),
    Promise.resolve(undefined),
  );
  return folder!;
}

/**
 * Ways to a head for the data's classes, in the order in which they are tried. Each gives a folder, or nothing where it is not
 * for this run. A head in closed form, which needs no training, has its place before the last.
 */
const NEW_HEADS: ((run: SlimRun, unknown: string) => Promise<string | undefined>)[] = [requireTraining, finetuneDense];

async function requireTraining({ untrainable, source }: SlimRun, unknown: string): Promise<undefined> {
  if (!untrainable) return undefined;
  throw new SlimViTError(
    "bad-option",
    `slim: ${unknown}, and ${untrainable}. Let slim train (--train auto), finetune first ("slimvit finetune ${source} --data …") and slim ` +
      "that model, or give --unlabelled to stay close to the model whatever the classes are called.",
  );
}

export const indicesOf = (data: { classNames: string[] }, labels: Label[]): Map<string, number> =>
  labelIndices(data.classNames, labels);
