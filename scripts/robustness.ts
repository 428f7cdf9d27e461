// Counts attempts to break SlimViT, and those that did harm.
//   npm run build && npm run robustness
//   npm run robustness -- --resume       after a run that was cut off or failed: the files that passed are not run again
//   npm run robustness -- --small        with `npm test`'s counts; writes nothing
// Runs test/robustness and test/format with full counts (`npm test` runs the same with small ones), prints when each file
// is done and how long it took, then writes their figures into the table of docs/robustness.md. Figures are stored
// in build/robustness. Exits 1 when a line has harm or no figure.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Line } from "../test/robustness/tally.ts";
import type { Done } from "./robustness-reporter.ts";
import { machine, ROOT, thousands, writeSection } from "./section.ts";

interface Figure {
  /** the test's, from the repository's root */
  file: string;
  line: Line;
  what: string;
  tried: number;
  harm: number;
  measured: string;
}

/** For each line: the attempt, and what counts as harm. */
const LINES: Record<Line, [attempt: string, harm: string]> = {
  format: [
    "Malformed manifests, weights and keep-lists",
    "anything but a `bad-model` that names file and fault, or more than 100 MB allocated",
  ],
  fuzz: [
    "The fuzzer's targets on seeds, earlier finds and damaged copies of both",
    "anything but a valid result or a `SlimViTError`",
  ],
  "bit-flips": ["Single bits flipped in weights", "anything but `integrity`"],
  untrusted: [
    "A manifest from an untrusted origin",
    "a request outside of its folder, a size above the stated bounds, or code that runs",
  ],
  pictures: [
    "Hostile pictures",
    "a crash, an error other than `bad-input`, or a picture above the bounds that is decoded",
  ],
  "worker-killed": [
    "The worker is killed during `classify`",
    "the call is not rejected within 1 s, or the next call fails or differs",
  ],
  "worker-methods": [
    "Messages to the worker that are none of its six methods",
    "the worker answers, or the next call fails",
  ],
  "device-lost": ["The GPU device is lost during `classify`", "the call is not recovered, or the logits differ"],
  abort: [
    "An abort at a random moment",
    "the call does not settle within the time of one block, the next result differs, or memory grows",
  ],
  network: [
    "Status 404 or 500, stalled, cut, short, HTML, redirected to nowhere",
    "a wrong result, a wrong error code, or no end",
  ],
  cache: [
    "The cache is corrupt, without quota, deleted, or of an older version",
    "a failure, a wrong result, or more than one download",
  ],
  "two-tabs": ["Two tabs and two models at once", "a result that differs from that of one alone"],
  variants: [
    "Several variants: ranges refused, cut or changed, variants exchanged",
    "a wrong result, a wrong error code, or memory that grows",
  ],
  soak: ["Load, classify and dispose, again and again", "a worker that stays, or memory that grows"],
  engines: [
    "Random slim networks on every engine and both SIMD binaries",
    "logits further from the reference than 10⁻⁵ (int8 activations 0.2, WebGPU 10⁻³), or another best class",
  ],
  "onnx-writer": ["Random networks through the ONNX writer", "a file that does not open, or other logits"],
  "tools-checkpoints": ["Truncated and damaged checkpoints", "no error message, or an incomplete folder"],
  "tools-disk": ["A full disk", "no error message, or an incomplete folder under the output's name"],
  "tools-killed": [
    "Commands killed at random moments, half of them during a change to the disk",
    "an incomplete folder under the output's name, or a second run that fails or gives another result",
  ],
  "tools-pictures": [
    "Unreadable pictures and odd class folders in `--data`",
    "no message that names them, a hang, or another class",
  ],
  "tools-archives": [
    "Zip slip and zip bombs in `--data`",
    "a file written outside, more inflated than the bound, or no error message",
  ],
};

