/**
 * Closed-form compensation. After a cut, the next linear is solved again for the kept inputs, block by block, so that
 * the slim model's tokens stay close to the whole model's on a few hundred pictures. It needs no labels and no training.
 *
 * - MLP units: fc2 is solved for the kept units.
 * - Head channels and whole heads: proj is solved for the kept channels of the values. Where a head's scores are plain
 *   products q·k, the variation of the lost keys is predicted from the head's kept keys and folded into its queries. The
 *   mean of a key adds the same to all scores of a query, which the softmax does not see.
 *
 * The channels and units to remove are either given, as masks, or chosen here: those that the others replace best.
 *
 * @see GRAIL, arXiv 2602.23795; CORP, arXiv 2602.05243
 */
import { type Architecture, denseTokens, innerDim, type Model, type Tensors } from "../../src/format/model.ts";
import { float32 } from "../../src/format/read.ts";
import { cholesky, solveFactored } from "../../src/reference/cholesky.ts";
import { type Stream, tidyStream } from "../../src/tfjs/forward.ts";
import type { TF } from "../../src/tfjs/ops.ts";
import { type Picture, spread } from "../data/data.ts";
import { startProgress } from "../shared/progress.ts";
import { advance, difference, disposeStreams, momentsOf, without } from "./calibration.ts";
import { type BlockMask, channelStep, cutTensors, slimArchitecture } from "./masks.ts";
import { addRidge, chooseKept, type Moments, rowVariance, solveForKept, statisticsOf } from "./ridge.ts";
import { WholeStreams } from "./wholeStreams.ts";

/** In the last block only the class token is read. This number gives it more rows than DeiT-Ti has inner channels. */
export const CALIBRATION_PICTURES = 384;
/** Shares of head channels and MLP units that each block keeps. */
export interface KeptShares {
  attn: number;
  mlp: number;
}

export interface Compensated {
  masks: BlockMask[];
  /** the slim model's, f32 */
  tensors: Tensors;
}

/**
 * @param whole the uncut model, its tensors in f32 with ζ folded in; its token lists are those of the slim model
 * @param cut what each block keeps, or what share of it
 * @param pictures of which `CALIBRATION_PICTURES`, spread over all, are seen
 */
export async function compensate(
  tf: TF,
  model: Pick<Model, "manifest" | "tensors">,
  cut: BlockMask[] | KeptShares,
  pictures: Picture[],
): Promise<Compensated> {
  const whole = await WholeStreams.open(tf, model, spread(pictures, CALIBRATION_PICTURES));
  return compensateFor(whole, cut).finally(() => whole.dispose());
}

/**
 * @param whole the uncut model on the calibration pictures, which several cuts of it can share
 * @param turn awaited before each block; it may throw, to stop
 */
export async function compensateFor(
  whole: WholeStreams,
  cut: BlockMask[] | KeptShares,
  turn?: () => Promise<void>,
): Promise<Compensated> {
  const { tf, arch, tensors: folded } = whole;
  const run: Compensation = { whole, masks: Array.isArray(cut) ? [...cut] : wholeMasks(arch) };
  const shares = Array.isArray(cut) ? undefined : cut;
  const tensors: Tensors = new Map(folded);
  let streams = whole.embedded.map(({ x }) => tidyStream(tf, () => ({ x: tf.clone(x) })));
  const progress = startProgress("compensation", arch.blocks.length);
  try {
    for (let i = 0; i < arch.blocks.length; i++) {
      await turn?.();
      streams = await compensateBlock(run, i, tensors, streams, shares);
      progress.update(i + 1, "");
    }
  } finally {
    progress.stop();
    disposeStreams(tf, streams);
  }
  return { masks: run.masks, tensors };
}

interface Compensation {
  whole: WholeStreams;
  masks: BlockMask[];
}

/**
 * Replaces a block's tensors by the slim ones.
 *
 * @param slim the residual stream of each batch in the slim model
 * @returns the streams after the block; those before are disposed of
 */
