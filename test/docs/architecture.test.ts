/** docs/architecture.md against the tree: every file and folder that it names exists, and no folder is left out. */
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
const PAGE = readFileSync(join(ROOT, "docs/architecture.md"), "utf8");

/** What stands in backticks and begins with a folder of the repository, or is a file of its root. */
const NAMED = [...PAGE.matchAll(/`((?:[\w.-]+\/)+(?:[\w.-]+)?|\.dependency-cruiser\.mjs)`/g)]
  .map(([, path]) => path)
  .filter((path) => !path.startsWith("slimvit/"));

/** Made by builds and by npm, so not part of the map. */
const NOT_MAPPED = new Set(["tools/dist/", "tools/node_modules/"]);

describe("docs/architecture.md", () => {
  test("names files and folders that exist, folders with a slash at the end", () => {
    expect(NAMED.length).toBeGreaterThan(60);
    const wrong = NAMED.filter(
      (path) => !existsSync(join(ROOT, path)) || statSync(join(ROOT, path)).isDirectory() !== path.endsWith("/"),
    );
    expect(wrong).toEqual([]);
  });

  test.each(["src", "tools", "src/engines"])("has every folder of %s on the map", (parent) => {
    const folders = readdirSync(join(ROOT, parent), { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map(({ name }) => `${parent}/${name}/`)
      .filter((path) => !NOT_MAPPED.has(path));
    expect(folders.filter((path) => !NAMED.includes(path))).toEqual([]);
  });
});
