// Mutation testing by StrykerJS: changes an operator, a condition or a number at a time and counts what tests notice.
//   npm run mutation -- src/format                a folder, or files; the tests that hold it are named below
//   npm run mutation -- tools/training/losses.ts
// Prints each change that nothing noticed, and writes the score into the table of docs/robustness.md. Texts for people are
// left out: tests hold their sentences, not their letters. Only what tests run in this process counts; what needs a browser
// or a kernel has faults of our own (npm run mutation:plant). Takes from seconds a file to an hour a folder.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { machine, PAGE, ROOT, writeSection } from "./section.ts";

/** Tests that run the code in their own process: those of the command line start others. */
const TESTS: Record<string, string[]> = {
  "src/errors.ts": ["test/worker/*.test.ts"],
  "src/format": ["test/format/*.test.ts"],
  "src/reference": ["test/reference/*.test.ts"],
  "src/loading": ["test/loading/*.test.ts"],
  "src/image": ["test/image/*.test.ts"],
  "src/worker": ["test/worker/*.test.ts", "test/page/*.test.ts"],
  "src/page": ["test/page/*.test.ts", "test/worker/*.test.ts"],
  "src/tfjs": ["test/tfjs/*.test.ts", "test/tools/masks.test.ts", "test/tools/masks/*.test.ts"],
  "src/engines": ["test/engines/*.test.ts"],
  "tools/checkpoints": ["test/tools/checkpoints/*.test.ts", "test/tools/import.test.ts"],
  "tools/data": ["test/tools/data/*.test.ts"],
  "tools/evaluation": ["test/tools/evaluation/*.test.ts"],
  "tools/masks": ["test/tools/masks/*.test.ts", "test/tools/masks.test.ts", "test/tools/search.test.ts"],
  "tools/models": ["test/tools/models/*.test.ts", "test/tools/card.test.ts"],
  "tools/quantise": ["test/tools/gptq.test.ts", "test/tools/quantise.test.ts"],
  "tools/recipes": ["test/tools/recipes/*.test.ts"],
  "tools/report": ["test/tools/report.test.ts"],
  "tools/training": ["test/tools/training/*.test.ts", "test/tools/train.test.ts", "test/tools/teacher.test.ts"],
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

function main(paths: string[]): void {
  if (!paths.length) throw new Error(`mutation: name a folder or files, such as ${Object.keys(TESTS).join(", ")}.`);
  install();
  for (const path of paths.map((path) => path.replace(/\/+$/, ""))) {
    const started = performance.now();
    mutate(path);
    const report = JSON.parse(readFileSync(REPORT, "utf8")) as Report;
    const { killed, all } = summary(report);
    const minutes = (performance.now() - started) / 60_000;
    const score = `${((100 * killed) / all).toFixed(0)} %`;
    console.log(`mutation: ${path}: ${killed} of ${all} noticed (${score}) in ${minutes.toFixed(0)} min`);
    record(path, [String(all), String(killed), score]);
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

function mutate(path: string): void {
  const folder = Object.keys(TESTS).find((folder) => path === folder || path.startsWith(`${folder}/`));
  if (!folder)
    throw new Error(
      `mutation: no tests are named for ${path}; scripts/mutation.ts has ${Object.keys(TESTS).join(", ")}.`,
    );
  const isFolder = statSync(join(ROOT, path)).isDirectory();
  mkdirSync(BUILT, { recursive: true });
  const config = {
    mutate: [isFolder ? `${path}/**/*.ts` : path, "!**/*.d.ts", "!src/engines/simd/{generated,assembly}/**"],
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
  const head = ["| path | changes | noticed | score |", "| --- | --- | --- | --- |"];
  writeSection("mutation", [`\`npm run mutation -- PATH\`, last on ${machine}:`, "", ...head, ...sorted].join("\n"));
}

main(process.argv.slice(2));
