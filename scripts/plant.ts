// Plants faults, one at a time, in a copy of the project and says which test each turns red.
//   npm run mutation:plant                     all of scripts/plants
//   npm run mutation:plant -- offline demo     those whose group, file or name holds one of the words
//   npm run mutation:plant -- --list           what there is, and what the sources do not have exactly once, without running anything
// The offline stage's faults stand for what reviewers planted; kernels, browser code and the demo are out of Stryker's reach.
// The copy is build/planted, made anew each time. Exits 1 when a fault survives, is no longer in the sources, or when the
// tests fail without any fault.
import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { GROUPS, timesInSources } from "./plants/groups.ts";
import type { Plant } from "./plants/plant.ts";
import { ROOT } from "./section.ts";

const COPY = join(ROOT, "build/planted");
/** Large, and the same for every fault. */
const LINKED = ["node_modules", "models"];
/** A fault may make a test run for ever, which is noticed, too. */
const LIMIT_MS = 300_000;

type Chosen = Plant & { group: string };

function main(args: string[]): void {
  const words = args.filter((arg) => !arg.startsWith("--"));
  const unknown = args.find((arg) => arg.startsWith("--") && arg !== "--list");
  if (unknown) throw new Error(`plant: has no option ${unknown}; --list lists the plants, words choose some of them.`);
  const all = Object.entries(GROUPS).flatMap(([group, plants]) => plants.map((plant) => ({ ...plant, group })));
  const chosen = all.filter(
    ({ group, file, name }) => !words.length || words.some((word) => `${group} ${file} ${name}`.includes(word)),
  );
  if (args.includes("--list")) {
    for (const plant of chosen) {
      const times = timesInSources(plant);
      const fault = times === 1 ? "" : `  ${times} TIMES IN THE SOURCES`;
      console.log(`${plant.group}: ${plant.file}: ${plant.name}${fault}`);
    }
    return;
  }
  if (!chosen.length) throw new Error(`plant: nothing matches ${words.join(", ")}; --list says what there is.`);
  copyProject();
  const wrong = [...baseline(chosen), ...chosen.map(tried).filter((fault) => fault !== undefined)];
  const score = (100 * (chosen.length - wrong.length)) / chosen.length;
  console.log(`plant: ${chosen.length} faults planted, ${wrong.length} not noticed (${score.toFixed(0)} % noticed)`);
  if (wrong.length) process.exit(1);
}

function copyProject(): void {
  rmSync(COPY, { recursive: true, force: true });
  const { stdout } = spawnSync("git", ["ls-files", "-co", "--exclude-standard"], { cwd: ROOT, encoding: "utf8" });
  const files = stdout.split("\n").filter((file) => file && !LINKED.some((folder) => file.startsWith(`${folder}/`)));
  for (const file of files) {
    if (!existsSync(join(ROOT, file))) continue; // removed, but not committed yet
    mkdirSync(dirname(join(COPY, file)), { recursive: true });
    cpSync(join(ROOT, file), join(COPY, file));
  }
  for (const folder of ["dist", "src/engines/simd/generated", "tools/node_modules", "test/consumers/node_modules"])
    if (existsSync(join(ROOT, folder))) cpSync(join(ROOT, folder), join(COPY, folder), { recursive: true });
  for (const folder of LINKED) symlinkSync(join(ROOT, folder), join(COPY, folder));
}

/** @returns a name for each set of tests that fails although nothing is planted */
function baseline(plants: Chosen[]): string[] {
  const tests = [...new Set(plants.flatMap(({ tests }) => tests))];
  const { failed } = run(tests);
  if (failed) console.log(`plant: without any fault, "${failed}" fails; nothing below it can be trusted.`);
  return failed ? ["the tests themselves"] : [];
}

/** @returns what is wrong, where the fault is not noticed */
function tried(plant: Chosen): string | undefined {
  const { group, name, file, find, plant: planted, tests, builds } = plant;
  const path = join(COPY, file);
  const places = timesInSources(plant, COPY);
  const intact = places ? readFileSync(path, "utf8") : "";
  const say = (outcome: string) => console.log(`${group}: ${name} (${file}): ${outcome}`);
  if (places !== 1) {
    say(`is ${places} times in the sources, not once: write the plant anew`);
    return name;
  }
  writeFileSync(
    path,
    intact.replace(find, () => planted),
  );
  try {
    if (builds && !build(builds)) {
      say("noticed by the build");
      return undefined;
    }
    const { failed } = run(tests);
    say(failed ? `noticed by "${failed}"` : `SURVIVES ${tests.join(", ")}`);
    return failed ? undefined : name;
  } finally {
    writeFileSync(path, intact);
    if (builds) build(builds);
  }
}

const BUILDS = {
  kernels: [["node", "src/engines/simd/generate.mjs"]],
  package: [["npx", "rollup", "--config", "rollup.config.ts", "--configPlugin", "esbuild"]],
};

function build(what: NonNullable<Plant["builds"]>): boolean {
  return BUILDS[what].every(
    ([command, ...args]) => spawnSync(command, args, { cwd: COPY, stdio: "ignore" }).status === 0,
  );
}

/** @returns the title of a test that failed, if one did */
function run(tests: string[]): { failed?: string } {
  const args = ["vitest", "run", ...tests, "--bail", "1", "--reporter", "json", "--outputFile", "report.json"];
  rmSync(join(COPY, "report.json"), { force: true });
  const { status, signal } = spawnSync("npx", args, {
    cwd: COPY,
    stdio: "ignore",
    timeout: LIMIT_MS,
    killSignal: "SIGTERM",
  });
  if (signal) return { failed: `no end within ${LIMIT_MS / 1000} s` };
  if (status === 0) return {};
  if (!existsSync(join(COPY, "report.json"))) return { failed: "vitest itself" };
  interface Report {
    testResults: { name: string; message: string; assertionResults: { status: string; fullName: string }[] }[];
  }
  const { testResults } = JSON.parse(readFileSync(join(COPY, "report.json"), "utf8")) as Report;
  const [first] = testResults.flatMap(({ assertionResults }) =>
    assertionResults.filter((one) => one.status === "failed"),
  );
  return {
    failed: first?.fullName ?? testResults.find(({ message }) => message)?.message.split("\n")[0] ?? "vitest itself",
  };
}

main(process.argv.slice(2));
