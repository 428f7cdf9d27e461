/**
 * slimvit run MODEL IMAGE...: classifies files, and the pictures in folders, one by one. A bad file is reported and
 * skipped.
 */
import { statSync } from "node:fs";
import { join } from "node:path";
import { openEngine } from "../../src/engines/auto.ts";
import type { Engine, EngineName } from "../../src/engines/engine.ts";
import { messageOf, SlimViTError } from "../../src/errors.ts";
import type { Model, WeightsDtype } from "../../src/format/model.ts";
import { preprocess } from "../../src/image/resample.ts";
import { SCORE } from "../../src/reference/scores.ts";
import { isLitter, isPicture } from "../data/entries.ts";
import { readPicture } from "../data/folder.ts";
import { decode } from "../data/pixels.ts";
import { listTree } from "../data/tree.ts";
import { readModelFolder } from "../models/folders.ts";
import { say } from "../shared/terminal.ts";
import { USUAL_THREADS } from "../shared/threads.ts";

export interface RunReport {
  file: string;
  /** best first; scores sum to 1, but for multi-label models; empty for an embedding model */
  classes: { id: string; label: string; index: number; score: number }[];
  logits: number[];
  /** of an embedding model */
  features?: number[];
  latencyMs: { preprocess: number; inference: number; total: number };
}

/** The error of a file that could not be classified. */
export interface RunFailure {
  file: string;
  error: string;
}

interface RunOptions {
  engine: EngineName | "auto";
  dtype?: WeightsDtype;
  /** default the usual number */
  threads?: number;
  topK: number;
}

export async function runFiles(
  source: string,
  paths: string[],
  options: RunOptions,
): Promise<(RunReport | RunFailure)[]> {
  const model = readModelFolder(source, options.dtype);
  const files = paths.flatMap(picturesAt);
  const { engine } = await openEngine(options.engine, model, { threads: options.threads ?? USUAL_THREADS });
  const reports: (RunReport | RunFailure)[] = [];
  try {
    for (const file of files) {
      try {
        reports.push(await classify(engine, model, file, options.topK));
      } catch (error) {
        if (!(error instanceof SlimViTError) || error.code !== "bad-input") throw error;
        say(`run: ${error.message}`);
        reports.push({ file, error: error.message });
      }
    }
  } finally {
    engine.dispose();
  }
  return reports;
}

/** The pictures at a path: the file itself, whatever its name, or all pictures anywhere in a folder. */
function picturesAt(path: string): string[] {
  if (!statSync(path, { throwIfNoEntry: false })?.isDirectory()) return [path];
  const inside = listTree(path).filter(
    ({ path: file, stats }) => stats?.isFile() && isPicture(file) && !isLitter(file),
  );
  if (!inside.length) throw new SlimViTError("bad-input", `${path}: this folder holds no pictures.`);
  return inside.map(({ path: file }) => join(path, file)).sort();
}

async function classify(engine: Engine, { manifest }: Model, file: string, topK: number): Promise<RunReport> {
  const { labels, head, preprocess: how } = manifest;
  const start = performance.now();
  const pixels = preprocess(await decode(readImageFile(file), file), how);
  const middle = performance.now();
  const { logits, features } = await engine.run(pixels);
  const end = performance.now();
  const scores = SCORE[head?.scores ?? "softmax"](logits);
  const best = [...scores.keys()].sort((a, b) => scores[b] - scores[a]).slice(0, topK);
  return {
    file,
    classes: best.map((index) => ({ ...labels[index], index, score: scores[index] })),
    logits: Array.from(logits),
    ...(!head && { features: Array.from(features) }),
    latencyMs: { preprocess: middle - start, inference: end - middle, total: end - start },
  };
}

function readImageFile(file: string): Buffer {
  try {
    return readPicture(file);
  } catch (error) {
    throw new SlimViTError("bad-input", `${file}: cannot be read (${messageOf(error)}).`);
  }
}
