/** What reviewers and consumers' type checkers see of the package: publint, are the types wrong, the api report. */
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { checkPackage, createPackageFromTarballData } from "@arethetypeswrong/core";
import { publint } from "publint";
import { formatMessage } from "publint/utils";
import { afterAll, beforeAll, expect, test } from "vitest";

const ROOT = fileURLToPath(new URL("..", import.meta.url));

/** Scripts that a page serves and nobody imports by name, so they have no types. */
const SERVED = ["./worker.js", "./webgpu.js"];

let folder: string;
let tarball: Buffer;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "slimvit-publishing-"));
  execFileSync("npm", ["pack", "--ignore-scripts", "--silent", "--pack-destination", folder], { cwd: ROOT });
  const { version } = JSON.parse(readFileSync(join(ROOT, "package.json"), "utf8")) as { version: string };
  tarball = readFileSync(join(folder, `slimvit-${version}.tgz`));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test("publint has nothing to say about the tarball but a false alarm on worker.js", async () => {
  const buffer = tarball.buffer.slice(tarball.byteOffset, tarball.byteOffset + tarball.length) as ArrayBuffer;
  const { messages, pkg } = await publint({ pack: { tarball: buffer }, strict: true });
  // The instances of WebAssembly in worker.js have `exports`, which publint takes for CommonJS; Node imports it in package.test.ts.
  const told = messages.filter(({ code, path }) => code !== "FILE_INVALID_FORMAT" || !path.includes("./worker.js"));
  expect(told.map((message) => formatMessage(message, pkg!))).toEqual([]);
});

test("the types are right wherever ES modules are", async () => {
  const result = await checkPackage(createPackageFromTarballData(tarball));
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
