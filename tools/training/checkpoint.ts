/** Checkpoints of a training: its variables, optimiser, averages, history and step, in one safetensors file. */
import { existsSync, readFileSync, rmSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import type * as tfjs from "@tensorflow/tfjs-core";
import { SlimViTError } from "../../src/errors.ts";
import { readSafetensors, type StoredTensor, writeSafetensors } from "../../src/format/safetensors.ts";
import type { Tensor, TF } from "../../src/tfjs/ops.ts";
import { writeFileAtomic } from "../models/folders.ts";
import { safetensorsMetadata } from "../models/metadata.ts";
import { say } from "../shared/terminal.ts";
import type { AdamW } from "./adamw.ts";
import type { BestWeights } from "./best.ts";

/** The part of a training that a checkpoint holds. */
export interface CheckpointedTask {
  name: string;
  variables: Map<string, tfjs.Variable>;
  checkpoint: CheckpointPlan;
  /** the weights that were best on val, where the training ends with them */
  best?: BestWeights;
}

/** Beside the output, so that it survives a kill and is found by --resume. */
export const checkpointPath = (out: string) =>
  join(dirname(resolve(out)), `.${basename(resolve(out))}.checkpoint.safetensors`);

/** Where a checkpoint goes and under which options it may be continued. */
export interface CheckpointPlan {
  path: string;
  /** values that must be equal for a checkpoint to be continued, by the names of options */
  identity: Record<string, unknown>;
  /** rates, which may change */
  rates: string;
  /** `either`: a checkpoint that fits is continued; one that does not fit is an error and is not overwritten */
  start: "anew" | "resume" | "either";
}

/** To be called once the result is safely written. */
export function removeCheckpoint({ checkpoint }: CheckpointedTask): void {
  rmSync(checkpoint.path, { force: true });
}

export async function saveCheckpoint(
  { checkpoint, variables, best }: CheckpointedTask,
  optimiser: AdamW,
  ema: Map<string, Tensor>,
  history: Record<string, number>[],
  step: number,
): Promise<void> {
  const stored = new Map<string, StoredTensor>();
  const put = async (name: string, tensor: Tensor) => void stored.set(name, await storedTensor(tensor));
  for (const [name, variable] of variables) await put(`variable.${name}`, variable);
  for (const [name, [m, v]] of optimiser.moments) {
    await put(`m.${name}`, m);
    await put(`v.${name}`, v);
  }
  for (const [name, average] of ema) await put(`ema.${name}`, average);
  for (const [name, tensor] of best?.tensors ?? []) await put(`best.${name}`, tensor);
  const metadata = {
    step: String(step),
    identity: JSON.stringify(checkpoint.identity),
    rates: checkpoint.rates,
    history: JSON.stringify(history),
  };
  writeFileAtomic(checkpoint.path, writeSafetensors(stored, metadata));
}

/**
 * @returns the step to continue with; 0 when there is no checkpoint
 * @throws SlimViTError `bad-option` for a checkpoint of another training, naming what differs
 */
export function restoreCheckpoint(
  tf: TF,
  { name, checkpoint, variables, best }: CheckpointedTask,
  optimiser: AdamW,
  ema: Map<string, Tensor>,
  history: Record<string, number>[],
): number {
  if (checkpoint.start === "anew") return 0;
  if (!existsSync(checkpoint.path)) {
    if (checkpoint.start === "resume") say(`${name}: no checkpoint at ${checkpoint.path}; starting from the beginning`);
    return 0;
  }
  const bytes = readFileSync(checkpoint.path);
  const stored = readSafetensors(bytes, checkpoint.path);
  const metadata = safetensorsMetadata(bytes);
  const difference = differenceOf(metadata.identity, checkpoint.identity);
  if (difference !== undefined) {
    throw new SlimViTError(
      "bad-option",
      `${checkpoint.path}: is the checkpoint of another training (${difference}). ` +
        "Give the options that it was made with to continue, or --restart to start from the beginning and replace it.",
    );
  }
  if (metadata.rates !== checkpoint.rates)
    say(`${name}: continues with rates ${checkpoint.rates}; the checkpoint was made with ${metadata.rates}`);
  const tensor = (key: string) => {
    const found = stored.get(key);
    return found && (tf.tensor(found.data as Float32Array, found.shape) as Tensor);
  };
  const bestTensors = new Map<string, Tensor>();
  for (const [key, variable] of variables) {
    const value = tensor(`variable.${key}`);
    if (!value) throw new SlimViTError("bad-model", `${checkpoint.path}: lacks "${key}".`);
    variable.assign(value as tfjs.Tensor);
    value.dispose();
    const [m, v, average] = [tensor(`m.${key}`), tensor(`v.${key}`), tensor(`ema.${key}`)];
    const bestOne = tensor(`best.${key}`);
    if (bestOne) bestTensors.set(key, bestOne);
    if (m && v) optimiser.moments.set(key, [m, v]);
    if (average) ema.set(key, average);
  }
  optimiser.steps = Number(metadata.step);
  history.push(...JSON.parse(metadata.history));
  best?.restore(bestTensors, history);
  return Number(metadata.step);
}

/** The first thing that differs, as people would say it: "--epochs was 5, is 10". */
function differenceOf(stored: string | undefined, now: Record<string, unknown>): string | undefined {
  if (stored === undefined) return "of an earlier version of SlimViT";
  const before = JSON.parse(stored) as Record<string, unknown>;
  const plain = JSON.parse(JSON.stringify(now)) as Record<string, unknown>;
  const key = Object.keys({ ...before, ...plain }).find((k) => JSON.stringify(before[k]) !== JSON.stringify(plain[k]));
  if (key === undefined) return undefined;
  if (key === "command") return `of "slimvit ${before.command}"`;
  if (key === "model") return "the model is another one";
  if (key === "variants") return "it trains other variants";
  if (key === "data") return "--data holds other pictures";
  if (key === "teacher") return "--teacher is another model";
  const shown = (value: unknown) => (value === undefined ? "not given" : JSON.stringify(value));
  const option = key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
  return `--${option} was ${shown(before[key])}, is ${shown(plain[key])}`;
}

/** Read back without blocking, which WebGPU cannot do otherwise. */
export async function storedTensor(tensor: Tensor): Promise<{ dtype: "F32"; shape: number[]; data: Float32Array }> {
  return { dtype: "F32", shape: tensor.shape, data: (await tensor.data()) as Float32Array };
}
