/**
 * Compares the search model, the optimiser and the compressor with a folder of golden numbers.
 *   npm run golden -- DIR [--json] [--backend NAME]
 * Prints each quantity's worst error. Exits 1 when one is past its tolerance.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Command } from "commander";
import { messageOf } from "../../src/errors.ts";
import { type Architecture, countMacs, countParams, denseTokens, plainArchitecture } from "../../src/format/model.ts";
import { readSafetensors } from "../../src/format/safetensors.ts";
import type { TF } from "../../src/tfjs/ops.ts";
import { MASK_MODES, threshold } from "../masks/masks.ts";
import { printJson, say } from "../shared/terminal.ts";
import { BACKENDS, type BackendName, openBackend } from "../training/backend.ts";
import { crossEntropy, hardDistillation, mixTargets, smoothTargets, softDistillation } from "../training/losses.ts";
import { checkCompression } from "./goldenCompress.ts";
import {
  type Case,
  type GoldenMode,
  numbers,
  type Report,
  relative,
  type Stored,
  scalar,
  TOLERANCE,
  tensorOf,
  worst,
} from "./goldenFolder.ts";
import { checkAdamW, checkSearch } from "./goldenSearch.ts";

export interface GoldenRow {
  quantity: string;
  error: number;
  tolerance: number;
  passed: boolean;
}

/** Every comparison the folder allows, in reading order. */
export function checkGolden(tf: TF, dir: string): GoldenRow[] {
  const rows: GoldenRow[] = [];
  const report: Report = (quantity, error, tolerance) => {
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
    const c: Case = { mode, arch, stored, zetas, pixels, labels, softTargets, expected };
    checkSearch(tf, c, file(`search-${mode}.safetensors`), report);
    if (expected.adamw3_losses) checkAdamW(tf, c, file(`adamw3-${mode}.safetensors`), report);
    checkCompression(tf, c, classes, file(`compress-${mode}.safetensors`), report);
  }
  tf.dispose([pixels, softTargets]);
  return rows;
}

function architecture(config: Record<string, number & [number, number]>): Architecture {
  const arch = plainArchitecture({
    imageSize: config.img_size,
    patchSize: config.patch_size,
    embedDim: config.dim,
    headDim: config.head_dim,
    layerNormEps: config.ln_eps,
    prefixTokens: 1,
    blocks: [],
  });
  const keepIdx = Array.from({ length: denseTokens(arch) }, (_, token) => token);
  const block = {
    headDims: Array(config.heads).fill(config.head_dim),
    mlpHidden: config.mlp_hidden,
    keepIdx,
    merge: 0,
  };
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
