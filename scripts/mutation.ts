// Mutation testing by StrykerJS: changes an operator, a condition or a number at a time and counts what tests notice.
//   npm run mutation -- src/format                a folder, or files; the tests that hold it are named below
//   npm run mutation -- tools/training/losses.ts
//   npm run mutation -- src/format --lines 60     60 lines of it, drawn at random (--seed 1), where the whole takes hours
// Prints each change that nothing noticed, and writes the score into the table of docs/robustness.md. Texts for people are
// left out: tests hold their sentences, not their letters. Only what tests run in this process counts; what needs a browser
// or a kernel has faults of our own (npm run mutation:plant). Takes from seconds a file to an hour a folder.
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { random } from "../tools/shared/random.ts";
import { machine, PAGE, ROOT, writeSection } from "./section.ts";

const TRAINING = ["test/tools/training/*.test.ts", "test/tools/train.test.ts", "test/tools/teacher.test.ts"];
const MODELS = ["test/tools/models/*.test.ts", "test/tools/card.test.ts", "test/tools/outputs.test.ts"];

/** Tests that run the code in their own process; a few start others. */
const TESTS: Record<string, string[]> = {
  "src/errors.ts": ["test/worker/*.test.ts"],
  "src/format": ["test/format/*.test.ts"],
  "src/reference": ["test/reference/*.test.ts"],
  "src/loading": ["test/loading/*.test.ts"],
  "src/image": ["test/image/*.test.ts", "test/robustness/pictures.test.ts"],
  "src/worker": ["test/worker/*.test.ts", "test/page/*.test.ts"],
  "src/page": ["test/page/*.test.ts", "test/worker/*.test.ts"],
  "src/tfjs": ["test/tfjs/*.test.ts", "test/tools/masks.test.ts", "test/tools/masks/*.test.ts"],
  "src/engines": ["test/engines/*.test.ts"],
  "tools/checkpoints": ["test/tools/checkpoints/*.test.ts", "test/tools/import.test.ts"],
  "tools/commands": ["test/tools/cli.test.ts", "test/tools/eval.test.ts", "test/tools/options.test.ts"],
  "tools/data": ["test/tools/data/*.test.ts", "test/tools/pixels.test.ts"],
  "tools/elastic": ["test/tools/elastic/*.test.ts", "test/tools/elastic.test.ts"],
  "tools/evaluation": ["test/tools/evaluation/*.test.ts", "test/tools/eval.test.ts"],
  "tools/masks": ["masks/*", "masks", "search", "thin", "compress", "latency"].map(
    (name) => `test/tools/${name}.test.ts`,
  ),
  "tools/models": [...MODELS, "test/tools/eval.test.ts", "test/tools/quantise.test.ts", "test/tools/thin.test.ts"],
  "tools/options": ["test/tools/options.test.ts", "test/tools/cli.test.ts"],
  "tools/quantise": ["test/tools/gptq.test.ts", "test/tools/quantise.test.ts", "test/tools/family.test.ts"],
  "tools/recipes": ["test/tools/recipes/*.test.ts", "test/tools/slim.test.ts", "test/tools/sweep.test.ts"],
  "tools/report": ["test/tools/report.test.ts"],
  "tools/shared": [
    ...TRAINING,
    "test/tools/evaluation/*.test.ts",
    "test/tools/data/*.test.ts",
    "test/tools/eval.test.ts",
  ],
  "tools/slim": ["test/tools/slim/*.test.ts"],
  "tools/teach": ["test/tools/teach.test.ts"],
  "tools/training": [...TRAINING, "test/tools/validation.test.ts", "test/tools/elastic/*.test.ts"],
};

const STRYKER = join(ROOT, "test/mutation");
const BUILT = join(ROOT, "build/mutation");
const REPORT = join(BUILT, "mutation.json");

interface Mutant {
  mutatorName: string;
  replacement?: string;
  status: "Killed" | "Survived" | "NoCoverage" | "Timeout" | "CompileError" | "RuntimeError" | "Ignored";
  location: { start: { line: number } };
}

interface Report {
  files: Record<string, { source: string; mutants: Mutant[] }>;
}

interface Sample {
  lines: number;
  seed: number;
}

function main(): void {
  const { positionals: paths, values } = parseArgs({
    allowPositionals: true,
    options: { lines: { type: "string" }, seed: { type: "string", default: "1" } },
  });
  const sample = values.lines === undefined ? undefined : { lines: Number(values.lines), seed: Number(values.seed) };
  if (sample && !(sample.lines >= 1)) throw new Error(`mutation: --lines ${values.lines} is no number of lines.`);
  if (!paths.length) throw new Error(`mutation: name a folder or files, such as ${Object.keys(TESTS).join(", ")}.`);
  install();
  for (const path of paths.map((path) => path.replace(/\/+$/, ""))) {
    const started = performance.now();
    mutate(path, sample);
    const report = JSON.parse(readFileSync(REPORT, "utf8")) as Report;
    const { killed, all } = summary(report);
    const minutes = (performance.now() - started) / 60_000;
    const score = `${((100 * killed) / all).toFixed(0)} %`;
    console.log(`mutation: ${path}: ${killed} of ${all} noticed (${score}) in ${minutes.toFixed(0)} min`);
    record(path, [sample ? `${sample.lines} lines, drawn` : "all", String(all), String(killed), score]);
  }
}

