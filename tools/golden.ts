/**
 * Holds the search model, the optimiser and the compressor against a folder of golden numbers.
 *   npm run golden -- DIR [--json] [--backend NAME]
 * Prints each quantity's worst error; exits 1 when one is past its tolerance.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Command } from "commander";
import { forward, type Weights } from "../src/engines/tfjs/forward.ts";
import type { Tensor, TF } from "../src/engines/tfjs/ops.ts";
import { messageOf } from "../src/errors.ts";
import { type Architecture, countMacs, countParams, denseTokens, type Tensors } from "../src/format/model.ts";
import { readSafetensors, type StoredTensor } from "../src/format/safetensors.ts";
import { AdamW } from "./lib/adamw.ts";
import { BACKENDS, type BackendName, openBackend } from "./lib/backend.ts";
import { crossEntropy, hardDistillation, mixTargets, smoothTargets, softDistillation } from "./lib/losses.ts";
import {
  type Budgets,
  blockZetas,
  cutTensors,
  foldZeta,
  ghostCounts,
  type HardMasks,
  hardenMasks,
  MASK_MODES,
  type MaskMode,
  patchGates,
  slimArchitecture,
  sparsity,
  type TokenRule,
  threshold,
} from "./lib/masks.ts";
import { printJson, say } from "./lib/terminal.ts";

/** Of the golden README: logits absolute; gradients, losses and AdamW relative to the tensor's largest value. */
const TOLERANCE = { logits: 1e-4, gradient: 1e-3, loss: 1e-5, adamw: 1e-4, exact: 0 };
const DECAY = 1e-3;
const LR = 5e-4;

interface GoldenMode {
  weights_attn_mlp_patch: [number, number, number];
  budgets: Record<string, GoldenBudget>;
  adamw3_losses?: number[];
  dense_macs_params?: [number, number];
  [scalar: string]: unknown;
}

interface GoldenBudget {
  budget: [number, number, number];
  threshold: [number, number, number];
  keep_union: number[][];
  keep_intersect: number[][];
  attn_channels_per_head: number[][];
  mlp_kept: number[];
  slim_macs_params: [number, number];
  slim_intersect_macs_params: [number, number];
}

export interface GoldenRow {
  quantity: string;
  error: number;
  tolerance: number;
  passed: boolean;
}

/** Every comparison the folder allows, in reading order. */
export function checkGolden(tf: TF, dir: string): GoldenRow[] {
  const rows: GoldenRow[] = [];
  const report = (quantity: string, error: number, tolerance: number) => {
    rows.push({ quantity, error, tolerance, passed: error <= tolerance }); // NaN fails
  };
  const file = (name: string) => readSafetensors(readFileSync(join(dir, name)), join(dir, name));
  const golden = JSON.parse(readFileSync(join(dir, "golden.json"), "utf8"));
  const arch = architecture(golden.config);
  const classes: number = golden.config.classes;
  const stored = file("weights.safetensors");
  const inputs = file("inputs.safetensors");
  const pixels = tensorOf(tf, inputs.get("images")!);
  const labels = numbers(inputs.get("labels")!);
  const softTargets = tensorOf(tf, inputs.get("soft_targets")!);

  const [dense] = Object.values(golden.modes as Record<string, GoldenMode>).flatMap((m) =>
    m.dense_macs_params ? [m.dense_macs_params] : [],
  );
  report("dense parameters", Math.abs(countParams(arch, classes) - dense[1]), TOLERANCE.exact);
  report("dense MACs", Math.abs(countMacs(arch, classes) - dense[0]), TOLERANCE.exact);
  checkThresholdIndices(golden.threshold_index_table, report);
  checkMixup(golden.mixup_targets, report);
  for (const [key, expected] of Object.entries(golden.distill_loss as Record<string, number>)) {
    report(
      `distillation ${key}`,
      relative(distillationLoss(tf, file("distill.safetensors"), key), expected),
      TOLERANCE.loss,
    );
  }

  for (const mode of MASK_MODES.filter((mode) => golden.modes[mode])) {
    const expected: GoldenMode = golden.modes[mode];
    const zetas = file(`zetas-${mode}.safetensors`);
    checkSearch(
      tf,
      { mode, arch, stored, zetas, pixels, labels, softTargets, expected },
      file(`search-${mode}.safetensors`),
      report,
    );
    if (expected.adamw3_losses) {
      checkAdamW(
        tf,
        { mode, arch, stored, zetas, pixels, labels, softTargets, expected },
        file(`adamw3-${mode}.safetensors`),
        report,
      );
    }
    checkCompression(
      tf,
      { mode, arch, stored, zetas, pixels, labels, softTargets, expected },
      classes,
      file(`compress-${mode}.safetensors`),
      report,
    );
  }
  tf.dispose([pixels, softTargets]);
  return rows;
}

