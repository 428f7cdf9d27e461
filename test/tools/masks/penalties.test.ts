/** What a search's loss does to the masks: each penalty lowers its own family; importance is the loss's change, by finite differences. */
import { readFileSync } from "node:fs";
import { beforeAll, describe, expect, test } from "vitest";
import { type Architecture, innerDim, type Tensors } from "../../../src/format/model.ts";
import { readSafetensors } from "../../../src/format/safetensors.ts";
import { searchCommand } from "../../../tools/commands/search.ts";
import { type SearchOptions, search } from "../../../tools/masks/search.ts";
import { IMPORTANCE_FILE, ZETA_FILE } from "../../../tools/masks/searched.ts";
import { readModelFolder } from "../../../tools/models/folders.ts";
import { type Batch, trainBatches } from "../../../tools/training/batches.ts";
import { openTrainData } from "../../../tools/training/options.ts";
import { expectClose } from "../../helpers.ts";
import { makeDense, tinyArchitecture, workplace } from "../fixtures.ts";
import { type Gates, maskedLogits } from "./plain.ts";

const at = workplace("penalties");
beforeAll(() => makeDense(at, 5)); // 9 training pictures

function optionsOf(name: string, ...args: string[]): SearchOptions {
  const all = ["--batch", "9", "--epochs", "1", "--warmup", "0", "--val-pictures", "0", "--weight-decay", "0", ...args];
  const command = searchCommand().action(() => {});
  command.parse([at("dense"), "-o", at(name), "--data", at("pictures"), ...all], { from: "user" });
  return command.opts<SearchOptions>();
}

const stored = (name: string, file: string) =>
  new Map(
    [...readSafetensors(readFileSync(at(name, file)), file)].map(([key, { data }]) => [key, data as Float32Array]),
  );

const FAMILIES = { attn: "attn.zeta", mlp: "mlp.zeta", patch: "patch_zeta" };
const START = { attn: 1, mlp: 1, patch: 3 };
type Family = keyof typeof FAMILIES;
/** Of three blocks: 16 channels, 24 units and 17 tokens. */
const COUNTS = { attn: 3 * 16, mlp: 3 * 24, patch: 3 * 17 };
function of(masks: Map<string, Float32Array>, family: Family): number[] {
  const values = [...masks].filter(([name]) => name.endsWith(FAMILIES[family])).flatMap(([, values]) => [...values]);
  expect(values).toHaveLength(COUNTS[family]);
  return values;
}

describe.each(["attn", "mlp", "patch"] as const)("the penalty on %s masks", (family) => {
  test("lowers every one of them, and leaves the others to the loss", async () => {
    const weights = (["attn", "mlp", "patch"] as const).flatMap((one) => [
      `--w-${one}`,
      one === family ? "1000" : "1e-9",
    ]);
    await search(at("dense"), optionsOf(family, ...weights, "--lr-mask", "0.01", "--lr-mask-patch", "0.01"));
    const masks = stored(family, ZETA_FILE);
    for (const one of ["attn", "mlp", "patch"] as const) {
      const moved = of(masks, one).map((v) => v - START[one]);
      if (one === family) for (const step of moved) expect(step).toBeCloseTo(-0.01, 5);
      else expect([moved.some((v) => v > 0), moved.some((v) => v < 0)]).toEqual([true, true]);
    }
  });
});

test("the loss is the base loss and each penalty's weight times the sum of its family's |ζ|, of tokens |tanh ζ|", async () => {
  await search(at("dense"), optionsOf("sums", "--w-attn", "0.3", "--w-mlp", "0.05", "--w-patch", "0.7"));
  const [first] = JSON.parse(readFileSync(at("sums", "history.json"), "utf8")) as Record<string, number>[];
  expect(first.attn).toBeCloseTo(0.3 * 3 * 16, 4);
  expect(first.mlp).toBeCloseTo(0.05 * 3 * 24, 4);
  expect(first.patch).toBeCloseTo(0.7 * 3 * 17 * Math.tanh(3), 4);
  expect(first.loss).toBeCloseTo(first.ce + first.attn + first.mlp + first.patch, 4);
});

