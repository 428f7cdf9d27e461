/**
 * tsx tools/research/onnxInt8.ts OUT --data D --split S: the loss of the int8 form of `export -o OUT --onnx --dtype
 * f32,int8`, beside the loss of `simd` with the same int8 weights: mean KL(f32 ‖ int8) in nats, the numbers of pictures
 * with the same best class as in f32 and of correctly classified ones, and the processor's milliseconds a picture on
 * onnxruntime-web and `simd`, one thread each in Node, interleaved, medians. tools/research/onnx-times.py measures
 * onnxruntime's own kernels.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Command } from "commander";
import { env, InferenceSession, Tensor } from "onnxruntime-web";
import { openEngine } from "../../src/engines/auto.ts";
import { messageOf } from "../../src/errors.ts";
import { softmax } from "../../src/reference/scores.ts";
import { evalPixels, labelIndices, openDataset, SPLITS, type Split, spread } from "../data/data.ts";
import { readModelFolder } from "../models/folders.ts";
import { count } from "../options/values.ts";
import { startProgress } from "../shared/progress.ts";
import { bestClass } from "../shared/ranks.ts";

interface Options {
  data: string[];
  split: Split;
  pictures: number;
}

interface Runner {
  name: string;
  run(pixels: Float32Array): Promise<Float32Array>;
}

async function main(folder: string, { data, split, pictures: most }: Options): Promise<void> {
  env.wasm.numThreads = 1;
  const model = readModelFolder(folder, "int8");
  const { manifest } = model;
  const { pictures, classNames } = await openDataset(data, split);
  const indexOf = labelIndices(classNames, manifest.labels);
  const { engine } = await openEngine("simd", model);
  const runners: Runner[] = [
    await openOnnx(join(folder, "model.onnx"), manifest.imageSize),
    { name: "simd int8", run: async (pixels) => (await engine.run(pixels)).logits },
    await openOnnx(join(folder, "model_quantized.onnx"), manifest.imageSize),
  ];
  const rows = runners.map(({ name }) => ({ name, divergence: 0, same: 0, correct: 0, ms: [] as number[] }));
  const chosen = spread(pictures, most);
  const progress = startProgress("pictures", chosen.length);
  for (const [k, picture] of chosen.entries()) {
    const pixels = await evalPixels(picture, manifest.preprocess);
    let exact: Float32Array | undefined;
    for (const [r, runner] of runners.entries()) {
      const begun = process.cpuUsage();
      const logits = await runner.run(pixels);
      const { user, system } = process.cpuUsage(begun);
      rows[r].ms.push((user + system) / 1000);
      exact ??= logits;
      rows[r].divergence += divergence(exact, logits) / chosen.length;
      rows[r].same += Number(bestClass(logits) === bestClass(exact));
      rows[r].correct += Number(bestClass(logits) === indexOf.get(picture.className));
    }
    progress.update(k + 1, "");
  }
  progress.stop();
  console.log("| | divergence | same best class | top-1 | ms |\n| --- | --- | --- | --- | --- |");
  const percent = (part: number) => `${((100 * part) / chosen.length).toFixed(1)} %`;
  for (const { name, divergence, same, correct, ms } of rows) {
    const median = ms.sort((a, b) => a - b)[ms.length >> 1].toFixed(1);
    console.log(`| ${[name, divergence.toExponential(1), percent(same), percent(correct), median].join(" | ")} |`);
  }
  engine.dispose();
}

async function openOnnx(file: string, imageSize: [number, number]): Promise<Runner> {
  const session = await InferenceSession.create(readFileSync(file), { logSeverityLevel: 3 });
  return {
    name: file,
    async run(pixels) {
      const { logits } = await session.run({ pixel_values: new Tensor("float32", pixels, [1, 3, ...imageSize]) });
      return logits.data as Float32Array;
    },
  };
}

/** KL(exact ‖ other) in nats. */
function divergence(exact: Float32Array, other: Float32Array): number {
  const [p, q] = [softmax(exact), softmax(other)];
  return p.reduce((sum, share, k) => sum + (share > 0 ? share * Math.log(share / q[k]) : 0), 0);
}

new Command("onnxInt8")
  .argument("<folder>", "written by export --onnx")
  .requiredOption("--data <source...>", "pictures of the model's classes")
  .option("--split <split>", `${SPLITS.join(", ")}`, "test")
  .option("--pictures <n>", "how many pictures to use, spread over the data", count, 1300)
  .action(main)
  .parseAsync()
  .catch((error) => {
    console.error(`onnxInt8: ${messageOf(error)}`);
    process.exitCode = 1;
  });
