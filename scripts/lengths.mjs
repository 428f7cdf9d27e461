// No file over 350 lines: longer ones hold more than one idea. Comments count, blocks of them too, which no lint rule at hand counts.
//   node scripts/lengths.mjs      (a part of `npm run lint`)
// Prints the files that are too long; exits 1 if there are any. Kernels and tables are left out: splitting would hide them.
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";

const LIMIT = 350;
const CODE = /\.(ts|mts|mjs|js|vue|svelte|css|py)$/;
const EXEMPT = /^(src\/engines\/simd\/assembly\/|docs\/)/; // kernels; what commands have written

const files = execFileSync("git", ["ls-files", "--cached", "--others", "--exclude-standard"], { encoding: "utf8" });
const long = files
  .split("\n")
  .filter((file) => CODE.test(file) && !EXEMPT.test(file) && existsSync(file))
  .map((file) => ({ file, lines: readFileSync(file, "utf8").split("\n").length - 1 }))
  .filter(({ lines }) => lines > LIMIT);
for (const { file, lines } of long) console.error(`${file}: has ${lines} lines; at most ${LIMIT} are read in one go.`);
if (long.length) process.exit(1);
