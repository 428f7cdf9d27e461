import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { beforeAll, describe, expect, test } from "vitest";
import { countMacs } from "../../src/format/model.ts";
import { float32 } from "../../src/format/read.ts";
import { resampleKeepIdx } from "../../tools/checkpoints/resize.ts";
import { cardText } from "../../tools/models/card.ts";
import { readModelFolder } from "../../tools/models/folders.ts";
import {
  BIN,
  CLASSES,
  expectFailure,
  makeDense,
  slimvit,
  slimvitJson,
  tinyArchitecture,
  workplace,
  writePictures,
} from "./fixtures.ts";

const at = workplace("cli");
beforeAll(() => makeDense(at, 10));

describe("the whole chain on a tiny ViT", () => {
  test("import → search → compress → retrain → export → inspect, eval, run", async () => {
    const train = [
      "--data",
      at("pictures"),
      "--teacher",
      at("dense"),
      "--batch",
      "6",
      "--epochs",
      "4",
      "--warmup",
      "0",
      "--seed",
      "3",
    ];
    const searched = await slimvitJson<{ steps: number; imagesPerSecond: number }>(
      "search",
      at("dense"),
      "-o",
      at("search"),
      "--w-attn",
      "1e-2",
      ...train,
    );
    expect(searched.steps).toBe(12); // 18 training pictures in batches of 6, four times
    expect(searched.imagesPerSecond).toBeGreaterThan(0);

    const cut = await slimvitJson<{ macsShare: number; maxAbsDiff: number }>(
      "compress",
      at("search"),
      "-o",
      at("slim"),
      "--attn",
      "0.6",
      "--mlp",
      "0.5",
      "--patch",
      "0.7",
    );
    expect(cut.macsShare).toBeLessThan(0.8);
    expect(cut.maxAbsDiff).toBeLessThan(1e-4);

    await slimvitJson("retrain", at("slim"), "-o", at("retrained"), ...train);
    await slimvitJson("export", at("retrained"), "-o", at("shipped"), "--dtype", "f32,f16,int8", "--onnx");
    expect(readdirSync(at("shipped")).sort()).toEqual([
      "card.md",
      "config.json",
      "model.f16.safetensors",
      "model.f32.safetensors",
      "model.int8.safetensors.zz",
      "model.onnx",
      "model_quantized.onnx",
      "preprocessor_config.json",
      "slimvit.json",
    ]);

    const inspected = await slimvitJson<{
      macs: number;
      blocks: { headDims: number[]; mlpHidden: number; keepIdx: number[] }[];
    }>("inspect", at("shipped"));
    expect(inspected.blocks.reduce((sum, b) => sum + b.mlpHidden, 0)).toBe(36);
    const evaluated = await slimvitJson<{ n: number; top1: number; engine: string }>(
      "eval",
      at("shipped"),
      "--data",
      at("pictures"),
      "--split",
      "test",
      "--engine",
      "reference",
    );
    expect(evaluated).toMatchObject({ n: 6, engine: "reference" });

    const [file] = readdirSync(at("pictures", CLASSES[0]));
    const picture = at("pictures", CLASSES[0], file);
    const byEngine = async (engine: string, dtype: string) =>
      (
        await slimvitJson<{ logits: number[]; classes: unknown[] }[]>(
          "run",
          at("shipped"),
          picture,
          "--engine",
          engine,
          "--dtype",
          dtype,
        )
      )[0];
    const reference = await byEngine("reference", "f32");
    expect(reference.classes).toHaveLength(3);
    (await byEngine("onnx-wasm", "f32")).logits.forEach((v, k) => void expect(v).toBeCloseTo(reference.logits[k], 4));
    (await byEngine("onnx-wasm", "f16")).logits.forEach(
      (v, k) => void expect(Math.abs(v - reference.logits[k])).toBeLessThan(0.02),
    );
    expect(readdirSync(at()).filter((name) => name.startsWith("."))).toEqual([]); // no checkpoint, no half folder left
  });

  test("the score form searches with head masks and compresses to one MACs target", async () => {
    const train = ["--data", at("pictures"), "--batch", "6", "--epochs", "6", "--warmup", "0"];
    await slimvitJson(
      "search",
      at("dense"),
      "-o",
      at("scored"),
      "--masks",
      "head",
      "--patch-form",
      "score",
      "--tokens",
      "intersect",
      ...train,
    );
    const { macsShare } = await slimvitJson<{ macsShare: number }>(
      "compress",
      at("scored"),
      "-o",
      at("scored-slim"),
      "--macs",
      "0.6",
    );
    expect(macsShare).toBeLessThanOrEqual(0.6);
    const { blocks } = await slimvitJson<{ blocks: { headDims: number[] }[] }>("inspect", at("scored-slim"));
    expect(new Set(blocks.flatMap(({ headDims }) => headDims))).toEqual(new Set([8]));
  });

  test("finetune makes a new head for the data's classes, at another image size, also of a slim model", async () => {
    await writePictures(at("renamed"), 5, ["apples", "figs", "limes"]);
    await slimvitJson(
      "finetune",
      at("scored-slim"),
      "--data",
      at("renamed"),
      "-o",
      at("tuned"),
      "--image-size",
      "48x40",
      "--batch",
      "3",
      "--epochs",
      "1",
    );
    const { manifest } = readModelFolder(at("tuned"));
    expect(manifest.labels.map(({ id }) => id)).toEqual(["apples", "figs", "limes"]);
    expect(manifest.imageSize).toEqual([48, 40]);
    expect(
      (
        await slimvitJson<{ n: number }>(
          "eval",
          at("tuned"),
          "--data",
          at("renamed"),
          "--split",
          "all",
          "--engine",
          "reference",
        )
      ).n,
    ).toBe(15);
  });

  test("retrain --image-size keeps a slim model's head and resamples its lists; a teacher sees pictures at its own size", async () => {
    const args = ["--data", at("pictures"), "--image-size", "48x40", "--batch", "5", "--epochs", "1"];
    await slimvitJson("retrain", at("scored-slim"), ...args, "--teacher", at("dense"), "-o", at("moved"));
    const [before, after] = [readModelFolder(at("scored-slim")).manifest, readModelFolder(at("moved")).manifest];
    expect(after.imageSize).toEqual([48, 40]);
    expect(after.preprocess.crop).toEqual([48, 40]);
    expect(after.labels).toEqual(before.labels);
    after.blocks.forEach(({ headDims, mlpHidden, keepIdx }, i) => {
      const block = before.blocks[i];
      expect([headDims, mlpHidden]).toEqual([block.headDims, block.mlpHidden]);
      expect(keepIdx).toEqual(resampleKeepIdx(block.keepIdx, [4, 4], [6, 5], 1));
    });

    const share = countMacs(after, 3) / countMacs(tinyArchitecture(), 3);
    const told = `${(100 * share).toFixed(1)} % of the dense model's at 32×32 px`;
    expect(cardText(after)).toContain(`| before it was moved to this image size | | ${told} |`);
    expect(readFileSync(at("moved", "report.html"), "utf8")).toContain(told);
    expect(cardText(before)).not.toContain("before it was moved");
  });

  test("the new head has a rate of its own", async () => {
    const rates = ["--lr", "1e-9", "--lr-head", "0.1", "--warmup", "0", "--weight-decay", "0", "--epochs", "1"];
    await slimvitJson("finetune", at("dense"), "--data", at("pictures"), "-o", at("headed"), "--batch", "4", ...rates);
    const [before, after] = [readModelFolder(at("dense")), readModelFolder(at("headed"))];
    const largest = (name: string) => {
      const [a, b] = [before, after].map(({ tensors }) => float32(tensors, name));
      return Math.max(...b.map((v, k) => Math.abs(v - (name === "head.bias" ? 0 : a[k]))));
    };
    expect(largest("head.bias")).toBeGreaterThan(1e-3);
    expect(largest("blocks.0.mlp.fc1.weight")).toBeLessThan(1e-6);
  });

  test("compress --weights cuts another model's weights by the searched masks", async () => {
    const budgets = ["--attn", "0.5", "--mlp", "0.5", "--patch", "1"];
    await slimvitJson("compress", at("scored"), "-o", at("own"), "--weights", at("dense"), ...budgets);
    const [dense, cut] = [readModelFolder(at("dense")), readModelFolder(at("own"))];
    const rowsOf = ({ tensors, manifest }: typeof dense) => {
      const values = [...float32(tensors, "blocks.0.mlp.fc1.weight")];
      const { embedDim } = manifest;
      return Array.from({ length: values.length / embedDim }, (_, r) =>
        values.slice(r * embedDim, (r + 1) * embedDim).join(),
      );
    };
    const rows = rowsOf(dense);
    const kept = rowsOf(cut);
    expect(kept.length).toBeGreaterThan(0);
    for (const row of kept) expect(rows).toContain(row);
    expect(
      await slimvit("compress", at("scored"), "-o", at("own2"), "--weights", at("tuned"), ...budgets),
    ).toMatchObject({
      status: 1,
    });
  });

  test("a run killed at five random moments, and resumed, ends with the weights of one never killed", async () => {
    const args = ["--data", at("pictures"), "--teacher", at("dense"), "--batch", "6", "--epochs", "20", "--seed", "3"];
    args.push("--ema", "0.9", "--mixup", "0.5", "--drop-path", "0.1", "--checkpoint-seconds", "0");
    const { steps, imagesPerSecond } = await slimvitJson<{ steps: number; imagesPerSecond: number }>(
      "retrain",
      at("dense"),
      "-o",
      at("whole"),
      ...args,
    );
    // Short enough that five of them leave something to be done, were the machine four times as fast from here on.
    const longest = (1000 * steps * 6) / imagesPerSecond / 10;
    const resumed = ["retrain", at("dense"), "-o", at("killed"), ...args, "--resume"];
    const progress: number[] = [];
    for (let kill = 0; kill < 5; kill++) {
      expect(await killedWhileTraining(resumed, longest * Math.random())).toBe(true);
      expect(existsSync(at("killed"))).toBe(false);
      progress.push(statSync(at(".killed.checkpoint.safetensors")).mtimeMs);
    }
    expect(new Set(progress).size).toBe(5); // each run got further than the one before
    const { steps: left } = await slimvitJson<{ steps: number }>(...resumed);
    expect(left).toBeLessThan(steps);
    const [whole, killed] = [readModelFolder(at("whole")), readModelFolder(at("killed"))];
    for (const name of whole.tensors.keys())
      expect(float32(killed.tensors, name)).toEqual(float32(whole.tensors, name));
  });
});