type Report = (quantity: string, error: number, tolerance: number) => void;
type Stored = Map<string, StoredTensor>;

interface Case {
  mode: MaskMode;
  arch: Architecture;
  stored: Stored;
  zetas: Stored;
  pixels: Tensor;
  labels: number[];
  softTargets: Tensor;
  expected: GoldenMode;
}

function architecture(config: Record<string, number & [number, number]>): Architecture {
  const arch: Architecture = {
    imageSize: config.img_size,
    patchSize: config.patch_size,
    embedDim: config.dim,
    headDim: config.head_dim,
    layerNormEps: config.ln_eps,
    prefixTokens: 1,
    blocks: [],
  };
  const keepIdx = Array.from({ length: denseTokens(arch) }, (_, token) => token);
  const block = { headDims: Array(config.heads).fill(config.head_dim), mlpHidden: config.mlp_hidden, keepIdx };
  return { ...arch, blocks: Array(config.depth).fill(block) };
}

function checkThresholdIndices(table: [number, number, number][], report: Report): void {
  const wrong = table.filter(
    ([n, budget, index]) =>
      threshold(
        Array.from({ length: n }, (_, k) => k),
        budget,
      ) !== index,
  );
  report(`threshold indices (${table.length})`, wrong.length, TOLERANCE.exact);
}

function checkMixup(
  expected: { labels: number[]; lam: number; smoothing: number; classes: number; targets: number[][] },
  report: Report,
): void {
  const { labels, lam, smoothing, classes } = expected;
  const targets = smoothTargets(labels, classes, smoothing);
  const flipped = smoothTargets([...labels].reverse(), classes, smoothing);
  report("mixup targets", worst(mixTargets(targets, flipped, lam), expected.targets.flat()), TOLERANCE.loss);
}

function distillationLoss(tf: TF, stored: Stored, key: string): number {
  const [, kind, tau, alpha] = key.match(/^(none|soft|hard)_tau([\d.]+)_alpha([\d.]+)$/)!;
  return scalar(tf, () => {
    const t = (name: string) => tensorOf(tf, stored.get(name)!);
    const base = crossEntropy(tf, t("student_logits"), t("soft_targets"));
    if (kind === "none") return base;
    const student = t("student_dist_logits");
    const teacher = t("teacher_logits");
    const distill =
      kind === "soft"
        ? softDistillation(tf, student, teacher, Number(tau), "element")
        : hardDistillation(tf, student, teacher);
    return tf.add(tf.mul(base, 1 - Number(alpha)), tf.mul(distill, Number(alpha)));
  });
}

/** The search model: ζ folded into the weights, tanh ζ_patch as gates. */
function searchLogits(
  tf: TF,
  arch: Architecture,
  weights: Weights,
  zetas: Weights,
  pixels: Tensor,
  onBlock?: (x: Tensor) => void,
): Tensor {
  return forward(tf, arch, foldZeta(tf, arch, weights, zetas), pixels, {
    tokenGates: patchGates(tf, arch, zetas),
    onBlock,
  }).logits;
}

function searchLoss(
  tf: TF,
  arch: Architecture,
  weights: Weights,
  zetas: Weights,
  pixels: Tensor,
  targets: Tensor,
  w: [number, number, number],
): Tensor {
  const l1 = sparsity(tf, arch, zetas);
  const terms = tf.addN([tf.mul(l1.attn, w[0]), tf.mul(l1.mlp, w[1]), tf.mul(l1.patch, w[2])]);
  return tf.add(crossEntropy(tf, searchLogits(tf, arch, weights, zetas, pixels), targets), terms);
}

