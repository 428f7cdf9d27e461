/**
 * Compares the browser's preprocessing with the offline one, on the same files and weights.
 *   npm run agreement -- MODEL --data D [--limit 200] [--enlarge 4000] [--odd] [--json]
 * Prints on how many pictures a real browser (decode, resize, classify through the package) chooses the same class as
 * the tools (sharp, the same resize, the same engine in Node). With --odd each picture comes in one of the forms that
 * decoders treat differently, in turn: with alpha, with a gamma of its own, turned, and so on (oddPictures.ts).
 */

import { createRequire } from "node:module";
import { dirname, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { Command } from "commander";
import sharp from "sharp";
import { openEngine } from "../../src/engines/auto.ts";
import { messageOf } from "../../src/errors.ts";
import { preprocess } from "../../src/image/resample.ts";
import { decode, openDataset, type Split } from "../data/data.ts";
import { readModelFolder } from "../models/folders.ts";
import { data } from "../options/shared.ts";
import { addOptions } from "../options/spec.ts";
import { count } from "../options/values.ts";
import { openPage } from "../shared/browser.ts";
import { startProgress } from "../shared/progress.ts";
import { percent, printJson, say } from "../shared/terminal.ts";
import { ODD_KINDS, oddPicture } from "./oddPictures.ts";

export interface AgreementReport {
  n: number;
  agreement: number;
  /** largest difference of the best class's score */
  maxScoreDiff: number;
}

export async function agreement(
  source: string,
  options: { data: string[]; split: Split; limit: number; enlarge?: number; odd?: boolean },
): Promise<AgreementReport> {
  const model = readModelFolder(source);
  const { pictures } = await openDataset(options.data, options.split);
  const step = Math.max(1, Math.floor(pictures.length / options.limit));
  const chosen = pictures.filter((_, k) => k % step === 0).slice(0, options.limit);
  const { engine } = await openEngine("onnx-wasm", model, {});
  const ort = dirname(createRequire(import.meta.url).resolve("onnxruntime-web"));
  const dist = fileURLToPath(new URL("../../dist", import.meta.url));
  const { page, close } = await openPage({ "/dist": dist, "/ort": ort, "/model": resolve(source) });
  const progress = startProgress("agreement", chosen.length);
  let [n, same, maxScoreDiff] = [0, 0, 0];
  try {
    await page.evaluate(loadInPage, model.dtype);
    for (const picture of chosen) {
      const plain = await enlarged(await picture.read(), options.enlarge);
      const file = options.odd ? await oddPicture(plain, ODD_KINDS[n % ODD_KINDS.length]) : plain;
      const { logits } = await engine.run(preprocess(await decode(file, picture.name), model.manifest.preprocess));
      const here = best(logits);
      const there = await page.evaluate(classifyInPage, file.toString("base64"));
      n++;
      if (there.index === here.index) same++;
      maxScoreDiff = Math.max(maxScoreDiff, Math.abs(there.score - here.score));
      progress.update(n, percent(same / n));
    }
  } finally {
    progress.stop();
    await close();
    engine.dispose();
  }
  return { n, agreement: same / n, maxScoreDiff };
}

/** The longer side to `pixels`, as a JPEG of high quality: what a camera would hand over. */
async function enlarged(file: Buffer, pixels?: number): Promise<Buffer> {
  if (!pixels) return file;
  return sharp(file)
    .rotate()
    .resize(pixels, pixels, { fit: "inside", kernel: "cubic" })
    .jpeg({ quality: 95 })
    .toBuffer();
}

function best(logits: Float32Array): { index: number; score: number } {
  const index = logits.reduce((top, v, k) => (v > logits[top] ? k : top), 0);
  const total = logits.reduce((sum, v) => sum + Math.exp(v - logits[index]), 0);
  return { index, score: 1 / total };
}

/** Runs in the page. */
async function loadInPage(dtype: string): Promise<void> {
  const url = "/dist/index.js";
  const { SlimViT } = await import(/* @vite-ignore */ url);
  const engineUrls = { "onnxruntime-web": new URL("/ort/ort.wasm.bundle.min.mjs", location.href).href };
  Object.assign(globalThis, {
    vit: await SlimViT.load("/model/", { engine: "onnx-wasm", dtype, threads: 1, cache: false, engineUrls }),
  });
}

/** Runs in the page. */
async function classifyInPage(base64: string): Promise<{ index: number; score: number }> {
  const { vit } = globalThis as unknown as {
    vit: { classify(image: Blob): Promise<{ classes: { index: number; score: number }[] }> };
  };
  const blob = await (await fetch(`data:image/jpeg;base64,${base64}`)).blob();
  const [{ index, score }] = (await vit.classify(blob)).classes;
  return { index, score };
}

async function main(): Promise<void> {
  const program = addOptions(new Command("agreement").argument("<model>", "model folder"), data("all"))
    .option("--limit <n>", "pictures, spread over the data", count, 200)
    .option("--odd", "each picture in a form that decoders disagree about")
    .option("--enlarge <pixels>", "enlarge each picture's longer side first", count)
    .option("--json", "one JSON value on stdout");
  program.parse();
  const options = program.opts();
  const report = await agreement(program.args[0], options as Parameters<typeof agreement>[1]);
  if (options.json) printJson(report);
  else
    process.stdout.write(
      `same top-1 on ${percent(report.agreement)} of ${report.n} pictures; best score differs by at most ${report.maxScoreDiff.toFixed(4)}\n`,
    );
}

if (import.meta.url.endsWith("/agreement.ts") && process.argv[1]?.endsWith("agreement.ts")) {
  main().then(
    () => process.exit(),
    (error) => {
      say(`agreement: ${messageOf(error)}`);
      process.exit(1);
    },
  );
}
