/** Warns if a model is measured on the pictures that it was trained on. */
import { existsSync } from "node:fs";
import type { Split } from "../data/data.ts";
import { digestData } from "../data/digest.ts";
import { readManifestFile } from "../models/folders.ts";
import { say } from "../shared/terminal.ts";

interface TrainingStep {
  command: string;
  split?: Split;
  dataSha256?: string[];
}

export async function warnOfTrainingPictures(model: string, data: string[], split: Split): Promise<void> {
  const steps = (readManifestFile(model).provenance.steps ?? []) as TrainingStep[];
  const overlap = (step: TrainingStep) => step.split === split || step.split === "all" || split === "all";
  const suspects = steps.filter((step) => step.dataSha256?.length && step.split !== undefined && overlap(step));
  if (!suspects.length) return;
  const digests = await Promise.all(data.filter((source) => existsSync(source)).map(digestData));
  const step = suspects.find(({ dataSha256 }) => digests.some(({ sha256 }) => dataSha256!.includes(sha256)));
  if (step)
    say(
      `eval: warning: the model was trained on pictures of this split ("${step.command}" took split ${step.split} of the same data), ` +
        "so its accuracy on new pictures will be lower. Measure on --split test.",
    );
}
