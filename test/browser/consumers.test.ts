/** The packed tarball as its users have it: in vite, React, webpack, rollup, esbuild, Next.js, a plain page, under strict CSPs. */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Browser, chromium } from "playwright-core";
import sirv from "sirv";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { findChromium } from "../../scripts/setup-chromium.mjs";
import { writeModelFolder } from "../../tools/models/folders.ts";
import { makeSet } from "../../tools/models/set.ts";
import { installPacked, link, ROOT } from "../packages/packed.ts";
import { tinySlimModel } from "./page.ts";

const PICTURE = join(ROOT, "demo/samples/umbrella.jpg");
const ANSWER = /^a (bananas|cherries|plums), \d+ ms on (\w+)$/;

let folder: string;
let browser: Browser;
let server: Server;
let policy = "";
/** what the server's root is, below `folder` */
let site = "";

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "slimvit-consumers-"));
  const modules = join(folder, "node_modules");
  installPacked(folder, "slimvit");
  for (const name of ["react", "react-dom", "vite", "webpack", "rollup", "esbuild", "@rollup"]) link(modules, name);
  cpSync(join(ROOT, "examples"), folder, { recursive: true });
  const { draft, tensors } = tinySlimModel();
  const accuracy = [{ data: "fruit", split: "test", top1: 0.9, top5: 1, n: 10, engine: "simd", dtype: "f16" }];
  writeModelFolder(join(folder, "models/deit-tiny-slim"), { ...draft, metrics: { accuracy } }, tensors, ["f16"]);
  makeSet([join(folder, "models/deit-tiny-slim")], { out: join(folder, "models"), inPlace: true });
  for (const page of ["vite/main.js", "react/src/app.jsx", "plain-html/main.js", "next/app/classifier.jsx"])
    askAddress(join(folder, page));
  server = await serve();
  browser = await chromium.launch({ executablePath: findChromium(), args: ["--no-sandbox", "--disable-quic"] });
});
afterAll(async () => {
  await browser?.close();
  server?.close();
  rmSync(folder, { recursive: true, force: true });
});

/** Lets a page's own address name another model than the example's: a set, which it loads by a file of its own. */
function askAddress(page: string): void {
  const asked = 'globalThis.location && new URLSearchParams(location.search).get("model")';
  const script = readFileSync(page, "utf8");
  writeFileSync(page, script.replace('"/models/deit-tiny-slim/"', `(${asked}) || $&`));
}
const SET = "?model=/models/set.json";

function serve(): Promise<Server> {
  const models = sirv(folder, { dev: true });
  const started = createServer((request, response) => {
    if (policy) response.setHeader("Content-Security-Policy", policy);
    const notFound = () => void response.writeHead(404).end();
    if (request.url!.startsWith("/models/")) return models(request, response, notFound);
    sirv(join(folder, site), { dev: true })(request, response, notFound);
  });
  return new Promise((resolve) => started.listen(0, "127.0.0.1", () => resolve(started)));
}

/** Opens the page, picks a picture, and returns what the page says. */
async function visit(at: string, { csp = "", search = "", early = false } = {}): Promise<string> {
  site = at;
  policy = csp;
  return answerOf(`http://127.0.0.1:${(server.address() as AddressInfo).port}/${search}`, early);
}

/** With the model that the page names, and with a set. */
async function expectAnswers(at: string): Promise<void> {
  for (const search of ["", SET]) expect(await visit(at, { search })).toMatch(ANSWER);
}

/** @param early whether the picture is picked before the page's script has come */
async function answerOf(url: string, early = false): Promise<string> {
  const page = await browser.newPage();
  try {
    let pass = () => {};
    const picked = new Promise<void>((resolve) => (pass = resolve));
    if (early) await page.route("**/*.js", (route) => picked.then(() => route.continue()), { times: 1 });
    await page.goto(url, { waitUntil: early ? "commit" : "load" });
    await page.locator("input:enabled").setInputFiles(PICTURE);
    pass();
    const output = page.locator("output:not(:empty)");
    await output.waitFor({ state: "attached", timeout: 120_000 });
    return (await output.textContent())!;
  } finally {
    await page.close();
  }
}

const node = (name: string, ...args: string[]) =>
  execFileSync(process.execPath, args, { cwd: join(folder, name), stdio: ["ignore", "ignore", "pipe"] });
const vite = () => join(folder, "node_modules/vite/bin/vite.js");

/** A site made of the vite example's page and a bundle of its script, or of another. */
function bundle(name: string, script: string, main = readFileSync(join(folder, "vite/main.js"), "utf8")): string {
  mkdirSync(join(folder, name, "dist"), { recursive: true });
  writeFileSync(join(folder, name, "main.js"), main);
  writeFileSync(join(folder, name, "build.mjs"), script);
  cpSync(join(folder, "vite/index.html"), join(folder, name, "dist/index.html"));
  node(name, "build.mjs");
  return `${name}/dist`;
}

const ESBUILD = `import { build } from "esbuild";
  await build({ entryPoints: ["main.js"], bundle: true, splitting: true, format: "esm", outdir: "dist" });`;