function checkSearch(tf: TF, c: Case, expected: Stored, report: Report): void {
  const { mode, arch, pixels, softTargets } = c;
  const variables = variablesOf(tf, [...c.stored, ...c.zetas]);
  const zetas = new Map([...variables].filter(([name]) => c.zetas.has(name)));
  const classes = softTargets.shape[1]!;

  const outputs: number[][] = [];
  const logits = tf.tidy(() =>
    Array.from(searchLogits(tf, arch, variables, zetas, pixels, (x) => outputs.push([...x.dataSync()])).dataSync()),
  );
  report(`${mode}: search logits`, worst(logits, numbers(expected.get("logits")!)), TOLERANCE.logits);
  outputs.forEach((output, i) => {
    const stored = expected.get(`block_out.${i}`);
    if (stored) report(`${mode}: block ${i} output`, worst(output, numbers(stored)), TOLERANCE.logits);
  });

  for (const family of ["attn", "mlp", "patch"] as const) {
    const value = scalar(tf, () => sparsity(tf, arch, zetas)[family]);
    report(`${mode}: sparsity ${family}`, relative(value, c.expected[`sparsity_${family}`] as number), TOLERANCE.loss);
  }
  const losses: [string, () => Tensor][] = [
    ["ce_soft_target", () => softTargets],
    ["ce_plain", () => tf.tensor2d(smoothTargets(c.labels, classes, 0), [c.labels.length, classes])],
    ["ce_label_smoothing_0.1", () => tf.tensor2d(smoothTargets(c.labels, classes, 0.1), [c.labels.length, classes])],
  ];
  for (const [key, targets] of losses) {
    const value = scalar(tf, () => crossEntropy(tf, searchLogits(tf, arch, variables, zetas, pixels), targets()));
    report(`${mode}: ${key}`, relative(value, c.expected[key] as number), TOLERANCE.loss);
  }

  const { value, grads } = tf.variableGrads(
    () => searchLoss(tf, arch, variables, zetas, pixels, softTargets, c.expected.weights_attn_mlp_patch).asScalar(),
    [...variables.values()],
  );
  report(`${mode}: loss_total`, relative(value.dataSync()[0], c.expected.loss_total as number), TOLERANCE.loss);
  let [error, compared] = [0, 0];
  for (const [name, variable] of variables) {
    const stored = expected.get(`grad.${name}`);
    if (!stored) continue;
    error = Math.max(error, relativeWorst(grads[variable.name].dataSync(), numbers(stored)));
    compared++;
  }
  report(`${mode}: gradients of ${compared} tensors`, compared ? error : Infinity, TOLERANCE.gradient);
  tf.dispose([value, grads, [...variables.values()]]);
}

function checkAdamW(tf: TF, c: Case, expected: Stored, report: Report): void {
  const { mode, arch, pixels, softTargets } = c;
  const variables = variablesOf(tf, [...c.stored, ...c.zetas]);
  const zetas = new Map([...variables].filter(([name]) => c.zetas.has(name)));
  const optimiser = new AdamW(tf, { weightDecay: DECAY });
  c.expected.adamw3_losses!.forEach((expectedLoss, step) => {
    const { value, grads } = tf.variableGrads(
      () => searchLoss(tf, arch, variables, zetas, pixels, softTargets, c.expected.weights_attn_mlp_patch).asScalar(),
      [...variables.values()],
    );
    report(`${mode}: AdamW loss before step ${step + 1}`, relative(value.dataSync()[0], expectedLoss), TOLERANCE.loss);
    const byName = new Map([...variables].map(([name, variable]) => [name, grads[variable.name]]));
    optimiser.step(variables, byName, () => LR);
    tf.dispose([value, grads]);
  });
  for (const [key, stored] of expected) {
    const name = key.replace(/^after3\./, "");
    const actual =
      name === "logits"
        ? tf.tidy(() => searchLogits(tf, arch, variables, zetas, pixels).dataSync())
        : variables.get(name)!.dataSync();
    report(`${mode}: after 3 steps ${name}`, relativeWorst(actual, numbers(stored)), TOLERANCE.adamw);
  }
  optimiser.dispose();
  tf.dispose([...variables.values()]);
}

