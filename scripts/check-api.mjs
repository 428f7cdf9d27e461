// Holds docs/api.d.ts against the types that the build gives: a change of the public surface is one that somebody meant.
//   npm run build && node scripts/check-api.mjs
// Exits 1 and prints the first line that differs; "npm run api" writes the file anew.
import { readFileSync } from "node:fs";

const read = (path) => readFileSync(new URL(`../${path}`, import.meta.url), "utf8");

const [built, kept] = ["dist/index.d.ts", "docs/api.d.ts"].map((path) => read(path).split("\n"));
const at = built.findIndex((line, k) => line !== kept[k]);
const line = at < 0 && kept.length > built.length ? built.length : at;
if (line >= 0) {
  console.error(
    `api: the public types differ from docs/api.d.ts at line ${line + 1}.\n` +
      `  built: ${built[line] ?? "(nothing)"}\n  docs:  ${kept[line] ?? "(nothing)"}\n` +
      'When the change is meant, run "npm run api" and commit docs/api.d.ts.',
  );
  process.exit(1);
}
console.log(`api: docs/api.d.ts has the ${built.length} lines of dist/index.d.ts`);
