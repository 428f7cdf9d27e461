/** The compressor against golden numbers: masks, thresholds, kept tokens, counts, and the logits of what is left. */

import { type Architecture, countMacs, countParams, denseTokens, type Tensors } from "../../src/format/model.ts";
import type { StoredTensor } from "../../src/format/safetensors.ts";
import { forward } from "../../src/tfjs/forward.ts";
import type { Tensor, TF } from "../../src/tfjs/ops.ts";
import {
  type Budgets,
  blockZetas,
  cutTensors,
  foldZeta,
  type HardMasks,
  hardenMasks,
  slimArchitecture,
  type TokenRule,
} from "../masks/masks.ts";
import { ghostCounts } from "../training/retrain.ts";
import {
  type Case,
  type GoldenBudget,
  mismatches,
  numbers,
  type Report,
  type Stored,
  TOLERANCE,
  tensorOf,
  worst,
} from "./goldenFolder.ts";

export function checkCompression(tf: TF, c: Case, classes: number, expected: Stored, report: Report): void {
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

function tensorRows(stored: StoredTensor, rows: number): number[][] {
  const values = numbers(stored);
  const width = values.length / rows;
  return Array.from({ length: rows }, (_, r) => values.slice(r * width, (r + 1) * width));
}
