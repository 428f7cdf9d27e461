/**
 * tsx tools/research/compensation.ts MODEL --data D --keep 0.85 --seeds 3: measures how much of a cut's loss
 * compensation recovers, without training. The same share of head channels and MLP units is removed from each block.
 * Prints top-1 on the val pictures of the dense model, of plain cutting by magnitude, and for each seed, which draws the
 * calibration pictures from train, of the same cut compensated, and of the cut that compensation chooses, compensated
 * and plain. "Recovered" is the share of the loss of plain cutting by magnitude that is gone. The other plain cut is not
 * one that anybody would make without compensation.
 */
import { availableParallelism } from "node:os";
import { Command } from "commander";
import { openSimd } from "../../src/engines/simd/engine.ts";
import { messageOf } from "../../src/errors.ts";
import type { Architecture, Model, Tensors } from "../../src/format/model.ts";
import { float32 } from "../../src/format/read.ts";
import { encodeTensors } from "../../src/format/write.ts";
import { evalPixels, labelIndices, openDataset, type Picture } from "../data/data.ts";
import { CALIBRATION_PICTURES, compensate, wholeMasks } from "../masks/compensate.ts";
import { type BlockMask, cutTensors, slimArchitecture } from "../masks/masks.ts";
import { readModelFolder } from "../models/folders.ts";
import { count, fraction } from "../options/values.ts";
import { random, shuffled } from "../shared/random.ts";
import { rankOf } from "../shared/ranks.ts";
import { percent } from "../shared/terminal.ts";
import { openBackend } from "../training/backend.ts";

interface Options {
  data: string[];
  keep: number;
  seeds: number;
}

async function main(source: string, { data, keep, seeds }: Options): Promise<void> {
  const read = readModelFolder(source);
  const dense: Model = { ...read, dtype: "f32", tensors: encodeTensors(read.tensors, "f32") };
  const train = await openDataset(data, "train");
  const val = await openDataset(data, "val");
  const indices = labelIndices(val.classNames, dense.manifest.labels);
  const { tf } = await openBackend();
  const top1Of = async (masks: BlockMask[], tensors: Tensors) =>
    top1({ ...dense, manifest: slimArchitecture(dense.manifest, masks), tensors }, val.pictures, indices);
  const plainOf = (masks: BlockMask[]) => top1Of(masks, cutTensors(dense.manifest, dense.tensors, masks));

  const whole = await top1(dense, val.pictures, indices);
  const byMagnitude = magnitudeMasks(dense, keep);
  const plain = await plainOf(byMagnitude);
  const report = (what: string, share: number) => {
    const points = `${(100 * (share - whole)).toFixed(2).replace("-", "−")} points`;
    const recovered = what.includes("compensated") ? `, ${percent((share - plain) / (whole - plain))} recovered` : "";
    console.log(`${what}: ${percent(share)} (${points}${recovered})`);
  };
  console.log(
    `dense: ${percent(whole)} of ${val.pictures.length} val pictures; ${percent(keep)} of channels and units kept`,
  );
  report("cut by magnitude, plain", plain);
  for (let seed = 0; seed < seeds; seed++) {
    const calibration = shuffled(train.pictures, random(seed)).slice(0, CALIBRATION_PICTURES);
    const chosen = await compensate(tf, dense, { attn: keep, mlp: keep }, calibration);
    report(`seed ${seed}, cut by compensation's choice, compensated`, await top1Of(chosen.masks, chosen.tensors));
    report(`seed ${seed}, cut by compensation's choice, plain`, await plainOf(chosen.masks));
    const same = await compensate(tf, dense, byMagnitude, calibration);
    report(`seed ${seed}, cut by magnitude, compensated`, await top1Of(same.masks, same.tensors));
  }
}

/**
 * The magnitude of a channel or unit is the sum of squares of the weights that compute it and of those that read it.
 */
function magnitudeMasks({ manifest, tensors }: Model, keep: number): BlockMask[] {
  return wholeMasks(manifest).map((mask, i) => ({
    ...mask,
    attn: largest(squares(manifest, tensors, `blocks.${i}.attn`, ["qkv", "proj"], mask.attn.length), keep),
    mlp: largest(squares(manifest, tensors, `blocks.${i}.mlp`, ["fc1", "fc2"], mask.mlp.length), keep),
  }));
}

function squares(
  { embedDim }: Architecture,
  tensors: Tensors,
  at: string,
  [rows, columns]: [string, string],
  size: number,
): Float64Array {
  const sums = new Float64Array(size);
  float32(tensors, `${at}.${rows}.weight`).forEach((w, k) => void (sums[Math.floor(k / embedDim) % size] += w * w));
  float32(tensors, `${at}.${columns}.weight`).forEach((w, k) => void (sums[k % size] += w * w));
  return sums;
}

function largest(values: Float64Array, share: number): boolean[] {
  const order = [...values.keys()].sort((a, b) => values[b] - values[a]);
  const kept = new Set(order.slice(0, Math.round(share * values.length)));
  return order.map((_, k) => kept.has(k));
}

async function top1(model: Model, pictures: Picture[], indices: Map<string, number>): Promise<number> {
  const engine = await openSimd(model, { threads: availableParallelism() });
  try {
    let right = 0;
    for (const picture of pictures) {
      const { logits } = await engine.run(await evalPixels(picture, model.manifest.preprocess));
      if (rankOf(logits, indices.get(picture.className)!) < 1) right++;
    }
    return right / pictures.length;
  } finally {
    engine.dispose();
  }
}

try {
  await new Command("compensation")
    .argument("<model>", "model folder that knows the data's classes")
    .requiredOption("--data <source>", "pictures with train and val", (value, before: string[] = []) => [
      ...before,
      value,
    ])
    .option("--keep <share>", "of head channels and of MLP units", fraction, 0.85)
    .option("--seeds <n>", "draws of calibration pictures", count, 3)
    .action(main)
    .parseAsync();
} catch (error) {
  console.error(`compensation: ${messageOf(error)}`);
  process.exitCode = 1;
}