function checkCompression(tf: TF, c: Case, classes: number, expected: Stored, report: Report): void {
  const { mode, arch, pixels } = c;
  const dense: Tensors = new Map();
  for (const [name, { shape, data }] of c.stored) dense.set(name, { dtype: "F32", shape, data: data as Float32Array });
  const zetas = blockZetas(arch, mode, (name) => c.zetas.get(name)!.data as Float32Array);

  for (const [key, budget] of Object.entries(c.expected.budgets)) {
    const at = `${mode} ${key}`;
    const [attn, mlp, patch] = budget.budget;
    const budgets: Budgets = { attn, mlp, patch };
    const expectedLogits = (name: string) => numbers(expected.get(`${key}.${name}`)!);
    const logitsOf = (tensors: Tensors, net: Architecture, gates?: number[][], ghosts?: number[]) =>
      tf.tidy(() => {
        const weights = new Map([...tensors].map(([name, t]) => [name, tf.tensor(t.data as Float32Array, t.shape)]));
        const options = { tokenGates: gates?.map((values) => tf.tensor1d(values) as Tensor), ghosts };
        return [...forward(tf, net, weights, pixels, options).logits.dataSync()];
      });

    for (const rule of ["union", "intersect"] as TokenRule[]) {
      const masks = hardenMasks(arch, zetas, budgets, { mode, rule });
      const slim = slimArchitecture(arch, masks.blocks);
      const suffix = rule === "union" ? "" : "_intersect";
      const keep = rule === "union" ? budget.keep_union : budget.keep_intersect;
      report(
        `${at}: keep_${rule}`,
        mismatches(
          slim.blocks.map((b) => b.keepIdx),
          keep,
        ),
        TOLERANCE.exact,
      );
      // The goldens charge every patch with its embedding; we embed the kept ones only.
      const unembedded = (denseTokens(arch) - slim.blocks[0].keepIdx.length) * arch.embedDim * 3 * arch.patchSize ** 2;
      const [macs, params] = rule === "union" ? budget.slim_macs_params : budget.slim_intersect_macs_params;
      report(`${at}: MACs ${rule}`, Math.abs(countMacs(slim, classes) + unembedded - macs), TOLERANCE.exact);
      report(`${at}: parameters ${rule}`, Math.abs(countParams(slim, classes) - params), TOLERANCE.exact);
      const logits = logitsOf(cutTensors(arch, dense, masks.blocks), slim);
      report(`${at}: slim${suffix}_logits`, worst(logits, expectedLogits(`slim${suffix}_logits`)), TOLERANCE.logits);
      if (rule === "union") {
        checkMasks(at, c, masks, budget, expected, key, report);
        const folded = foldedTensors(tf, arch, dense, c.zetas);
        const gates = slim.blocks.map((b, i) => b.keepIdx.map((token) => Math.tanh(zetas[i].patch[token])));
        const soft = logitsOf(cutTensors(arch, folded, masks.blocks), slim, gates);
        report(`${at}: slim_soft_logits`, worst(soft, expectedLogits("slim_soft_logits")), TOLERANCE.logits);
        // The reference's compressed net: nothing removed, class token maskable. Cutting channels is exact; tokens become gates.
        const everyToken = masks.blocks.map((b) => ({ ...b, tokens: b.tokens.map(() => true) }));
        const referenceMask = tensorRows(expected.get(`${key}.mask_patch`)!, arch.blocks.length);
        const masked = logitsOf(cutTensors(arch, dense, everyToken), slimArchitecture(arch, everyToken), referenceMask);
        report(`${at}: masked_logits`, worst(masked, expectedLogits("masked_logits")), TOLERANCE.logits);
        // The same from the physically slim net: a ghost stands for the removed tokens, a masked class token is zeroed.
        const classToken = slim.blocks.map((b, i) => b.keepIdx.map((token) => (token === 0 ? referenceMask[i][0] : 1)));
        const ghosted = logitsOf(cutTensors(arch, dense, masks.blocks), slim, classToken, ghostCounts(slim));
        report(`${at}: masked_logits by ghosts`, worst(ghosted, expectedLogits("masked_logits")), TOLERANCE.logits);
      }
    }
  }
}

function checkMasks(
  at: string,
  c: Case,
  masks: HardMasks,
  budget: GoldenBudget,
  expected: Stored,
  key: string,
  report: Report,
): void {
  const { mode, arch } = c;
  const depth = arch.blocks.length;
  const attn = tensorRows(expected.get(`${key}.mask_attn`)!, depth);
  const { headDim } = arch;
  const wrong = masks.blocks.map(({ attn: mask }, i) =>
    mask.map(
      (kept, ch) =>
        Number(kept) !== attn[i][mode === "channel" ? ch : mode === "head" ? Math.floor(ch / headDim) : ch % headDim],
    ),
  );
  report(`${at}: mask_attn`, wrong.flat().filter(Boolean).length, TOLERANCE.exact);
  report(
    `${at}: mask_mlp`,
    mismatches(
      masks.blocks.map((b) => b.mlp.map(Number)),
      tensorRows(expected.get(`${key}.mask_mlp`)!, depth),
    ),
    TOLERANCE.exact,
  );
  report(
    `${at}: mask_patch_raw`,
    mismatches(
      masks.rawTokens.map((row) => row.map(Number)),
      tensorRows(expected.get(`${key}.mask_patch_raw`)!, depth),
    ),
    TOLERANCE.exact,
  );
  const kept = masks.blocks.map((b) => b.attn.map(Number));
  const perHead = kept.map((row) =>
    budget.attn_channels_per_head[0].map((_, h) =>
      row.slice(h * headDim, (h + 1) * headDim).reduce((a, b) => a + b, 0),
    ),
  );
  report(`${at}: channels a head`, mismatches(perHead, budget.attn_channels_per_head), TOLERANCE.exact);
  report(
    `${at}: units kept`,
    mismatches([masks.blocks.map((b) => b.mlp.filter(Boolean).length)], [budget.mlp_kept]),
    TOLERANCE.exact,
  );
  const { attn: a, mlp, patch } = masks.thresholds;
  report(`${at}: thresholds`, worst([a, mlp, patch], budget.threshold), TOLERANCE.loss);
}