describe("importance", () => {
  const arch: Architecture = tinyArchitecture();
  /** Masks that a search has moved away from where they start, so that z and ∂L/∂z differ. */
  const moved = ["--lr", "1e-12", "--lr-mask", "0.2", "--lr-mask-patch", "1.5", "--epochs", "4", "--min-scale", "0.5"];

  test.each([
    ["the labels' cross-entropy", []],
    ["the divergence from the teacher", ["--teacher", "dense", "--tau", "2"]],
  ])("is |z · ∂L/∂z| of %s, over the training pictures", async (_, more) => {
    const name = more.length ? "taught" : "labelled";
    const teaching = more.map((arg) => (arg === "dense" ? at("dense") : arg));
    const options = optionsOf(name, ...moved, ...teaching);
    await search(at("dense"), options);
    const { manifest, tensors } = readModelFolder(at(name)) as {
      manifest: Architecture & { labels: unknown[] };
      tensors: Tensors;
    };
    const zetas = stored(name, ZETA_FILE);
    const importance = stored(name, IMPORTANCE_FILE);
    const { data } = await openTrainData(options, readModelFolder(at("dense")).manifest);
    const batches: Batch[] = [];
    for await (const batch of trainBatches(data, { batch: 8, seed: options.seed, from: 0, to: 2 })) batches.push(batch);
    const dense = readModelFolder(at("dense"));
    const whole = manifest.blocks.map((block) => ({
      attn: Array(innerDim(block)).fill(1),
      mlp: Array(block.mlpHidden).fill(1),
    }));

    /** Of one batch, with mask `changed` of `zetaName` multiplied by `factor`. */
    const lossOf = (batch: Batch, zetaName: string, changed: number, factor: number): number => {
      const z = (key: string) =>
        [...zetas.get(key)!].map(
          (v, k) => (key.endsWith("patch_zeta") ? Math.tanh(v) : v) * (key === zetaName && k === changed ? factor : 1),
        );
      const gates: Gates[] = arch.blocks.map((_, i) => ({
        ...{
          attn: z(`blocks.${i}.attn.zeta`),
          mlp: z(`blocks.${i}.mlp.zeta`),
          norms: z(`blocks.${i}.attn.patch_zeta`),
        },
      }));
      let loss = 0;
      for (let k = 0; k < batch.size; k++) {
        const pixels = batch.pixels.subarray(k * 3 * 32 * 32, (k + 1) * 3 * 32 * 32);
        const logits = maskedLogits(arch, tensors, gates, pixels);
        if (!more.length) loss -= logSoftmax(logits)[batch.labels[k]];
        else {
          const [p, q] = [logits, maskedLogits(arch, dense.tensors, whole, pixels)].map((row) =>
            logSoftmax(row.map((v) => v / 2)),
          );
          q.forEach((v, c) => void (loss += 4 * Math.exp(v) * (v - p[c])));
        }
      }
      return loss / batch.size;
    };

    const units: [name: string, unit: number][] = [
      ...[0, 5, 13].map((unit) => ["blocks.0.attn.zeta", unit] as [string, number]),
      ...[2, 11, 20].map((unit) => ["blocks.1.mlp.zeta", unit] as [string, number]),
      ...[0, 4, 9, 16].map((unit) => ["blocks.1.attn.patch_zeta", unit] as [string, number]),
    ];
    const h = 0.02;
    const wanted = units.map(([zetaName, unit]) => {
      const slopes = batches.map(
        (batch) => (lossOf(batch, zetaName, unit, 1 + h) - lossOf(batch, zetaName, unit, 1 - h)) / (2 * h),
      );
      return slopes.reduce((sum, slope) => sum + Math.abs(slope), 0) / batches.length;
    });
    const found = units.map(([zetaName, unit]) => importance.get(zetaName)![unit]);
    const largest = Math.max(...wanted);
    expect(largest).toBeGreaterThan(1e-3);
    expectClose(found, wanted, 0.01 * largest);
    const gate = (zetaName: string, unit: number) => {
      const v = zetas.get(zetaName)![unit];
      return zetaName.endsWith("patch_zeta") ? Math.tanh(v) : v;
    };
    expect(
      units.filter(([zetaName, unit]) => Math.abs(Math.abs(gate(zetaName, unit)) - 1) > 0.1).length,
    ).toBeGreaterThan(4);
  });
});

function logSoftmax(row: ArrayLike<number>): number[] {
  const values = Array.from(row);
  const max = Math.max(...values);
  const total = Math.log(values.reduce((sum, v) => sum + Math.exp(v - max), 0)) + max;
  return values.map((v) => v - total);
}