async function compensateBlock(
  run: Compensation,
  i: number,
  tensors: Tensors,
  slim: Stream[],
  shares?: KeptShares,
): Promise<Stream[]> {
  const { whole, masks } = run;
  const { tf, arch, tensors: folded } = whole;
  const at = `blocks.${i}`;
  const { withAttention, after, merges } = whole.block(i);
  // proj is solved for the attention's output in the whole model plus all that was lost before.
  const entering = advance(tf, ...without(arch, i, folded, { attn: true, mlp: true, merge: true }), i, slim);
  const wantedOfProj = difference(tf, withAttention, entering);
  const attention = without(arch, i, folded, { mlp: true, merge: true });
  const { "attn.proj": proj, "attn.qkv": qkv } = await momentsOf(tf, ...attention, i, slim, {
    "attn.proj": wantedOfProj,
    "attn.qkv": undefined,
  });
  disposeStreams(tf, entering);
  tf.dispose(wantedOfProj);
  if (shares && proj) masks[i].attn = chooseChannels(whole, i, proj, qkv!, shares.attn);
  cutBlock(run, i, tensors);
  if (qkv) foldLostKeys(run, i, tensors, qkv);
  solveLinear(tensors, folded, `${at}.attn.proj`, masks[i].attn, proj);

  // The MLP is solved with the heads as cut now and all units. The same tokens merge as in the whole model.
  const [halfArch, half] = withWholeMlp(run, i, tensors);
  const slimAttention = advance(tf, ...without(halfArch, i, half, { mlp: true }), i, slim, merges);
  const wanted = difference(tf, after, slimAttention);
  const { "mlp.fc2": fc2 } = await momentsOf(tf, halfArch, half, i, slim, { "mlp.fc2": wanted }, merges);
  if (shares && fc2) {
    const weight = float32(folded, `${at}.mlp.fc2.weight`);
    masks[i].mlp = chooseKept(weight, fc2, Math.round(shares.mlp * fc2.size));
    const solvedAttention = new Map(tensors);
    cutBlock(run, i, tensors);
    for (const [key, tensor] of solvedAttention) if (key.startsWith(`${at}.attn.`)) tensors.set(key, tensor);
  }
  const slimArch = slimArchitecture(arch, masks);
  if (arch.hiddenNorm && masks[i].mlp.includes(false)) {
    // The inner norm changes the kept units when others are gone.
    const { "mlp.fc2": left } = await momentsOf(tf, slimArch, tensors, i, slim, { "mlp.fc2": wanted }, merges);
    const all = masks[i].mlp.filter(Boolean);
    if (left) solveFor(tensors, tensors, `${at}.mlp.fc2`, indices(all), left);
  } else solveLinear(tensors, folded, `${at}.mlp.fc2`, masks[i].mlp, fc2);
  const slimAfter = advance(tf, slimArch, tensors, i, slim, merges);
  disposeStreams(tf, [...slimAttention, ...slim]);
  tf.dispose(wanted);
  whole.release(i);
  return slimAfter;
}

/** Puts the block's cut, unsolved tensors in. */
function cutBlock({ whole: { arch, tensors: folded }, masks }: Compensation, i: number, tensors: Tensors): void {
  const others = wholeMasks(arch).map((mask, k) => (k === i ? masks[i] : mask));
  for (const [key, tensor] of cutTensors(arch, folded, others)) {
    if (key.startsWith(`blocks.${i}.`)) tensors.set(key, tensor);
  }
}

/** Masks that keep everything. */
export function wholeMasks(arch: Architecture): BlockMask[] {
  const all = (length: number): boolean[] => Array(length).fill(true);
  const tokens = denseTokens(arch);
  return arch.blocks.map((block) => {
    const listed = new Set(block.keepIdx);
    return {
      attn: all(innerDim(block)),
      mlp: all(block.mlpHidden),
      tokens: Array.from({ length: tokens }, (_, token) => listed.has(token)),
    };
  });
}

const MLP_PARTS = ["fc1.weight", "fc1.bias", "norm.weight", "norm.bias", "fc2.weight", "fc2.bias"];

function withWholeMlp(
  { whole: { arch, tensors: folded }, masks }: Compensation,
  i: number,
  tensors: Tensors,
): [Architecture, Tensors] {
  const { headDims } = slimArchitecture(arch, masks).blocks[i];
  const blocks = arch.blocks.map((block, k) => (k === i ? { ...block, headDims } : block));
  const out = new Map(tensors);
  for (const part of MLP_PARTS) {
    const whole = folded.get(`blocks.${i}.mlp.${part}`);
    if (whole) out.set(`blocks.${i}.mlp.${part}`, whole);
  }
  return [{ ...arch, blocks }, out];
}

const indices = (mask: boolean[]): number[] => mask.flatMap((kept, i) => (kept ? [i] : []));

/** Replaces a linear's columns and bias by those that stand in for the whole linear. */
function solveLinear(
  tensors: Tensors,
  folded: Tensors,
  name: string,
  mask: boolean[],
  moments: Moments | undefined,
): void {
  const keep = indices(mask);
  if (moments && keep.length < mask.length) solveFor(tensors, folded, name, keep, moments);
}

