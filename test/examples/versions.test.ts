/** The examples' package.json files: `npm install` finds what the tests have built them with. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
/** Where the packages lie that build the examples in the tests, the nearest first. */
const INSTALLED = ["test/consumers/frameworks/node_modules", "test/consumers/node_modules"];
const OURS = { slimvit: "package.json", "slimvit-deit-tiny-slim": "models/deit-tiny-slim/package.json" };

const versionIn = (path: string): string => JSON.parse(readFileSync(path, "utf8")).version;

function versionOf(name: string): string {
  if (name in OURS) return versionIn(join(ROOT, OURS[name as keyof typeof OURS]));
  const path = INSTALLED.map((folder) => join(ROOT, folder, name, "package.json")).find((path) => existsSync(path));
  if (!path) throw new Error(`No test builds an example with ${name}.`);
  return versionIn(path);
}

const examples = readdirSync(join(ROOT, "examples")).filter((name) =>
  existsSync(join(ROOT, "examples", name, "package.json")),
);

test.each(examples)("examples/%s asks for versions that it was tried with", (name) => {
  const { dependencies = {}, devDependencies = {} } = JSON.parse(
    readFileSync(join(ROOT, "examples", name, "package.json"), "utf8"),
  );
  for (const [dependency, range] of Object.entries<string>({ ...dependencies, ...devDependencies })) {
    const [, sign, least] = range.match(/^([\^~])(\d+\.\d+\.\d+)$/) ?? [];
    expect([sign !== undefined, dependency, least]).toEqual([true, dependency, versionOf(dependency)]);
  }
});
