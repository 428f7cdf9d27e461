// npm run new-version: makes the version that the changesets ask for.
// Changesets raises both packages and writes their CHANGELOG.md; what the root one lists under "Unreleased" joins the new
// version there, and package-lock.json follows.
import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";

const UNRELEASED = /\n## Unreleased\n+([\s\S]*?)(?=\n## |$)/;

function run(...command) {
  const { status } = spawnSync(command[0], command.slice(1), { stdio: "inherit" });
  if (status !== 0) throw new Error(`${command.join(" ")} failed`);
}

/** @param {string} text of a CHANGELOG.md whose newest version stands above "Unreleased" */
function fold(text) {
  const entries = text.match(UNRELEASED)?.[1].trim();
  if (!entries) return text;
  const [head, newest, ...older] = text.replace(UNRELEASED, "\n").split(/\n(?=## )/);
  return [head, `${newest.trim()}\n\n### In detail\n\n${entries}\n`, ...older].join("\n");
}

const before = readFileSync("package.json", "utf8");
run("npx", "changeset", "version");
if (readFileSync("package.json", "utf8") === before) {
  console.error('version: no changeset asks for a new version; "npx changeset" writes one.');
  process.exit(1);
}
writeFileSync("CHANGELOG.md", fold(readFileSync("CHANGELOG.md", "utf8")));
run("npm", "install", "--package-lock-only", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline");
