/** What each option of a search does to masks and weights, and what compress makes of it. */
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { beforeAll, describe, expect, test } from "vitest";
import { SlimViTError } from "../../src/errors.ts";
import type { Model } from "../../src/format/model.ts";
import { float32 } from "../../src/format/read.ts";
import { readSafetensors, writeSafetensors } from "../../src/format/safetensors.ts";
import { forward } from "../../src/reference/forward.ts";
import { softmax } from "../../src/reference/scores.ts";
import { compressCommand } from "../../tools/commands/compress.ts";
import { searchCommand } from "../../tools/commands/search.ts";
import { evalPixels, openDataset } from "../../tools/data/data.ts";
import { type CompressOptions, type CompressReport, compress } from "../../tools/masks/compress.ts";
import { isZeta } from "../../tools/masks/masks.ts";
import { cutWithMerges } from "../../tools/masks/mergeChoice.ts";
import { type SearchOptions, search } from "../../tools/masks/search.ts";
import { ZETA_FILE } from "../../tools/masks/searched.ts";
import { readModelFolder } from "../../tools/models/folders.ts";
import { klDivergence } from "../../tools/shared/divergence.ts";
import { makeDense, workplace } from "./fixtures.ts";

const at = workplace("search");
beforeAll(() => makeDense(at, 5)); // 9 training pictures

/** Of one step, unless there are `--epochs`. @returns zetas and weights by name */
async function searched(name: string, ...args: string[]): Promise<Map<string, Float32Array>> {
  const all = ["--batch", "9", "--epochs", "1", "--warmup", "0", "--val-pictures", "0", ...args];
  const command = searchCommand().action(() => {});
  command.parse([at("dense"), "-o", at(name), "--data", at("pictures"), ...all], { from: "user" });
  await search(at("dense"), command.opts<SearchOptions>());
  return stored(name);
}

function stored(name: string): Map<string, Float32Array> {
  const { tensors } = readModelFolder(at(name));
  const masks = name === "dense" ? [] : readSafetensors(readFileSync(at(name, ZETA_FILE)), name);
  return new Map([
    ...[...masks].map(([key, { data }]) => [key, data as Float32Array] as const),
    ...[...tensors.keys()].map((key) => [key, float32(tensors, key)] as const),
  ]);
}

async function slim(name: string, out: string, ...args: string[]) {
  const command = compressCommand().action(() => {});
  command.parse([at(name), "-o", at(out), ...args], { from: "user" });
  const report = (await compress(at(name), command.opts<CompressOptions>())) as CompressReport;
  return { report, model: readModelFolder(at(out)) };
}

const FAMILIES = ["attn.zeta", "mlp.zeta", "patch_zeta"] as const;
const INIT = { "attn.zeta": 1, "mlp.zeta": 1, patch_zeta: 3 };
const familyOf = (name: string) => FAMILIES.find((family) => name.endsWith(family))!;
function zetasOf(all: Map<string, Float32Array>, family: string): number[] {
  const zetas = [...all].filter(([name]) => name.endsWith(family)).flatMap(([, values]) => [...values]);
  expect(zetas).not.toEqual([]);
  return zetas;
}
const largest = (values: number[]) => Math.max(...values.map(Math.abs));

describe("uniform masks", () => {
  test("cover a channel of all heads: cut together, by budget and by MACs", async () => {
    const masks = await searched("uniform", "--masks", "uniform", "--w-mlp", "0", "--w-patch", "0", "--epochs", "6");
    const shapes = readSafetensors(readFileSync(at("uniform", ZETA_FILE)), "zetas");
    expect(shapes.get("blocks.0.attn.zeta")!.shape).toEqual([1, 1, 1, 1, 8]);
    const ranked = zetasOf(masks, "attn.zeta").sort((a, b) => a - b);
    const limit = ranked[ranked.length / 2];
    const wanted = [0, 1, 2].map((i) => masks.get(`blocks.${i}.attn.zeta`)!.filter((v) => v >= limit).length);
    const { report, model } = await slim("uniform", "half", "--attn", "0.5", "--mlp", "1", "--patch", "1");
    expect(report.maxAbsDiff).toBeLessThan(1e-4);
    expect(wanted.reduce((a, b) => a + b)).toBe(12);
    expect(model.manifest.blocks.map(({ headDims }) => headDims)).toEqual(wanted.map((n) => (n ? [n, n] : [])));

    const byMacs = await slim("uniform", "by-macs", "--macs", "0.8");
    expect(byMacs.report.macsShare).toBeLessThanOrEqual(0.8);
    const widths = byMacs.model.manifest.blocks.map(({ headDims }) => headDims);
    expect(widths.flat().length).toBeGreaterThan(0);
    for (const headDims of widths) expect(new Set(headDims).size).toBeLessThanOrEqual(1);
    expect(widths).not.toEqual([0, 1, 2].map(() => [8, 8]));
  });
});

