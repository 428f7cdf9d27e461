/** Checkpoints of a training: its variables, optimiser, averages and history in one safetensors file, and the step. */
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

/** The part of a training that a checkpoint holds. */
export interface CheckpointedTask {
  name: string;
  variables: Map<string, tfjs.Variable>;
  /** where the checkpoint goes and under which options it may be continued */
  checkpoint: { path: string; fingerprint: string; rates: string; resume: boolean };
}

/** Beside the output, so that it survives a kill and is found by --resume. */
export const checkpointPath = (out: string) =>
  join(dirname(resolve(out)), `.${basename(resolve(out))}.checkpoint.safetensors`);

/** To be called once the result is safely written. */
export function removeCheckpoint({ checkpoint }: CheckpointedTask): void {
  rmSync(checkpoint.path, { force: true });
}

export async function saveCheckpoint(
  { checkpoint, variables }: CheckpointedTask,
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
  const metadata = {
    step: String(step),
    fingerprint: checkpoint.fingerprint,
    rates: checkpoint.rates,
    history: JSON.stringify(history),
  };
  writeFileAtomic(checkpoint.path, writeSafetensors(stored, metadata));
}

/** @returns the step to go on with; 0 when there is no checkpoint */
export function restoreCheckpoint(
  tf: TF,
  { name, checkpoint, variables }: CheckpointedTask,
  optimiser: AdamW,
  ema: Map<string, Tensor>,
  history: Record<string, number>[],
): number {
  if (!existsSync(checkpoint.path)) {
    say(`${name}: no checkpoint at ${checkpoint.path}; starting from the beginning`);
    return 0;
  }
  const bytes = readFileSync(checkpoint.path);
  const stored = readSafetensors(bytes, checkpoint.path);
  const metadata = safetensorsMetadata(bytes);
  if (metadata.fingerprint !== checkpoint.fingerprint) {
    throw new SlimViTError(
      "bad-option",
      `${checkpoint.path}: was made with other options, model or data. Resume with the same ones, or remove it to start again.`,
    );
  }
  if (metadata.rates !== checkpoint.rates)
    say(`${name}: goes on with rates ${checkpoint.rates}; the checkpoint was made with ${metadata.rates}`);
  const tensor = (key: string) => {
    const found = stored.get(key);
    return found && (tf.tensor(found.data as Float32Array, found.shape) as Tensor);
  };
  for (const [key, variable] of variables) {
    const value = tensor(`variable.${key}`);
    if (!value) throw new SlimViTError("bad-model", `${checkpoint.path}: lacks "${key}".`);
    variable.assign(value as tfjs.Tensor);
    value.dispose();
    const [m, v, average] = [tensor(`m.${key}`), tensor(`v.${key}`), tensor(`ema.${key}`)];
    if (m && v) optimiser.moments.set(key, [m, v]);
    if (average) ema.set(key, average);
  }
  optimiser.steps = Number(metadata.step);
  history.push(...JSON.parse(metadata.history));
  return Number(metadata.step);
}

/** Read back without blocking, which WebGPU cannot do otherwise. */
export async function storedTensor(tensor: Tensor): Promise<{ dtype: "F32"; shape: number[]; data: Float32Array }> {
  return { dtype: "F32", shape: tensor.shape, data: (await tensor.data()) as Float32Array };
}