describe("bad input is one clear sentence", () => {
  const retrain = () => ["retrain", at("dense"), "--data", at("pictures"), "-o", at("never")];
  test.each<[string, () => string[], number, RegExp]>([
    ["an unknown option", () => [...retrain(), "--bogus"], 2, /unknown option '--bogus'/],
    ["an unknown command", () => ["frobnicate"], 2, /unknown command 'frobnicate'/],
    [
      "a budget over 1",
      () => ["compress", at("dense"), "-o", at("never"), "--attn", "1.5", "--mlp", "1", "--patch", "1"],
      2,
      /from 0 to 1/,
    ],
    ["no slimvit.json", () => ["inspect", at("pictures")], 1, /pictures: has no slimvit\.json/],
    ["no such folder", () => ["inspect", at("nowhere")], 1, /nowhere: no such folder/],
    [
      "a picture that is none",
      () => ["run", at("dense"), at("labels.tsv"), "--engine", "reference"],
      1,
      /labels\.tsv: is no picture/,
    ],
    [
      "masks that were never searched",
      () => ["compress", at("dense"), "-o", at("never"), "--attn", "1", "--mlp", "1", "--patch", "1"],
      1,
      /has no zetas\.safetensors/,
    ],
    ["an output that exists", () => ["import", at("tiny.safetensors"), "-o", at("dense")], 2, /dense: exists already/],
    [
      "data that is neither folder nor zip",
      () => [...retrain(), "--data", at("tiny.safetensors")],
      1,
      /tiny\.safetensors: is neither a folder, .* and no readable zip/,
    ],
    ["no labels and no teacher", () => [...retrain(), "--unlabelled"], 2, /--unlabelled data needs a --teacher/],
  ])("%s", async (_, args, status, message) => {
    await expectFailure(args(), status, message);
    expect(existsSync(at("never"))).toBe(false);
  });

  test("a class folder that the model does not know", async () => {
    mkdirSync(at("other", "kiwis"), { recursive: true });
    writeFileSync(at("other", "kiwis", "1.png"), readFileSync(at("pictures", CLASSES[0], "00.png")));
    await expectFailure(
      ["eval", at("dense"), "--data", at("other"), "--split", "all", "--engine", "reference"],
      1,
      /Class folder "kiwis" is none of the model's 3 labels/,
    );
  });

  test("a broken picture among good ones is named, skipped and counted", async () => {
    await writePictures(at("mixed"), 5);
    writeFileSync(at("mixed", CLASSES[1], "00.png"), "no picture");
    const { status, stderr } = await slimvit(
      "retrain",
      at("dense"),
      "--data",
      at("mixed"),
      "-o",
      at("mixed-out"),
      "--batch",
      "3",
      "--epochs",
      "2",
    );
    expect(stderr).toMatch(/skipped \(1 so far\): .*cherries\/00\.png: is no picture/);
    expect(status).toBe(0);
  });
});

/** Starts a run, kills it with SIGKILL `ms` after its next checkpoint; false if it ended before. */
function killedWhileTraining(args: string[], ms: number): Promise<boolean> {
  const child = spawn(process.execPath, [BIN, ...args], { stdio: "ignore" });
  const checkpoint = at(".killed.checkpoint.safetensors");
  const before = existsSync(checkpoint) ? statSync(checkpoint).mtimeMs : 0;
  const poll = setInterval(() => {
    if (!existsSync(checkpoint) || statSync(checkpoint).mtimeMs === before) return;
    clearInterval(poll);
    setTimeout(() => child.kill("SIGKILL"), ms);
  }, 5);
  return new Promise((resolve) => {
    child.on("exit", (_, signal) => {
      clearInterval(poll);
      resolve(signal === "SIGKILL");
    });
  });
}
