/**
 * tsx tools/research/taught.ts MODEL --data D [--python python3]: compares taught heads with scikit-learn's
 * LogisticRegressionCV, on the same features. With 5, 20 and all training pictures a class, and several draws of the
 * few: accuracy on the val pictures by teachHead, and by scikit-learn with its default C and with C chosen for accuracy
 * and for the loss. With --unknown U it also counts how many of U's pictures, and how many of the val pictures, are
 * called unknown. Python needs scikit-learn.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Command } from "commander";
import { messageOf, SlimViTError } from "../../src/errors.ts";
import { featureDim } from "../../src/format/model.ts";
import type { Taught, TaughtHead } from "../../src/protocol.ts";
import { headLogits, nearestCosine } from "../../src/reference/scores.ts";
import { teachHead } from "../../src/teach/index.ts";
import { openDataset, type Split, spread } from "../data/data.ts";
import { readModelFolder } from "../models/folders.ts";
import { percent, print, say } from "../shared/terminal.ts";
import { type Embedded, embedPictures } from "../teach/embed.ts";

const EACH: [each: number, draws: number][] = [
  [5, 5],
  [20, 5],
  [Number.POSITIVE_INFINITY, 1],
];
/** Pictures of other things. */
const UNKNOWN = 300;

interface Options {
  data: string[];
  unknown?: string;
  python: string;
  threads: number;
}

async function main(source: string, { data, unknown, python, threads }: Options): Promise<void> {
  const model = readModelFolder(source);
  const dim = featureDim(model.manifest);
  const embed = async (sources: string[], split: Split, most = Number.POSITIVE_INFINITY) => {
    const { pictures } = await openDataset(sources, split);
    return embedPictures(model, spread(pictures, most), threads);
  };
  const [train, val] = [await embed(data, "train"), await embed(data, "val")];
  const others = unknown ? await embed([unknown], "all", UNKNOWN) : undefined;
  const names = [...new Set(train.pictures.map(({ className }) => className))].sort();
  for (const [each, draws] of EACH) {
    for (let draw = 0; draw < draws; draw++) {
      const rows = names.flatMap((name) => drawn(train, name, each, draw));
      const taught: Taught = {
        names,
        classOf: Int32Array.from(rows, (row) => names.indexOf(train.pictures[row].className)),
        embeddings: Float32Array.from(rows.flatMap((row) => [...rowOf(train, row, dim)])),
      };
      const begun = performance.now();
      const { head, info } = await teachHead(taught, dim);
      const seconds = (performance.now() - begun) / 1000;
      const own = shareOf(val, dim, (features, className) => names[best(head, features)] === className);
      const line = `${Number.isFinite(each) ? each : "all"} a class, draw ${draw + 1}: ${rows.length} pictures, ${seconds.toFixed(1)} s, `;
      print(
        `${line}cross-validated ${percent(info.accuracy)}, val ${percent(own)}; ${scikitLearn(python, taught, val, dim)}`,
      );
      const isUnknown = (features: Float32Array) => nearestCosine(features, head.means) < head.unknown.threshold;
      const theirs = others ? `, of ${others.pictures.length} others ${percent(shareOf(others, dim, isUnknown))}` : "";
      const { falseRejection } = head.unknown;
      print(`  unknown: measured ${percent(falseRejection)}, val ${percent(shareOf(val, dim, isUnknown))}${theirs}`);
    }
  }
}

/** Rows of `each` pictures of a class, other ones in each draw. */
function drawn({ pictures }: Embedded, name: string, each: number, draw: number): number[] {
  const own = [...pictures.keys()].filter((row) => pictures[row].className === name);
  const count = Math.min(each, own.length);
  return Array.from({ length: count }, (_, k) => own[(draw * count + k) % own.length]).sort((a, b) => a - b);
}

const rowOf = ({ features }: Embedded, row: number, dim: number) => features.subarray(row * dim, (row + 1) * dim);

function best(head: TaughtHead, features: Float32Array): number {
  const logits = headLogits(head, features);
  return logits.indexOf(Math.max(...logits));
}

function shareOf(
  embedded: Embedded,
  dim: number,
  isSo: (features: Float32Array, className: string) => boolean,
): number {
  const { pictures } = embedded;
  return pictures.filter(({ className }, row) => isSo(rowOf(embedded, row, dim), className)).length / pictures.length;
}

/** @throws SlimViTError `unsupported` without Python or scikit-learn */
function scikitLearn(python: string, { names, classOf, embeddings }: Taught, val: Embedded, dim: number): string {
  const folder = mkdtempSync(join(tmpdir(), "slimvit-taught-"));
  try {
    const bytes = (values: Float32Array) => new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    writeFileSync(join(folder, "train.f32"), bytes(embeddings));
    writeFileSync(join(folder, "val.f32"), bytes(val.features));
    const valClasses = val.pictures.map(({ className }) => names.indexOf(className));
    writeFileSync(join(folder, "classes.json"), JSON.stringify({ dim, train: [...classOf], val: valClasses }));
    const script = fileURLToPath(new URL("taught.py", import.meta.url));
    const { status, stdout, stderr, error } = spawnSync(python, [script, folder], { encoding: "utf8" });
    if (status === 0) return stdout.trim();
    const fault = `taught.py failed (${error ? messageOf(error) : stderr.trim().split("\n").at(-1)}).`;
    throw new SlimViTError("unsupported", `${fault} Give --python PROGRAM, one that has scikit-learn.`);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

await new Command("taught")
  .argument("<model>", "model folder")
  .requiredOption("--data <source>", "with train and val pictures", (value, before: string[] = []) => [
    ...before,
    value,
  ])
  .option("--unknown <source>", "pictures of other things")
  .option("--python <program>", "with scikit-learn", "python3")
  .option("--threads <n>", "of the engine", Number, 2)
  .action(main)
  .parseAsync()
  .catch((error) => {
    say(`taught: ${messageOf(error)}`);
    process.exitCode = 1;
  });
