/** `npm install` as README says it, from a registry on this machine that has the packed packages and nothing of the world's. */
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { pack, packModel, ROOT } from "./packed.ts";

const MODEL = "deit-tiny-slim";
const DENSE = "deit-tiny";
/** Packages of others that are there as they are. The rest are empty ones of the right versions: `npm install` asks no more. */
const REAL = ["commander"];

let folder: string;
let registry: Server;
/** what npm asks for, by name */
const documents: Record<string, { version: string; manifest: object; tarball: string }> = {};
const url = () => `http://127.0.0.1:${(registry.address() as AddressInfo).port}`;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "slimvit-install-"));
  for (const name of ["slimvit", "slimvit-tools"] as const) publish(pack(name, folder));
  for (const model of [MODEL, DENSE]) publish(packModel(model, folder));
  const { dependencies: runtime } = documents.slimvit.manifest as { dependencies: object };
  const { dependencies: tools } = documents["slimvit-tools"].manifest as { dependencies: object };
  for (const name of Object.keys({ ...runtime, ...tools })) if (!(name in documents)) publish(packOther(name));
  registry = createServer(({ url: path = "" }, response) => {
    const name = decodeURIComponent(path.slice(1));
    if (name.endsWith(".tgz")) return response.end(readFileSync(join(folder, name)));
    const found = documents[name];
    if (!found) return response.writeHead(404).end("{}");
    const { version, manifest, tarball } = found;
    const dist = { tarball: `${url()}/${tarball}` };
    response.setHeader("Content-Type", "application/json");
    response.end(
      JSON.stringify({ name, "dist-tags": { latest: version }, versions: { [version]: { ...manifest, dist } } }),
    );
  });
  await new Promise<void>((resolve) => registry.listen(0, "127.0.0.1", resolve));
});
afterAll(() => {
  registry?.close();
  rmSync(folder, { recursive: true, force: true });
});

function publish(tarball: string): void {
  const manifest = JSON.parse(execFileSync("tar", ["xzOf", tarball, "package/package.json"], { encoding: "utf8" }));
  documents[manifest.name] = { version: manifest.version, manifest, tarball: tarball.slice(folder.length + 1) };
}

/** @returns path of a tarball with the version that is installed here */
function packOther(name: string): string {
  const homes = [join(ROOT, "tools/node_modules"), join(ROOT, "node_modules")];
  const home = homes.map((modules) => join(modules, name)).find((path) => existsSync(path))!;
  const { version } = JSON.parse(readFileSync(join(home, "package.json"), "utf8"));
  const tarball = join(folder, `${name.replace(/[@/]/g, "-")}.tgz`);
  if (REAL.includes(name)) {
    execFileSync("tar", ["czf", tarball, "--dereference", "--transform", "s,^\\.,package,", "-C", home, "."]);
    return tarball;
  }
  const stub = join(mkdtempSync(join(folder, "stub-")), "package");
  mkdirSync(stub);
  writeFileSync(join(stub, "package.json"), JSON.stringify({ name, version }));
  execFileSync("tar", ["czf", tarball, "-C", join(stub, ".."), "package"]);
  return tarball;
}

/** @returns an empty project in which the command was run */
function project(install: string): string {
  const at = mkdtempSync(join(folder, "project-"));
  const [command, ...args] = install.split(" ");
  const { status, stderr, stdout } = spawnSync(command, [...args, "--no-audit", "--no-fund"], {
    cwd: at,
    encoding: "utf8",
    env: { ...process.env, npm_config_registry: url(), npm_config_cache: join(at, "cache") },
    timeout: 240_000,
  });
  if (status !== 0) throw new Error(`${install}: ${stdout}${stderr}`);
  return at;
}

const README = readFileSync(join(ROOT, "README.md"), "utf8");

/** A line of README's that begins so. */
function lineOf(start: string): string {
  const line = README.match(new RegExp(`${start}[^\`\n]*`))?.[0].trim();
  if (!line) throw new Error(`README has no line "${start}".`);
  return line;
}

test("the tools' package brings npx slimvit and the runtime, and a model's package is a folder for it", () => {
  const at = project(lineOf("npm install --save-dev slimvit-tools"));
  const npx = (...args: string[]) =>
    execFileSync("npx", ["--no-install", "slimvit", ...args], { cwd: at, encoding: "utf8" });
  expect(npx("--help")).toMatch(/import[\s\S]*compress[\s\S]*export/);
  expect(JSON.parse(npx("inspect", `node_modules/slimvit-${DENSE}`, "--json"))).toMatchObject({ numClasses: 1000 });
  expect(readdirSync(join(at, "node_modules"))).toContain("slimvit");
});

test("README's first lines give a label in Node", () => {
  const at = project(lineOf("npm install slimvit "));
  const code = README.match(/```js\n(import \{ SlimViT \}[\s\S]*?)```/)![1];
  const image = "{ data: new Uint8Array(64 * 64 * 4).fill(90), width: 64, height: 64 }";
  writeFileSync(join(at, "first.mjs"), `const image = ${image};\n${code}vit.dispose();\n`);
  const { status, stdout, stderr } = spawnSync(process.execPath, ["first.mjs"], { cwd: at, encoding: "utf8" });
  expect([status, stderr, stdout]).toEqual([0, "", expect.stringMatching(/^[\w ,'-]+ 0?\.\d+ [\d.]+\n$/)]);
  expect(readdirSync(join(at, "node_modules")).filter((name) => !name.startsWith("."))).toEqual([
    "comlink",
    "slimvit",
    `slimvit-${MODEL}`,
  ]);
});