function solveFor(tensors: Tensors, from: Tensors, name: string, keep: number[], moments: Moments): void {
  const { shape } = from.get(`${name}.bias`)!;
  const solved = solveForKept(float32(from, `${name}.weight`), float32(from, `${name}.bias`), moments, keep);
  tensors.set(`${name}.weight`, { dtype: "F32", shape: [shape[0], keep.length], data: solved.weight });
  tensors.set(`${name}.bias`, { dtype: "F32", shape, data: solved.bias });
}

/** Chooses channels by proj's loss without a channel and by its part in the variance of the head's scores. */
function chooseChannels(
  { arch, tensors: folded }: WholeStreams,
  i: number,
  proj: Moments,
  qkv: Moments,
  share: number,
): boolean[] {
  const inner = innerDim(arch.blocks[i]);
  const weight = float32(folded, `blocks.${i}.attn.qkv.weight`);
  const { covariance } = statisticsOf(qkv);
  const variance = (row: number) => rowVariance(weight, row, covariance);
  const scores = Array.from({ length: inner }, (_, c) => variance(c) * variance(inner + c));
  const total = scores.reduce((a, b) => a + b, 0) || 1;
  const losses = scores.map((value) => value / total);
  const kept = Math.max(1, Math.round(share * inner));
  const weightOfProj = float32(folded, `blocks.${i}.attn.proj.weight`);
  return chooseKept(weightOfProj, proj, kept, losses, channelStep(arch));
}

/**
 * q·k over the lost channels R is predicted from the kept ones S of the same head: k_R − mean ≈ B (k_S − mean), so that
 * q_S + Bᵀ q_R takes q_S's place. q_R is linear in what enters, so its rows are added to those of q_S.
 */
function foldLostKeys(
  { whole: { arch, tensors: folded }, masks }: Compensation,
  i: number,
  tensors: Tensors,
  moments: Moments,
): void {
  const { embedDim, headDim, blocks, position, qkNorm } = arch;
  if (position === "rope" || qkNorm) return; // rotations and norms stand between the linear and the scores
  const inner = innerDim(blocks[i]);
  const key = `blocks.${i}.attn.qkv`;
  const whole = float32(folded, `${key}.weight`);
  const wholeBias = float32(folded, `${key}.bias`);
  const weight = float32(tensors, `${key}.weight`);
  const bias = float32(tensors, `${key}.bias`);
  const { covariance } = statisticsOf(moments);
  let to = 0; // row of the slim q
  for (let first = 0; first < inner; first += headDim) {
    const channels = Array.from({ length: headDim }, (_, c) => c);
    const kept = channels.filter((c) => masks[i].attn[first + c]);
    const lost = channels.filter((c) => !masks[i].attn[first + c]);
    if (kept.length && lost.length) {
      const rows = whole.subarray((inner + first) * embedDim, (inner + first + headDim) * embedDim);
      const map = predictLost(keyCovariance(rows, covariance, headDim, embedDim), kept, lost, headDim);
      kept.forEach((_, s) => {
        lost.forEach((channel, r) => {
          const share = map[r * kept.length + s];
          const from = (first + channel) * embedDim;
          for (let d = 0; d < embedDim; d++) weight[(to + s) * embedDim + d] += share * whole[from + d];
          bias[to + s] += share * wholeBias[first + channel];
        });
      });
    }
    to += kept.length;
  }
}

/** Covariance of a head's keys, W C Wᵀ, from that of what enters the linear; [channels, channels] */
function keyCovariance(weight: Float32Array, covariance: Float64Array, channels: number, dim: number): Float64Array {
  const product = new Float64Array(channels * dim);
  for (let c = 0; c < channels; c++) {
    for (let a = 0; a < dim; a++) {
      const w = weight[c * dim + a];
      for (let b = 0; b < dim; b++) product[c * dim + b] += w * covariance[a * dim + b];
    }
  }
  const keys = new Float64Array(channels * channels);
  for (let a = 0; a < channels; a++) {
    for (let b = 0; b < channels; b++) {
      for (let d = 0; d < dim; d++) keys[a * channels + b] += product[a * dim + d] * weight[b * dim + d];
    }
  }
  return keys;
}

/** B of lost ≈ B kept; [lost, kept] */
function predictLost(covariance: Float64Array, kept: number[], lost: number[], size: number): Float64Array {
  const n = kept.length;
  const among = Float64Array.from(
    { length: n * n },
    (_, k) => covariance[kept[Math.floor(k / n)] * size + kept[k % n]],
  );
  addRidge(among, n, n);
  const factor = cholesky(among, n);
  const map = new Float64Array(lost.length * n);
  lost.forEach((row, r) => {
    const values = Float64Array.from(kept, (column) => covariance[row * size + column]);
    solveFactored(factor, values);
    map.set(values, r * n);
  });
  return map;
}
