/** The buffers that a call copied from the GPU → the outputs of a run. */
import { featureDim, type Manifest, tokenCounts } from "../../format/model.ts";
import type { RunOutput } from "../engine.ts";
import { groupsOf, readPairs } from "../mergePairs.ts";
import { align4 } from "./shader.ts";
import type { Binding } from "./steps.ts";
import type { Workspace } from "./workspace.ts";

/** @param data as `Workspace.encodeResults` lays it out @returns one output for each picture */
export function readOutputs(
  data: Float32Array,
  workspace: Workspace,
  manifest: Manifest,
  pictures: number,
): RunOutput[] {
  const classes = manifest.head ? manifest.labels.length : 0;
  const { features, logits } = workspace.plan.floats;
  const part = (name: "logits" | "features", start: number, length: number) => {
    const at = workspace.resultAt(name) + start;
    return data.slice(at, at + length);
  };
  return Array.from({ length: pictures }, (_, i) => ({
    logits: part("logits", i * Math.min(logits, align4(classes)), classes),
    features: part("features", i * features, featureDim(manifest)),
  }));
}

/** What `explain` adds to the output of one picture. */
export function readExplanation(
  data: Float32Array,
  workspace: Workspace,
  manifest: Manifest,
): Pick<RunOutput, "attention" | "groups" | "pairs"> {
  const { explain, merges } = workspace.plan;
  const { prefixTokens } = manifest;
  const from = (name: "maps" | "pairs", start: number, length: number) => {
    const at = workspace.resultAt(name) + start;
    return data.slice(at, at + length);
  };
  const tokens = tokenCounts(manifest);
  const attention = explain.map((step, block) =>
    step ? from("maps", offsetOf(step.buffers.y), tokens[block].entering) : new Float32Array(),
  );
  if (!merges.some(Boolean)) return { attention };
  const pairs = merges.map((merge) =>
    merge ? readPairs(from("pairs", merge.pairsAt, merge.oddPatches), prefixTokens) : [],
  );
  return { attention, pairs, groups: groupsOf(manifest, pairs) };
}

const offsetOf = (binding: Binding): number =>
  (typeof binding === "object" && "activation" in binding && binding.offset) || 0;
