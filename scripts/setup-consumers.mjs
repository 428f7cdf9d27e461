// Installs what the tests need to be the package's users elsewhere: bundlers, frameworks, other runtimes. Each folder of
// test/consumers with a package.json is one family, whose packages agree on the versions of what they share.
//   npm run setup            (npm test runs it first)
import { spawnSync } from "node:child_process";
import { existsSync, statSync } from "node:fs";
import { fileURLToPath } from "node:url";

const FAMILIES = {
  ".": "Next.js, Node 22, Deno, Bun and workerd",
  vites: "vite 5 to 8",
  bundlers: "bundlers",
  frameworks: "frameworks",
};

const changedMs = (/** @type {string} */ path) => statSync(path).mtimeMs;

for (const [family, what] of Object.entries(FAMILIES)) {
  const folder = fileURLToPath(new URL(`../test/consumers/${family}`, import.meta.url));
  const installed = `${folder}/node_modules/.package-lock.json`;
  if (existsSync(installed) && changedMs(installed) >= changedMs(`${folder}/package-lock.json`)) continue;
  console.error(`setup: installing ${what} for the tests …`);
  const options = { cwd: folder, stdio: /** @type {const} */ (["ignore", 2, 2]), timeout: 900_000 };
  const args = ["ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"];
  if (spawnSync("npm", args, options).status !== 0) {
    console.error(`setup: ${folder} could not be installed; is there a package registry?`);
    process.exit(1);
  }
}