test("--masks-only moves masks and norms, and no other weight", async () => {
  const [before, after] = [stored("dense"), await searched("masks-only", "--masks-only", "--weight-decay", "0.5")];
  for (const [name, values] of after) {
    const start = before.get(name) ?? values.map(() => INIT[familyOf(name)]);
    if (isZeta(name) || /norm/.test(name)) expect([name, values]).not.toEqual([name, start]);
    else expect([name, values]).toEqual([name, start]);
  }
});

test("masks learn at --lr-mask and --lr-mask-patch, weights at --lr: Adam's first step is as long as its rate", async () => {
  const rates = ["--lr", "1e-4", "--lr-mask", "0.02", "--lr-mask-patch", "0.05", "--weight-decay", "0"];
  const [before, after] = [stored("dense"), await searched("rates", ...rates)];
  const moved = (family: (typeof FAMILIES)[number]) => largest(zetasOf(after, family).map((v) => v - INIT[family]));
  expect(moved("attn.zeta")).toBeCloseTo(0.02, 5);
  expect(moved("mlp.zeta")).toBeCloseTo(0.02, 5);
  expect(moved("patch_zeta")).toBeCloseTo(0.05, 5);
  const [a, b] = [before, after].map((all) => all.get("blocks.1.mlp.fc1.weight")!);
  expect(largest([...b].map((v, k) => v - a[k]))).toBeCloseTo(1e-4, 6);
});

test("--zeta-decay shrinks masks by rate × --weight-decay a step; without it weight decay leaves them alone", async () => {
  const rates = ["--masks-only", "--lr-mask", "0.02", "--lr-mask-patch", "0.05"];
  const none = await searched("no-decay", ...rates, "--weight-decay", "0");
  const spared = await searched("spared", ...rates, "--weight-decay", "0.5");
  const decayed = await searched("decayed", ...rates, "--weight-decay", "0.5", "--zeta-decay");
  for (const family of FAMILIES) {
    const start = INIT[family];
    const lost = start * 0.5 * (family === "patch_zeta" ? 0.05 : 0.02);
    expect(zetasOf(spared, family)).toEqual(zetasOf(none, family));
    const differences = zetasOf(none, family).map((v, k) => v - zetasOf(decayed, family)[k] - lost);
    expect(largest(differences)).toBeLessThan(1e-6);
  }
});

describe.each([
  ["--w-attn", "attn.zeta"],
  ["--w-mlp", "mlp.zeta"],
  ["--w-patch", "patch_zeta"],
] as const)("%s 0", (flag, frozen) => {
  test("freezes its masks where they start, and compress keeps the family whole", async () => {
    const after = await searched(`frozen${flag}`, flag, "0", "--epochs", "3", "--zeta-decay", "--weight-decay", "0.5");
    for (const family of FAMILIES) {
      const zetas = zetasOf(after, family);
      const start = zetas.map(() => INIT[family]);
      if (family === frozen) expect(zetas).toEqual(start);
      else expect(zetas.every((v) => v !== INIT[family])).toBe(true);
    }
    const budgets = ["--attn", "0.6", "--mlp", "0.6", "--patch", "0.6"];
    for (const [k, target] of [["--macs", "0.7"], budgets].entries()) {
      const { blocks } = (await slim(`frozen${flag}`, `frozen${flag}-${k}`, ...target)).model.manifest;
      const whole = {
        "attn.zeta": blocks.every(({ headDims }) => headDims.join() === "8,8"),
        "mlp.zeta": blocks.every(({ mlpHidden }) => mlpHidden === 24),
        patch_zeta: blocks.every(({ keepIdx }) => keepIdx.length === 17),
      };
      expect(whole[frozen]).toBe(true);
      expect(Object.values(whole)).toContain(false); // something was cut
    }
  });
});