const FOLDERS = ["test/robustness", "test/format"];
const KEPT = join(ROOT, "build/robustness");
const LOG = join(KEPT, "figures.jsonl");

function main(args: string[]): void {
  const isSmall = args.includes("--small");
  mkdirSync(KEPT, { recursive: true });
  const before = args.includes("--resume") ? readLog() : { figures: [], done: [] };
  const passed = new Set(before.done.filter(({ ok }) => ok).map(({ file }) => file));
  const lines = [...before.figures, ...before.done].filter(({ file }) => passed.has(file));
  writeFileSync(LOG, lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
  const files = FOLDERS.flatMap((folder) => readdirSync(join(ROOT, folder)).map((name) => `${folder}/${name}`));
  const left = files.filter((file) => file.endsWith(".test.ts") && !passed.has(file));
  if (passed.size) console.log(`robustness: ${passed.size} files have passed before; ${left.length} are left.`);
  const reporters = ["--reporter=default", `--reporter=${join(ROOT, "scripts/robustness-reporter.ts")}`];
  const env = { ...process.env, ROBUSTNESS: isSmall ? "" : "full", ROBUSTNESS_LOG: LOG };
  if (left.length) spawnSync("npx", ["vitest", "run", ...reporters, ...left], { cwd: ROOT, stdio: "inherit", env });

  const { figures, done } = readLog();
  const table = tableOf(figures);
  const minutes = (secondsOf(done) / 60).toFixed(0);
  const made = `\`npm run robustness\` on ${machine}: ${minutes} minutes, two files at a time.`;
  const failed = files.filter((file) => file.endsWith(".test.ts") && !done.some((d) => d.file === file && d.ok));
  if (!isSmall) writeSection("robustness", `${made}\n\n${table.text}`);
  console.log(`\n${table.text}\n\n${made}`);
  if (table.missing.length) console.error(`robustness: no figure for ${table.missing.join(", ")}.`);
  if (failed.length) console.error(`robustness: not passed: ${failed.join(", ")}.`);
  if (failed.length || table.missing.length) process.exit(1);
}

/** The figures of tests and the files that have ended. */
function readLog(): { figures: Figure[]; done: Done[] } {
  const text = existsSync(LOG) ? readFileSync(LOG, "utf8") : "";
  const entries = text.split("\n").flatMap((line) => (line ? [JSON.parse(line) as Figure | Done] : []));
  return {
    figures: entries.filter((entry): entry is Figure => "line" in entry),
    done: entries.filter((entry): entry is Done => "ok" in entry),
  };
}

/** The time in which a file was running. The time between a run and its resumption does not count. */
function secondsOf(done: Done[]): number {
  let [sum, end] = [0, 0];
  for (const { ended, seconds } of [...done].sort((a, b) => a.ended - a.seconds - (b.ended - b.seconds))) {
    sum += Math.max(0, ended - Math.max(end, ended - seconds));
    end = Math.max(end, ended);
  }
  return sum;
}

function tableOf(figures: Figure[]): { text: string; missing: Line[] } {
  const rows = ["| attempt | counted as harm | attempts | harmful | of these |", "| --- | --- | --- | --- | --- |"];
  const missing: Line[] = [];
  for (const line of Object.keys(LINES) as Line[]) {
    const found = figures.filter((figure) => figure.line === line);
    if (found.length) {
      const total = (key: "tried" | "harm") => found.reduce((sum, figure) => sum + figure[key], 0);
      const details = found.map((f) => `${f.what} ${thousands(f.tried)}${f.measured && ` (${f.measured})`}`);
      rows.push(
        `| ${LINES[line].join(" | ")} | ${thousands(total("tried"))} | ${total("harm")} | ${details.join("; ")} |`,
      );
    } else {
      rows.push(`| ${LINES[line].join(" | ")} | – | – | no figure |`);
      missing.push(line);
    }
  }
  return { text: rows.join("\n"), missing };
}

main(process.argv.slice(2));
