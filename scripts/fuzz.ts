// Coverage-guided fuzzing (jazzer.js, on libFuzzer) of the readers of untrusted files and of the ONNX writer.
//   npm run fuzz                         60 s a target, then writes the figures into docs/robustness.md
//   npm run fuzz -- 600 manifest         other seconds, some of the targets of test/fuzz/targets.ts; writes nothing
// What it learns stays in build/fuzz/corpus and speeds up the next run. A find is added to test/fuzz/found, where
// `npm test` tries it from then on. Exits 1 when there is one.
import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { build } from "esbuild";
import type { TARGETS as Targets } from "../test/fuzz/targets.ts";
import { machine, ROOT, thousands, writeSection } from "./section.ts";
import { nodeFor } from "./setup-libc.mjs";

const SECONDS = 60;
/** The longest file that is made. Short files reach the loops of every reader. */
const MAX_BYTES = 8192;
/** Time and memory that one input may take. More counts as a find. */
const LIMITS = ["-timeout=10", "-rss_limit_mb=1500", "-malloc_limit_mb=100"];

const FUZZER = join(ROOT, "test/fuzz");
const PACKAGES = join(FUZZER, "node_modules/@jazzer.js");
const BUILT = join(ROOT, "build/fuzz");

interface Figures {
  target: string;
  seconds: number;
  runs: number;
  edges: number;
  finds: string[];
}

async function main(args: string[]): Promise<void> {
  const seconds = Number(args.find((arg) => /^\d+$/.test(arg)) ?? SECONDS);
  const names = args.filter((arg) => !/^\d+$/.test(arg));
  install();
  const node = nodeFor(join(PACKAGES, "fuzzer/dist/addon.js"), join(BUILT, "libc"));
  const targets = await bundle();
  const unknown = names.find((name) => !Object.hasOwn(targets, name));
  if (unknown) throw new Error(`fuzz: no target "${unknown}"; there are ${Object.keys(targets).join(", ")}.`);
  const figures: Figures[] = [];
  for (const target of names.length ? names : Object.keys(targets))
    figures.push(await fuzz(node, target, targets, seconds));
  const rows = figures.map(
    ({ target, seconds, runs, edges, finds }) =>
      `| \`${target}\` | ${thousands(seconds)} | ${thousands(runs)} | ${thousands(edges)} | ${finds.length} |`,
  );
  const table = [
    "| target | seconds | inputs run | edges covered | finds |",
    "| --- | --- | --- | --- | --- |",
    ...rows,
  ];
  const text = [`\`npm run fuzz\` on ${machine}:`, "", ...table].join("\n");
  console.log(`\n${text}`);
  if (args.length === 0) writeSection("fuzz", text);
  const finds = figures.flatMap(({ finds }) => finds);
  for (const find of finds) console.error(`fuzz: ${find}`);
  if (finds.length) process.exit(1);
}

function install(): void {
  const installed = join(FUZZER, "node_modules/.package-lock.json");
  const changedMs = (path: string) => statSync(path).mtimeMs;
  if (existsSync(installed) && changedMs(installed) >= changedMs(join(FUZZER, "package-lock.json"))) return;
  const { status } = spawnSync("npm", ["ci", "--silent", "--no-audit", "--no-fund"], { cwd: FUZZER, stdio: "inherit" });
  if (status !== 0) throw new Error("fuzz: test/fuzz could not be installed; is there a package registry?");
}

/** Bundles as CommonJS, which jazzer.js instruments: our own code in one file and packages outside of it. */
async function bundle(): Promise<typeof Targets> {
  const outfile = join(BUILT, "targets.cjs");
  await build({
    entryPoints: [join(FUZZER, "targets.ts")],
    outfile,
    bundle: true,
    platform: "node",
    format: "cjs",
    packages: "external",
    logLevel: "error",
  });
  return createRequire(outfile)(outfile).TARGETS;
}

async function fuzz(node: string[], target: string, targets: typeof Targets, seconds: number): Promise<Figures> {
  const corpus = join(BUILT, "corpus", target);
  const seeds = join(BUILT, "seeds", target);
  const finds = join(BUILT, "finds", target, "/");
  const found = join(FUZZER, "found", target);
  for (const folder of [corpus, seeds, finds]) mkdirSync(folder, { recursive: true });
  const before = new Set(readdirSync(finds));
  (await targets[target].seeds()).forEach((seed, k) => void writeFileSync(join(seeds, String(k)), seed));
  const words = join(BUILT, `${target}.dict`);
  writeFileSync(words, (targets[target].words ?? []).map(quoted).join("\n"));
  const entry = join(BUILT, `${target}.cjs`);
  writeFileSync(entry, `exports.fuzz = require("./targets.cjs").TARGETS[${JSON.stringify(target)}].fuzz;\n`);

  console.log(`fuzz: ${target}, ${seconds} s …`);
  const isAsync = targets[target].fuzz.constructor.name === "AsyncFunction";
  const options = ["--includes", "build/fuzz/", "--disableBugDetectors", ".*", ...(isAsync ? [] : ["--sync"])];
  const engine = [
    `-max_total_time=${seconds}`,
    `-max_len=${MAX_BYTES}`,
    `-dict=${words}`,
    `-artifact_prefix=${finds}`,
    "-print_final_stats=1",
    ...LIMITS,
  ];
  const [command, ...args] = [...node, join(PACKAGES, "core/dist/cli.js"), entry];
  const folders = [corpus, seeds, ...(existsSync(found) ? [found] : [])];
  const { status, stderr } = spawnSync(command, [...args, ...folders, ...options, "--", ...engine], {
    cwd: ROOT,
    encoding: "utf8",
    maxBuffer: 2 ** 28,
  });
  const added = readdirSync(finds).filter((name) => !before.has(name));
  for (const name of added) {
    mkdirSync(found, { recursive: true });
    copyFileSync(join(finds, name), join(found, name));
  }
  const number = (pattern: RegExp) => Number([...stderr.matchAll(pattern)].at(-1)?.[1] ?? Number.NaN);
  const figures = {
    target,
    seconds,
    runs: number(/^stat::number_of_executed_units:\s*(\d+)/gm),
    edges: number(/\bcov: (\d+)/g),
    finds: added.map((name) => `${target}: test/fuzz/found/${target}/${name}`),
  };
  if (status !== 0 || !(figures.runs > 0)) {
    console.error(stderr.slice(-3000));
    if (!added.length) throw new Error(`fuzz: ${target} ended with ${status} and no find.`);
  }
  return figures;
}

/** Writes the notation of libFuzzer's dictionaries. */
function quoted(word: string): string {
  const hex = (c: string) => `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`;
  return `"${word.replace(/[^\w .:,[\]{}-]/g, hex)}"`;
}

await main(process.argv.slice(2));
