// Installs what the tests need to be the package's users elsewhere: Next.js, another Node, Deno (test/consumers/package.json).
//   npm run setup            (npm test runs it first)
import { spawnSync } from "node:child_process";
import { existsSync, statSync } from "node:fs";
import { fileURLToPath } from "node:url";

const folder = fileURLToPath(new URL("../test/consumers", import.meta.url));
const installed = `${folder}/node_modules/.package-lock.json`;
const changedMs = (path) => statSync(path).mtimeMs;

if (!existsSync(installed) || changedMs(installed) < changedMs(`${folder}/package-lock.json`)) {
  console.error("setup: installing Next.js, Node 22 and Deno for the tests …");
  const options = { cwd: folder, stdio: ["ignore", 2, 2], timeout: 900_000 };
  if (spawnSync("npm", ["ci", "--silent", "--no-audit", "--no-fund"], options).status !== 0) {
    console.error("setup: test/consumers could not be installed; is there a package registry?");
    process.exit(1);
  }
}
