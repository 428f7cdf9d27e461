/**
 * tsx tools/research/sensitivity.ts MODEL --data D: measures how much the outputs change when the weights of one kind of
 * linear alone are rounded to a grid of `--weight-step`, the same for all. Mean KL(exact ‖ rounded) in nats, added up
 * over the linears of a kind. The divergence per weight gives the step of each kind (`stepOf` in
 * src/format/quantise.ts): errors grow as the step squared and bits fall as its logarithm, so the step is the inverse
 * root.
 */
import type * as tfjs from "@tensorflow/tfjs-core";
import { Command } from "commander";
import { messageOf } from "../../src/errors.ts";
import type { Tensors } from "../../src/format/model.ts";
import { isQuantised, quantiseRows } from "../../src/format/quantise.ts";
import { float32 } from "../../src/format/read.ts";
import { encodeTensors } from "../../src/format/write.ts";
import { forward } from "../../src/tfjs/forward.ts";
import type { Tensor } from "../../src/tfjs/ops.ts";
import { evalPixels, openDataset, SPLITS, type Split, spread } from "../data/data.ts";
import { architectureOf, readModelFolder } from "../models/folders.ts";
import { variablesFrom } from "../models/variables.ts";
import { count, positive } from "../options/values.ts";
import { startProgress } from "../shared/progress.ts";
import { openBackend } from "../training/backend.ts";

const BATCH = 32;

interface Options {
  data: string[];
  split: Split;
  pictures: number;
  weightStep: number;
}

async function main(source: string, { data, split, pictures: most, weightStep }: Options): Promise<void> {
  const model = readModelFolder(source);
  const arch = architectureOf(model.manifest);
  const { pictures } = await openDataset(data, split);
  const { tf } = await openBackend();
  const exact = [...encodeTensors(model.tensors, "f32")];
  const variables = variablesFrom(
    tf,
    exact.map(([key, { shape, data }]) => [key, { shape, data: data as Float32Array }]),
  );
  const [height, width] = arch.imageSize;
  const pixels = await Promise.all(spread(pictures, most).map((p) => evalPixels(p, model.manifest.preprocess)));
  const batches = Array.from({ length: Math.ceil(pixels.length / BATCH) }, (_, b) =>
    tf.stack(pixels.slice(b * BATCH, (b + 1) * BATCH).map((values) => tf.tensor(values, [3, height, width]))),
  );
  const answers = (): Tensor =>
    tf.tidy(() =>
      tf.concat(batches.map((x) => tf.logSoftmax(forward(tf, arch, variables, x).logits)) as tfjs.Tensor2D[]),
    );
  const before = answers();

  const kinds = new Map<string, { divergence: number; weights: number }>();
  const rounded = exact.filter(([key]) => isQuantised(key) || key === "patch_embed.proj.weight");
  const progress = startProgress("sensitivity", rounded.length);
  for (const [i, [key, { shape, data }]] of rounded.entries()) {
    const { weight, scale } = quantiseRows(data as Float32Array, shape, { step: weightStep });
    const grid: Tensors = new Map([[key, weight]]);
    const values = float32(grid.set(key.replace(/weight$/, "scale"), scale), key);
    tf.tidy(() => variables.get(key)!.assign(tf.tensor(values, shape)));
    const divergence = tf.tidy(() => {
      const off = tf.mul(tf.exp(before), tf.sub(before, answers()));
      return tf.mean(tf.sum(off, 1)).dataSync()[0];
    });
    tf.tidy(() => variables.get(key)!.assign(tf.tensor(data as Float32Array, shape)));
    const kind = key.replace(/^blocks\.\d+\.|\.weight$/g, "");
    const sum = kinds.get(kind) ?? { divergence: 0, weights: 0 };
    kinds.set(kind, { divergence: sum.divergence + divergence, weights: sum.weights + data.length });
    progress.update(i + 1, "");
  }
  progress.stop();
  const whole = [...kinds.values()];
  const total = (of: "divergence" | "weights") => whole.reduce((sum, kind) => sum + kind[of], 0);
  const usual = total("divergence") / total("weights");
  console.log(
    "| linear | weights | divergence | a million weights | step, of the mean's |\n| --- | --- | --- | --- | --- |",
  );
  for (const [kind, { divergence, weights }] of kinds) {
    const each = divergence / weights;
    const cells = [kind, weights, divergence.toFixed(4), (1e6 * each).toFixed(4), Math.sqrt(usual / each).toFixed(2)];
    console.log(`| ${cells.join(" | ")} |`);
  }
}

new Command("sensitivity")
  .argument("<model>", "model folder")
  .requiredOption("--data <source...>", "folder or zip with one subfolder a class; labels are not read")
  .option("--split <split>", `${SPLITS.join(", ")}`, "train")
  .option("--pictures <n>", "how many pictures to use, spread over the data", count, 192)
  .option("--weight-step <s>", "of every linear, in root mean squares of a row", positive, 0.7)
  .action(main)
  .parseAsync()
  .catch((error) => {
    console.error(`sensitivity: ${messageOf(error)}`);
    process.exitCode = 1;
  });