function foldedTensors(tf: TF, arch: Architecture, dense: Tensors, zetas: Stored): Tensors {
  const out: Tensors = new Map();
  tf.tidy(() => {
    const weights = new Map([...dense].map(([name, t]) => [name, tf.tensor(t.data as Float32Array, t.shape)]));
    const folded = foldZeta(tf, arch, weights, new Map([...zetas].map(([name, z]) => [name, tensorOf(tf, z)])));
    for (const [name, t] of folded) out.set(name, { dtype: "F32", shape: t.shape, data: t.dataSync() as Float32Array });
  });
  return out;
}

function variablesOf(tf: TF, entries: [string, StoredTensor][]) {
  return new Map(entries.map(([name, stored]) => [name, tf.tidy(() => tf.variable(tensorOf(tf, stored)))]));
}

function tensorOf(tf: TF, { shape, data }: StoredTensor): Tensor {
  return tf.tensor(Float32Array.from(data as Float32Array), shape);
}

const numbers = ({ data }: StoredTensor): number[] => Array.from(data as Float64Array, Number);

function tensorRows(stored: StoredTensor, rows: number): number[][] {
  const values = numbers(stored);
  const width = values.length / rows;
  return Array.from({ length: rows }, (_, r) => values.slice(r * width, (r + 1) * width));
}

function scalar(tf: TF, compute: () => Tensor): number {
  return tf.tidy(() => compute().dataSync()[0]);
}

function worst(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Infinity;
  let error = 0;
  for (let k = 0; k < actual.length; k++) {
    const difference = Math.abs(actual[k] - expected[k]);
    if (!(difference <= error)) error = difference; // keeps NaN
  }
  return error;
}

function relativeWorst(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  let largest = 1e-6; // key biases have a true gradient of 0
  for (let k = 0; k < expected.length; k++) largest = Math.max(largest, Math.abs(expected[k]));
  return worst(actual, expected) / largest;
}

const relative = (actual: number, expected: number) =>
  Math.abs(actual - expected) / Math.max(Math.abs(expected), 1e-12);

function mismatches(actual: number[][], expected: number[][]): number {
  if (actual.length !== expected.length) return Infinity;
  return actual.filter((row, i) => row.length !== expected[i].length || row.some((v, k) => v !== expected[i][k]))
    .length;
}

async function main(): Promise<void> {
  const program = new Command("golden")
    .argument("<dir>", "folder of golden numbers")
    .option("--json", "one JSON value on stdout")
    .option("--backend <name>", BACKENDS.join(", "));
  program.parse();
  const { json, backend } = program.opts<{ json?: boolean; backend?: BackendName }>();
  const { tf } = await openBackend(backend);
  const rows = checkGolden(tf, program.args[0]);
  const failed = rows.filter((row) => !row.passed);
  if (json) printJson({ passed: rows.length - failed.length, failed: failed.length, rows });
  else
    for (const row of rows)
      process.stdout.write(
        `${row.passed ? "ok  " : "FAIL"} ${row.quantity.padEnd(52)} ${row.error.toExponential(1)} (≤ ${row.tolerance})\n`,
      );
  say(`golden: ${rows.length - failed.length} passed, ${failed.length} failed`);
  process.exitCode = failed.length ? 1 : 0;
}

if (process.argv[1] && import.meta.url.endsWith("/golden.ts") && process.argv[1].endsWith("golden.ts")) {
  main().catch((error) => {
    say(`golden: ${messageOf(error)}`);
    process.exitCode = 1;
  });
}