function install(): void {
  const installed = join(STRYKER, "node_modules/.package-lock.json");
  const changedMs = (path: string) => statSync(path).mtimeMs;
  if (existsSync(installed) && changedMs(installed) >= changedMs(join(STRYKER, "package-lock.json"))) return;
  const { status } = spawnSync("npm", ["ci", "--silent", "--no-audit", "--no-fund"], {
    cwd: STRYKER,
    stdio: "inherit",
  });
  if (status !== 0) throw new Error("mutation: test/mutation could not be installed; is there a package registry?");
}

function mutate(path: string, sample?: Sample): void {
  const folder = Object.keys(TESTS).find((folder) => path === folder || path.startsWith(`${folder}/`));
  if (!folder)
    throw new Error(
      `mutation: no tests are named for ${path}; scripts/mutation.ts has ${Object.keys(TESTS).join(", ")}.`,
    );
  mkdirSync(BUILT, { recursive: true });
  const config = {
    mutate: sample ? drawnLines(path, sample) : filesOf(path),
    mutator: { excludedMutations: ["StringLiteral"] },
    testRunner: "vitest",
    plugins: [join(STRYKER, "node_modules/@stryker-mutator/vitest-runner/dist/src/index.js")],
    vitest: { configFile: "test/mutation/vitest.config.ts", related: false },
    reporters: ["clear-text", "json"],
    clearTextReporter: { allowColor: false, logTests: false, reportTests: false, reportScoreTable: false },
    jsonReporter: { fileName: REPORT },
    tempDirName: join(BUILT, "tmp"),
    ignorePatterns: ["/models", "/docs", "/demo", "/examples", "/peers", "/build", "/test/consumers", "/test/browser"],
    concurrency: 2,
    timeoutMS: 30_000,
    disableTypeChecks: false, // no types are checked on the way
    allowEmpty: false,
  };
  const file = join(BUILT, "stryker.config.json");
  writeFileSync(file, JSON.stringify(config, null, 2));
  const bin = join(STRYKER, "node_modules/@stryker-mutator/core/bin/stryker.js");
  const env = { ...process.env, MUTATION_TESTS: TESTS[folder].join(" ") };
  const { status } = spawnSync(process.execPath, [bin, "run", file], { cwd: ROOT, stdio: "inherit", env });
  if (status !== 0) throw new Error(`mutation: Stryker ended with ${status} on ${path}.`);
}

/** Kernels are AssemblyScript, which Node does not run. */
const filesOf = (path: string): string[] =>
  execFileSync("git", ["ls-files", path], { cwd: ROOT, encoding: "utf8" })
    .split("\n")
    .filter((file) => /(?<!\.d)\.ts$/.test(file) && !file.startsWith("src/engines/simd/assembly/"));

/** Changes that are within one line, of lines that have code: "src/format/read.ts:12-12". */
function drawnLines(path: string, { lines, seed }: Sample): string[] {
  const all = filesOf(path).flatMap((file) =>
    readFileSync(join(ROOT, file), "utf8")
      .split("\n")
      .flatMap((line, k) => (NO_CODE.test(line) ? [] : [`${file}:${k + 1}-${k + 1}`])),
  );
  const rng = random(seed);
  const drawn = all.map((line) => ({ line, order: rng() })).sort((a, b) => a.order - b.order);
  return drawn.slice(0, lines).map(({ line }) => line);
}

/** Blank lines, comments, imports, and lines of punctuation alone. */
const NO_CODE = /^\s*(\/[/*]|\*|import |export (type|interface) |[\s(){}[\],;]*$)/;

/** A change that makes a test run for ever counts as noticed; one that no test reaches does not. */
function summary({ files }: Report): { killed: number; all: number } {
  const mutants = Object.values(files).flatMap(({ mutants }) => mutants);
  const counted = mutants.filter(({ status }) => ["Killed", "Survived", "NoCoverage", "Timeout"].includes(status));
  const killed = counted.filter(({ status }) => status === "Killed" || status === "Timeout");
  return { killed: killed.length, all: counted.length };
}

/** Takes the place of the path's row in the table, or adds one. */
function record(path: string, cells: string[]): void {
  const section =
    readFileSync(PAGE, "utf8").split("<!-- mutation:begin -->")[1]?.split("<!-- mutation:end -->")[0] ?? "";
  const rows = new Map(
    section.split("\n").flatMap((line) => {
      const [, name] = line.match(/^\| `([^`]+)` \|/) ?? [];
      return name ? [[name, line] as const] : [];
    }),
  );
  rows.set(path, `| \`${path}\` | ${cells.join(" | ")} |`);
  const sorted = [...rows].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, row]) => row);
  const head = ["| path | lines | changes | noticed | score |", "| --- | --- | --- | --- | --- |"];
  writeSection("mutation", [`\`npm run mutation -- PATH\`, last on ${machine}:`, "", ...head, ...sorted].join("\n"));
}

main();
