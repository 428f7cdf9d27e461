/**
 * slimvit search MODEL --data D -o SEARCH: trains the three families of soft masks together with the weights. SEARCH has
 * the trained dense weights, the masks, and everything that is needed to compress them any number of times.
 * @see Chavan et al. 2022, eq. 5 — https://arxiv.org/abs/2201.00814
 */

import { basename, resolve } from "node:path";
import { SlimViTError } from "../../src/errors.ts";
import { denseTokens, type Model, type Tensors } from "../../src/format/model.ts";
import { float32 } from "../../src/format/read.ts";
import { type StoredTensor, writeSafetensors } from "../../src/format/safetensors.ts";
import { type ForwardOptions, type ForwardOutput, forward } from "../../src/tfjs/forward.ts";
import type { Tensor, TF } from "../../src/tfjs/ops.ts";
import { architectureOf, claimOutput, readModelFolder, withStep, writeModel } from "../models/folders.ts";
import { type Variables, variablesFrom } from "../models/variables.ts";
import { reportHtml } from "../report/report.ts";
import { percent, say } from "../shared/terminal.ts";
import { decaysByDefault } from "../training/adamw.ts";
import { openBackend } from "../training/backend.ts";
import { removeCheckpoint, storedTensor } from "../training/checkpoint.ts";
import { labelLoss, learnsOf, smoothTargets, softLoss } from "../training/losses.ts";
import { checkpointOf, openTrainData, recordedOptions, type TrainOptions } from "../training/options.ts";
import { historyFiles } from "../training/scalars.ts";
import { openTeacher } from "../training/teacher.ts";
import { type TrainReport, type TrainTask, train } from "../training/train.ts";
import { measureImportance } from "./importance.ts";
import {
  blockZetas,
  foldZeta,
  isZeta,
  type MaskMode,
  mergesTokens,
  type PatchForm,
  patchGates,
  patchOptions,
  sparsity,
  type TokenRule,
  ZETA_INIT,
  zetaShapes,
} from "./masks.ts";
import { IMPORTANCE_FILE, SEARCH_FILE, searchText, ZETA_FILE } from "./searched.ts";

export interface SearchOptions extends TrainOptions {
  masks: MaskMode;
  wAttn: number;
  wMlp: number;
  wPatch: number;
  lrMask: number;
  lrMaskPatch: number;
  patchForm: PatchForm;
  tokens: TokenRule;
  zetaDecay?: boolean;
  masksOnly?: boolean;
}

export async function search(source: string, options: SearchOptions): Promise<TrainReport> {
  claimOutput(options.out, options.force, [source, options.teacher], options.data);
  const model = readModelFolder(source);
  const arch = architectureOf(model.manifest);
  requireDense(model, source, options);
  const { dataset, data, validation } = await openTrainData(options, model.manifest);
  const backend = await openBackend(options.backend, options.precision);
  const { tf } = backend;

  const weights = variablesFrom(
    tf,
    [...model.tensors].map(([name, { shape }]) => [name, { shape, data: float32(model.tensors, name) }]),
  );
  const zetas = initialZetas(tf, model, options.masks);
  const families = { attn: options.wAttn, mlp: options.wMlp, patch: options.wPatch };
  const trained: Variables = new Map();
  for (const [name, zeta] of zetas) if (families[familyOf(name)] > 0) trained.set(name, zeta);
  for (const [name, weight] of weights) if (!options.masksOnly || /norm/.test(name)) trained.set(name, weight);

  const teacher = openTeacher(tf, options.teacher, model.manifest);
  /** Tokens that merge have no masks. */
  const patchOf = (gates: Tensor[]): ForwardOptions =>
    mergesTokens(arch) ? {} : patchOptions(tf, arch, gates, options.patchForm, options.tokens);
  const task: TrainTask = {
    name: "search",
    variables: trained,
    forward: (pixels, branchGates) => {
      const patch = patchOf(patchGates(tf, arch, zetas));
      return forward(tf, arch, foldZeta(tf, arch, weights, zetas), pixels, { ...patch, branchGates });
    },
    // The score form's factors are never negative; at 0 a token is gone, and its one-sided slope may bring it back.
    ...(options.patchForm === "score" && { afterStep: () => clampPatchZetas(tf, zetas) }),
    penalties: () => {
      const l1 = sparsity(tf, arch, zetas);
      return {
        attn: tf.mul(l1.attn, families.attn),
        mlp: tf.mul(l1.mlp, families.mlp),
        patch: tf.mul(l1.patch, families.patch),
      };
    },
    figures: () => zetaQuantiles(zetas),
    teacher: teacher?.outputs,
    learns: learnsOf(arch),
    classes: model.manifest.labels.length,
    depth: arch.blocks.length,
    rate: (name, lr) =>
      (lr / options.lr) *
      (isZeta(name) ? (familyOf(name) === "patch" ? options.lrMaskPatch : options.lrMask) : options.lr),
    decays: (name, variable) => (isZeta(name) ? options.zetaDecay === true : decaysByDefault(name, variable)),
    data,
    validation,
    checkpoint: await checkpointOf("search", model.manifest, options),
  };
  const report = await train(backend, task, options);
  const importance = await measureImportance(
    tf,
    arch,
    weights,
    zetas,
    data,
    patchOf,
    baseLoss(tf, model, options, teacher?.outputs),
    options.seed,
  );
  await writeSearchFolder(
    model,
    weights,
    zetas,
    importance,
    options,
    report,
    await recordedOptions(options, dataset, backend),
  );
  removeCheckpoint(task);
  teacher?.dispose();
  tf.dispose([...weights.values(), ...zetas.values()]);
  say(
    `search: ${report.steps} steps at ${report.imagesPerSecond.toFixed(1)} images/s on ${backend.name} ` +
      `(${percent(report.waitShare)} of the time waiting for pictures); masks and weights → ${options.out}`,
  );
  return report;
}

