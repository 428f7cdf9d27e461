// How much was tried to break SlimViT, and how much of it did harm.
//   npm run build && npm run robustness
// Runs test/robustness and test/format with full counts (`npm test` runs the same with small ones), then writes the
// figures they print into the table of docs/robustness.md. Exits 1 when a line has harm or no figure.
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Line } from "../test/robustness/tally.ts";
import { machine, ROOT, thousands, writeSection } from "./section.ts";

interface Figure {
  line: Line;
  what: string;
  tried: number;
  harm: number;
  measured: string;
}

/** What harm is, a line. */
const LINES: Record<Line, string> = {
  format:
    "Malformed manifests, weights, keep-lists: anything but a `bad-model` that names file and fault, or over 100 MB allocated on the way",
  "bit-flips": "Single bits flipped in weights: anything but `integrity`",
  untrusted: "Manifest from an untrusted origin: a request outside its folder, over the stated bounds, code run",
  pictures: "Hostile pictures: a crash, another error than `bad-input`, a large one decoded",
  "worker-killed": "Worker killed in mid-classify: not rejected within 1 s, or the next call fails or differs",
  "worker-methods": "Messages to the worker that are none of its five methods: answered, or the next call fails",
  "device-lost": "GPU device lost in mid-classify: not recovered, other logits",
  abort: "Abort at a random moment: not settled within one block's time, the next answer differs, memory grows",
  network: "404, 500, stall, cut, short, HTML, redirect to nowhere: a wrong result, another code, no end",
  cache: "Cache corrupt, without quota, deleted, of an older version: fatal, a wrong result, fetched more than once",
  "two-tabs": "Two tabs and two models at once: another answer than alone",
  soak: "Load, classify, dispose, again and again: a worker left, memory grows",
  engines:
    "Random slim networks on every engine, both SIMD binaries: logits further off the reference's than 10⁻⁵ (int8 activations 0.2, WebGPU 10⁻³), another top-1",
  "onnx-writer": "Generated networks through the ONNX writer: a file that does not open, other logits",
  "tools-checkpoints": "Truncated and damaged checkpoints: no sentence, a half folder",
  "tools-disk": "Disk full: no sentence, a half folder under the name that was asked for",
  "tools-killed": "Commands killed at random moments: a half folder under the name that was asked for",
  "tools-pictures":
    "Unreadable pictures and odd class folders in `--data`: no sentence naming it, a hang, another class",
  "tools-archives": "Zip slip and zip bombs in `--data`: a file written, inflated past the bound, no sentence",
};

function main(): void {
  const folder = mkdtempSync(join(tmpdir(), "slimvit-robustness-"));
  const log = join(folder, "figures.jsonl");
  writeFileSync(log, "");
  const start = Date.now();
  const { status } = spawnSync("npx", ["vitest", "run", "test/robustness", "test/format"], {
    cwd: ROOT,
    stdio: "inherit",
    env: { ...process.env, ROBUSTNESS: "full", ROBUSTNESS_LOG: log },
  });
  const minutes = (Date.now() - start) / 60_000;
  const figures = readFileSync(log, "utf8").trim().split("\n").filter(Boolean);
  rmSync(folder, { recursive: true });
  const table = tableOf(figures.map((line) => JSON.parse(line) as Figure));
  const made = `\`npm run robustness\` on ${machine}: ${minutes.toFixed(0)} minutes.`;
  writeSection("robustness", `${made}\n\n${table.text}`);
  console.log(`\n${table.text}\n\n${made}`);
  if (table.missing.length) console.error(`robustness: no figure for ${table.missing.join(", ")}.`);
  if (status !== 0 || table.missing.length) process.exit(1);
}

function tableOf(figures: Figure[]): { text: string; missing: Line[] } {
  const rows = ["| what was tried: what harm is | tried | did harm | |", "| --- | --- | --- | --- |"];
  const missing: Line[] = [];
  for (const line of Object.keys(LINES) as Line[]) {
    const found = figures.filter((figure) => figure.line === line);
    if (found.length) {
      const total = (key: "tried" | "harm") => found.reduce((sum, figure) => sum + figure[key], 0);
      const details = found.map((f) => `${f.what} ${thousands(f.tried)}${f.measured && ` (${f.measured})`}`);
      rows.push(`| ${LINES[line]} | ${thousands(total("tried"))} | ${total("harm")} | ${details.join("; ")} |`);
    } else {
      rows.push(`| ${LINES[line]} | – | – | no figure |`);
      missing.push(line);
    }
  }
  return { text: rows.join("\n"), missing };
}

main();