describe("from the packed tarball, without any configuration", () => {
  test.each(["vite", "react"])("examples/%s, built by vite", async (name) => {
    node(name, vite(), "build");
    await expectAnswers(`${name}/dist`);
  });

  test("examples/vite, served by vite's development server", async () => {
    const started = spawn(process.execPath, [vite(), "--host", "127.0.0.1", "--port", "0"], {
      cwd: join(folder, "vite"),
      env: { ...process.env, NO_COLOR: "1" },
    });
    cpSync(join(folder, "models"), join(folder, "vite/public/models"), { recursive: true });
    try {
      const url = await urlOf(started);
      for (const search of ["", SET]) expect(await answerOf(url + search)).toMatch(ANSWER);
    } finally {
      started.kill();
    }
  });

  test("webpack", async () => {
    const script = `import webpack from "webpack";
      const output = { path: process.cwd() + "/dist", filename: "main.js" };
      webpack({ mode: "production", entry: "./main.js", output }, (error, stats) => {
        if (error || stats.hasErrors()) throw error ?? new Error(stats.toString());
      });`;
    await expectAnswers(bundle("webpack", script));
  });

  test("rollup", async () => {
    const script = `import { rollup } from "rollup";
      import resolve from "@rollup/plugin-node-resolve";
      const bundle = await rollup({ input: "main.js", plugins: [resolve({ browser: true })], external: [/^onnxruntime-web/, /^@tensorflow\\//] });
      await bundle.write({ dir: "dist", format: "es" });`;
    await expectAnswers(bundle("rollup", script));
  });

  test("esbuild", async () => {
    await expectAnswers(bundle("esbuild", ESBUILD));
    expect(await visit("esbuild/dist", { early: true })).toMatch(ANSWER);
  });

  test("examples/plain-html", async () => {
    symlinkSync(join(folder, "node_modules"), join(folder, "plain-html/node_modules"));
    await expectAnswers("plain-html");
    expect(await visit("plain-html", { early: true })).toMatch(ANSWER);
  });
});

describe.each([
  ["turbopack", "--turbopack"],
  ["webpack", "--webpack"],
])("examples/next, built by %s", (_, bundler) => {
  const consumers = join(ROOT, "test/consumers"); // Next.js refuses links that leave the folder of its lockfile
  const next = join(consumers, "node_modules/next/dist/bin/next");
  const env = { ...process.env, NEXT_TELEMETRY_DISABLED: "1", NO_COLOR: "1" };
  let app: string;
  let started: ChildProcess;
  let url: string;

  beforeAll(async () => {
    mkdirSync(join(consumers, "build"), { recursive: true });
    app = mkdtempSync(join(consumers, "build/next-"));
    cpSync(join(folder, "next"), app, { recursive: true });
    cpSync(join(folder, "models"), join(app, "public/models"), { recursive: true });
    for (const name of ["slimvit", "comlink"])
      cpSync(join(folder, "node_modules", name), join(app, "node_modules", name), {
        recursive: true,
        dereference: true,
      });
    execFileSync(process.execPath, [next, "build", bundler], { cwd: app, env, stdio: ["ignore", "ignore", "pipe"] });
    started = spawn(process.execPath, [next, "start", "--hostname", "127.0.0.1", "--port", "0"], { cwd: app, env });
    url = await urlOf(started);
  });
  afterAll(() => {
    started?.kill();
    rmSync(app, { recursive: true, force: true });
  });

  test("the page imports slimvit on the server and classifies in the browser", async () => {
    for (const search of ["", SET]) expect(await answerOf(url + search)).toMatch(ANSWER);
  });

  test("a route on the server classifies pixels", async () => {
    const body = new Uint8Array(20 * 10 * 4).fill(90);
    const response = await fetch(`${url}label?width=20&height=10`, { method: "POST", body });
    expect([response.status, await response.text()]).toEqual([200, expect.stringMatching(ANSWER)]);
    const short = await fetch(`${url}label?width=21&height=10`, { method: "POST", body });
    expect([short.status, await short.text()]).toEqual([400, expect.stringContaining("21")]);
  });
});

function urlOf(server: ChildProcess): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = "";
    server.stdout!.on("data", (data) => {
      text += data;
      const url = text.match(/http:\/\/127\.0\.0\.1:\d+/)?.[0];
      if (url) resolve(`${url}/`);
    });
    server.on("exit", () => reject(new Error(`The server ended: ${text}`)));
  });
}

describe("under a Content-Security-Policy", () => {
  const SELF = "default-src 'self'; script-src 'self'";
  const main = (options: string) =>
    readFileSync(join(folder, "vite/main.js"), "utf8").replace('slim/")', `slim/", ${options})`);

  test("script-src 'self' 'wasm-unsafe-eval' is enough for a bundle that ships worker.js", async () => {
    expect(await visit("vite/dist", { csp: `${SELF} 'wasm-unsafe-eval'` })).toMatch(/on simd$/);
  });

  test("without 'wasm-unsafe-eval' the plain loops answer", async () => {
    expect(await visit("vite/dist", { csp: SELF })).toMatch(/on reference$/);
  });

  test("a bundle that lost worker.js needs worker-src blob:, or worker.js copied and workerUrl", async () => {
    const wasm = `${SELF} 'wasm-unsafe-eval'`;
    expect(await visit("esbuild/dist", { csp: `${wasm}; worker-src 'self' blob:` })).toMatch(/on simd$/);
    expect(await visit("esbuild/dist", { csp: `${wasm}; worker-src 'self'` })).toMatch(
      /worker did not start.*workerUrl/,
    );
    const at = bundle("esbuild-worker", ESBUILD, main('{ workerUrl: "/worker.js" }'));
    cpSync(join(folder, "node_modules/slimvit/dist/worker.js"), join(folder, at, "worker.js"));
    expect(await visit(at, { csp: `${wasm}; worker-src 'self'` })).toMatch(/on simd$/);
  });
});
