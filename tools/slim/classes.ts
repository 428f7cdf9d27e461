/** Where the data's classes are not the model's, makes a head for them first. That model is then the dense one. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { SlimViTError } from "../../src/errors.ts";
import type { Label, Model } from "../../src/format/model.ts";
import { labelIndices, unknownClass } from "../data/data.ts";
import { readManifestFile, readModelFolder } from "../models/folders.ts";
import { say } from "../shared/terminal.ts";
import { USUAL_THREADS } from "../shared/threads.ts";
import { teachModel } from "../teach/teachModel.ts";
import { withNewHead } from "../training/finetune.ts";
import type { SlimRun } from "./run.ts";
import { finetuneDense } from "./trained.ts";

/**
 * @param ahead called before the work, with the model and a head for the data's classes that knows nothing yet; what it
 * throws ends the run
 * @returns the folder of a model that knows the data's classes
 */
export async function withDataClasses(run: SlimRun, ahead: (model: Model) => Promise<void>): Promise<string> {
  const { options, data, source } = run;
  if (options.unlabelled) return source;
  const unknown = unknownClass(data.classNames, readManifestFile(source).labels);
  if (unknown === undefined) return source;
  await ahead(withNewHead(readModelFolder(source), data.classNames));
  const folder = await NEW_HEADS.reduce<Promise<string | undefined>>(
    async (found, make) => (await found) ?? make(run, unknown),
    Promise.resolve(undefined),
  );
  return folder!;
}

/**
 * Ways to a head for the data's classes, in the order in which they are tried. Each gives a folder, or nothing where it is not
 * for this run.
 */
const NEW_HEADS: ((run: SlimRun, unknown: string) => Promise<string | undefined>)[] = [teachHead, finetuneDense];

/** Fits a head in closed form to the unchanged features, where nothing is trained. */
async function teachHead(run: SlimRun, unknown: string): Promise<string | undefined> {
  const { untrainable, source, data, options, folder, trainingKey, notes } = run;
  if (!untrainable) return undefined;
  if (data.isHeldOut)
    throw new SlimViTError(
      "bad-option",
      `slim: ${unknown}, and ${untrainable}. Put every fifth picture of each class into val/CLASS and the others into train/CLASS, ` +
        "or give --unlabelled to stay close to the model whatever the classes are called.",
    );
  const out = join(folder, `teach-${trainingKey.slice(0, 10)}`);
  if (!existsSync(out)) {
    say(`slim: fits a head to the model's features first, because the data's classes are not the model's: ${unknown}`);
    await teachModel(source, { data: options.data, out, threads: USUAL_THREADS });
  }
  notes.push(`the dense model's head was fitted to its features, and nothing was trained: ${untrainable}`);
  return out;
}

export const indicesOf = (data: { classNames: string[] }, labels: Label[]): Map<string, number> =>
  labelIndices(data.classNames, labels);