test("compress ranks by signed ζ, with --absolute by |ζ|: a strongly negative unit goes first, or stays", async () => {
  await searched("signed", "--lr-mask", "0.05", "--epochs", "2");
  cpSync(at("signed"), at("negative"), { recursive: true });
  const masks = readSafetensors(readFileSync(at("negative", ZETA_FILE)), "zetas");
  (masks.get("blocks.1.mlp.zeta")!.data as Float32Array)[5] = -9;
  writeFileSync(at("negative", ZETA_FILE), writeSafetensors(masks));
  const { tensors } = readModelFolder(at("negative"));
  const row = float32(tensors, "blocks.1.mlp.fc1.weight").slice(5 * 16, 6 * 16);
  const keeps = async (out: string, ...args: string[]) => {
    const { report, model } = await slim("negative", out, "--attn", "1", "--mlp", "0.5", "--patch", "1", ...args);
    expect(report.maxAbsDiff).toBeLessThan(1e-3); // ζ is folded with its sign
    const kept = float32(model.tensors, "blocks.1.mlp.fc1.weight");
    return Array.from({ length: kept.length / 16 }, (_, r) => kept.slice(16 * r, 16 * r + 16).join()).includes(
      row.join(),
    );
  };
  expect(await keeps("by-sign")).toBe(false);
  expect(await keeps("by-size", "--absolute")).toBe(true);
});

describe("compress --merge", () => {
  const pictures = ["--data", at("pictures")];

  test("lets tokens merge where that diverges less than the masks alone, and keeps the target", async () => {
    await searched("to-merge", "--epochs", "2");
    const { model: whole } = await slim("to-merge", "nothing-cut", "--macs", "1");
    const alone = await slim("to-merge", "masks-alone", "--macs", "0.55");
    const merged = await slim("to-merge", "with-merges", "--macs", "0.55", "--merge", ...pictures);
    expect(merged.report.macsShare).toBeLessThanOrEqual(0.55);
    const { blocks } = merged.model.manifest;
    expect(blocks.some(({ merge }) => merge > 0)).toBe(true);
    for (const { keepIdx } of blocks) expect(keepIdx).toHaveLength(17); // tokens go by merging, not by lists
    const { pictures: train } = await openDataset([at("pictures")], "train");
    const divergence = async (model: Model) => {
      let sum = 0;
      for (const picture of train) {
        const pixels = await evalPixels(picture, whole.manifest.preprocess);
        const [q, p] = [whole, model].map((one) => softmax(forward(one, pixels).logits));
        sum += klDivergence(q, p);
      }
      return sum / train.length;
    };
    const [ofMerged, ofAlone] = [await divergence(merged.model), await divergence(alone.model)];
    expect(ofAlone).toBeGreaterThan(0);
    expect(ofMerged).toBeLessThan(ofAlone);
    const steps = merged.model.manifest.provenance.steps as Record<string, unknown>[];
    expect(steps.at(-1)).toMatchObject({ command: "compress", macs: 0.55, merge: blocks.map(({ merge }) => merge) });
  });

  test("takes the masks alone where they diverge less", async () => {
    const whole: Model = { ...readModelFolder(at("dense")), dtype: "f32" };
    const masks = whole.manifest.blocks.map(({ headDims, mlpHidden, keepIdx }) => ({
      attn: Array(headDims[0] * headDims.length).fill(true),
      mlp: Array(mlpHidden).fill(true),
      tokens: Array(keepIdx.length).fill(true),
    }));
    const choice = { whole, costOf: () => 1, goal: 1, masksFor: () => masks }; // whatever merges, merges for nothing
    const { pictures: train } = await openDataset([at("pictures")], "train");
    expect(await cutWithMerges(choice, train)).toEqual({ masks, merges: [0, 0, 0] });
  });

  test.each([
    ["a target that no masks reach", new SlimViTError("bad-option", "nothing leaves so little")],
    ["a mistake of ours", new TypeError("no such mask")],
    ["a fault of another kind", new SlimViTError("bad-model", "no such block")],
  ])("says what the masks alone say: %s", async (_, fault) => {
    const whole: Model = { ...readModelFolder(at("dense")), dtype: "f32" };
    let asked = 0;
    const masksFor = () => {
      asked++;
      throw fault;
    };
    await expect(cutWithMerges({ whole, costOf: () => 1, goal: 1, masksFor }, [])).rejects.toBe(fault);
    // Other ways to the target are tried where it is the target that fails, and only there.
    expect(asked > 1).toBe(fault instanceof SlimViTError && fault.code === "bad-option");
  });

  test.each([
    ["a target of parameters", ["--params", "0.9", ...["--data", "pictures"]], /--merge needs --macs or --latency-ms/],
    ["no target", ["--attn", "1", "--mlp", "1", "--patch", "1"], /--merge needs --macs or --latency-ms/],
    ["no pictures", ["--macs", "0.9"], /--merge needs pictures; give --data/],
  ])("is refused with %s", async (_, args, words) => {
    await expect(slim("to-merge", "refused", "--merge", ...args)).rejects.toThrow(words);
  });
});
