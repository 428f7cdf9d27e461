/**
 * The importance of each maskable unit for the loss: I = |z · ∂L/∂z|, the first-order change of the base loss if the
 * unit is removed (z = ζ, or tanh ζ for tokens), averaged over training pictures. Unlike ζ itself it is comparable
 * across families.
 */
import type * as tfjs from "@tensorflow/tfjs-core";
import type { Architecture } from "../../src/format/model.ts";
import type { StoredTensor } from "../../src/format/safetensors.ts";
import { type ForwardOptions, type ForwardOutput, forward, type Weights } from "../../src/tfjs/forward.ts";
import type { Tensor, TF } from "../../src/tfjs/ops.ts";
import { startProgress } from "../shared/progress.ts";
import { type TrainData, trainBatches } from "../training/batches.ts";
import { foldZeta, mergesTokens } from "./masks.ts";

/** Small, so that the sign of a gradient seldom cancels within a batch. */
const BATCH = 8;
export const IMPORTANCE_PICTURES = 512;

/**
 * @param patchOf tokens' gates → how they act in the forward pass
 * @param lossOf the base loss, without penalties
 * @returns tensors named and shaped as the masks
 */
export async function measureImportance(
  tf: TF,
  arch: Architecture,
  weights: Weights,
  zetas: Weights,
  data: TrainData,
  patchOf: (gates: Tensor[]) => ForwardOptions,
  lossOf: (output: ForwardOutput, pixels: Tensor, labels: number[]) => Tensor,
  seed: number,
): Promise<Map<string, StoredTensor>> {
  const merges = mergesTokens(arch);
  const isOfTokens = (name: string) => name.endsWith("patch_zeta");
  const names = [...zetas.keys()].filter((name) => !merges || !isOfTokens(name)); // tokens that merge have importance 0
  const sums = new Map([...zetas].map(([name, zeta]) => [name, new Float64Array(zeta.size)]));
  const steps = Math.ceil(Math.min(IMPORTANCE_PICTURES, data.pictures.length) / BATCH);
  const progress = startProgress("importance", steps);
  let step = 0;
  for await (const batch of trainBatches(data, { batch: BATCH, seed, from: 0, to: steps })) {
    if (batch.size === 0) continue;
    const [height, width] = data.preprocess.crop;
    const changes = tf.tidy(() => {
      const pixels = tf.tensor4d(batch.pixels, [batch.size, 3, height, width]);
      // Tokens are differentiated at their gate tanh ζ, channels and units at ζ.
      const gates = names.map((name) => (isOfTokens(name) ? tf.tanh(zetas.get(name)!) : tf.clone(zetas.get(name)!)));
      const gradients = tf.grads((...inputs: Tensor[]) => {
        const gate = new Map(names.map((name, k) => [name, inputs[k]]));
        const patch = merges
          ? {}
          : patchOf(arch.blocks.map((_, i) => tf.reshape(gate.get(`blocks.${i}.attn.patch_zeta`)!, [-1])));
        return lossOf(forward(tf, arch, foldZeta(tf, arch, weights, gate), pixels, patch), pixels, batch.labels);
      })(gates as tfjs.Tensor[]);
      return gradients.map((gradient, k) => tf.abs(tf.mul(gradient, gates[k])));
    });
    for (const [k, name] of names.entries()) {
      const change = await changes[k].data();
      const sum = sums.get(name)!;
      for (let i = 0; i < sum.length; i++) sum[i] += change[i];
    }
    tf.dispose(changes);
    progress.update(++step, "");
  }
  progress.stop();
  return new Map(
    [...sums].map(([name, sum]) => [
      name,
      { dtype: "F32", shape: zetas.get(name)!.shape, data: Float32Array.from(sum, (v) => v / step) },
    ]),
  );
}
