/** What reviewers and consumers' type checkers see of the packages: publint, are the types wrong, the api report, versions. */
import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { checkPackage, createPackageFromTarballData } from "@arethetypeswrong/core";
import { publint } from "publint";
import { formatMessage } from "publint/utils";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type PackageName, pack, ROOT } from "./packed.ts";

/** Scripts that a page serves and nobody imports by name, so they have no types. */
const SERVED = [
  "./engine-family.js",
  "./engine-onnx.js",
  "./engine-reference.js",
  "./engine-tfjs.js",
  "./engine-webgpu.js",
  "./engine-webnn.js",
  "./teach.js",
];
const NAMES: PackageName[] = ["slimvit", "slimvit-tools"];

let folder: string;
const tarballs = {} as Record<PackageName, Buffer>;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "slimvit-publishing-"));
  for (const name of NAMES) tarballs[name] = readFileSync(pack(name, folder));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test.each(NAMES)("publint has nothing to say about %s but a false alarm on worker.js", async (name) => {
  const tarball = tarballs[name];
  const buffer = tarball.buffer.slice(tarball.byteOffset, tarball.byteOffset + tarball.length) as ArrayBuffer;
  const { messages, pkg } = await publint({ pack: { tarball: buffer }, strict: true });
  // The instances of WebAssembly in worker.js have `exports`, which publint takes for CommonJS; Node imports it in package.test.ts.
  const told = messages.filter(({ code, path }) => code !== "FILE_INVALID_FORMAT" || !path.includes("./worker.js"));
  expect(told.map((message) => formatMessage(message, pkg!))).toEqual([]);
});

test("the types are right wherever ES modules are", async () => {
  const result = await checkPackage(createPackageFromTarballData(tarballs.slimvit));
  if (!result.types) throw new Error("no types");
  const wrong = result.problems.filter((problem) => {
    if ("resolutionKind" in problem && ["node10", "node16-cjs"].includes(problem.resolutionKind)) return false; // ESM only
    return !("entrypoint" in problem && SERVED.includes(problem.entrypoint));
  });
  expect(wrong).toEqual([]);
});

test('docs/api.d.ts is the public surface; "npm run api" after a change that is meant', () => {
  expect(readFileSync(join(ROOT, "docs/api.d.ts"), "utf8")).toBe(readFileSync(join(ROOT, "dist/index.d.ts"), "utf8"));
});

test("npm run new-version raises both packages together and writes their changelogs from the changesets", () => {
  const clone = join(folder, "clone");
  mkdirSync(join(clone, "tools"), { recursive: true });
  for (const path of [
    ".changeset",
    "scripts",
    "package.json",
    "package-lock.json",
    "CHANGELOG.md",
    "tools/package.json",
  ])
    cpSync(join(ROOT, path), join(clone, path), { recursive: true });
  symlinkSync(join(ROOT, "node_modules"), join(clone, "node_modules"));
  const run = (command: string, ...args: string[]) => execFileSync(command, args, { cwd: clone, encoding: "utf8" });
  writeFileSync(join(clone, ".changeset/small.md"), '---\n"slimvit": minor\n---\n\nIt sings.\n');
  run("git", "init", "--quiet");
  run("git", "add", "--all");
  run(
    "git",
    "-c",
    "user.name=test",
    "-c",
    "user.email=test@example.invalid",
    "commit",
    "--quiet",
    "--message",
    "before",
  );
  const read = (path: string) => readFileSync(join(clone, path), "utf8");
  const version = (path: string) => (JSON.parse(read(path)) as { version: string }).version;
  const sentences = changesets(clone).map((name) => read(`.changeset/${name}`).split("---\n")[2].trim());
  const [before, unreleased] = [version("package.json"), read("CHANGELOG.md").match(/^## Unreleased\n+- (.*)$/m)?.[1]];

  run(process.execPath, "scripts/new-version.mjs");

  const after = version("package.json");
  expect(after).not.toBe(before);
  expect(version("tools/package.json")).toBe(after);
  expect(version("package-lock.json")).toBe(after);
  expect(JSON.parse(read("tools/package.json")).dependencies.slimvit).toBe(after);
  expect(changesets(clone)).toEqual([]);
  const newest = read("CHANGELOG.md").split(/^## /m)[1];
  expect(newest.startsWith(`${after}\n`)).toBe(true);
  for (const sentence of [...sentences, ...(unreleased ? [unreleased] : [])]) expect(newest).toContain(sentence);
  expect(read("CHANGELOG.md")).not.toContain("Unreleased");
  expect(read("tools/CHANGELOG.md")).toContain(`## ${after}`);
});

function changesets(clone: string): string[] {
  return readdirSync(join(clone, ".changeset")).filter((name) => name.endsWith(".md") && name !== "README.md");
}