/** The loss that importance is measured on: distillation where there is a teacher, else the labels. */
function baseLoss(
  tf: TF,
  { manifest }: Model,
  { tau }: SearchOptions,
  teacher: ((pixels: Tensor) => Tensor) | undefined,
) {
  const classes = manifest.labels.length;
  const learns = learnsOf(manifest);
  return ({ logits, features }: ForwardOutput, pixels: Tensor, labels: number[]): Tensor => {
    if (teacher) return softLoss(tf, learns === "features" ? features : logits, teacher(pixels), tau, learns);
    const targets = tf.tensor2d(smoothTargets(labels, classes, 0), [labels.length, classes]);
    return labelLoss(tf, logits, targets, learns);
  };
}

function clampPatchZetas(tf: TF, zetas: Variables): void {
  for (const [name, zeta] of zetas) if (familyOf(name) === "patch") zeta.assign(tf.tidy(() => tf.relu(zeta)));
}

/** @throws SlimViTError `bad-input` for a slim model, `bad-option` for masks of tokens that merge */
function requireDense({ manifest }: Model, source: string, { wPatch }: SearchOptions): void {
  const { blocks, headDim } = manifest;
  const heads = blocks[0].headDims.length;
  const dense = blocks.every(
    (b) =>
      b.keepIdx.length === denseTokens(manifest) &&
      b.headDims.length === heads &&
      b.headDims.every((w) => w === headDim),
  );
  if (!dense) throw new SlimViTError("bad-input", `${source}: is already slim; search starts from a dense model.`);
  if (mergesTokens(manifest) && wPatch > 0)
    throw new SlimViTError(
      "bad-option",
      `${source}: merges tokens, and merged tokens have no masks of their own. Give --w-patch 0 for masks of channels and ` +
        "units alone, or search the model that was merged.",
    );
}

/** The distribution of the masks: quantiles of ζ, and of tanh ζ for tokens, by family. */
async function zetaQuantiles(zetas: Variables): Promise<Record<string, number>> {
  const quantiles: Record<string, number> = {};
  for (const family of ["attn", "mlp", "patch"] as Family[]) {
    const values: number[] = [];
    for (const [name, zeta] of zetas) if (familyOf(name) === family) values.push(...(await zeta.data()));
    const sorted = Float32Array.from(values, (v) => (family === "patch" ? Math.tanh(v) : v)).sort();
    for (const share of [0.1, 0.5, 0.9])
      quantiles[`${family}.p${100 * share}`] = Number(sorted[Math.floor(share * (sorted.length - 1))].toFixed(4));
  }
  return quantiles;
}

type Family = "attn" | "mlp" | "patch";
const familyOf = (zeta: string): Family =>
  zeta.endsWith("patch_zeta") ? "patch" : zeta.includes(".mlp.") ? "mlp" : "attn";

function initialZetas(tf: Parameters<typeof variablesFrom>[0], { manifest }: Model, mode: MaskMode): Variables {
  return variablesFrom(
    tf,
    [...zetaShapes(manifest, mode)].map(([name, shape]) => {
      const size = shape.reduce((a, b) => a * b, 1);
      return [name, { shape, data: new Float32Array(size).fill(ZETA_INIT[familyOf(name)]) }];
    }),
  );
}

async function writeSearchFolder(
  model: Model,
  weights: Variables,
  zetas: Variables,
  importance: Map<string, StoredTensor>,
  options: SearchOptions,
  report: TrainReport,
  recorded: Record<string, unknown>,
): Promise<void> {
  const { manifest } = model;
  const tensors: Tensors = new Map();
  for (const [name, variable] of weights) tensors.set(name, await storedTensor(variable));
  const masks = new Map<string, Awaited<ReturnType<typeof storedTensor>>>();
  for (const [name, zeta] of zetas) masks.set(name, await storedTensor(zeta));
  const plain = blockZetas(manifest, options.masks, (name) => masks.get(name)!.data);
  const { history, ...figures } = report;
  const provenance = withStep(manifest.provenance, "search", { ...recorded, ...figures });
  const { format: _, weights: __, ...draft } = manifest;
  const records = {
    [ZETA_FILE]: writeSafetensors(masks),
    [IMPORTANCE_FILE]: writeSafetensors(importance),
    "report.html": reportHtml([{ manifest: { ...draft, provenance }, zetas: plain, history }]),
    ...historyFiles(history),
    [SEARCH_FILE]: searchText(options),
  };
  const named = { ...draft, name: basename(resolve(options.out)), provenance };
  await writeModel(options.out, { draft: named, tensors, dtypes: ["f32"], extra: records }, options.force);
}
