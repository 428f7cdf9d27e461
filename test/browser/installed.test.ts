/** engine: "auto" in apps whose bundler resolves what is installed: what it tries, and what the page asks the server for. */
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { LoadOptions, ModelInfo } from "../../src/protocol.ts";
import { openPage, SWIFTSHADER } from "../../tools/bench/browser.ts";
import { writeModelFolder } from "../../tools/models/folders.ts";
import { installPacked, link } from "../packages/packed.ts";
import { tinySlimModel } from "./page.ts";

const ORT = ["onnxruntime-web"];
const TF = ["@tensorflow/tfjs-core", "@tensorflow/tfjs-backend-webgpu"];

const MAIN = `
  import { SlimViT } from "slimvit";
  globalThis.infoOf = async (options) => {
    const vit = await SlimViT.load("/models/tiny/", options);
    await vit.classify({ data: new Uint8ClampedArray(40 * 40 * 4).fill(90), width: 40, height: 40 });
    vit.dispose();
    return vit.info;
  };`;

/** webpack makes a file of each package, vite's workers are one file; names of chunks say what is in them. */
const BUILDS = {
  vite: `import { build } from "vite";
    await build({ base: "/app/", logLevel: "error" });`,
  webpack: `import webpack from "webpack";
    const output = { path: process.cwd() + "/dist", publicPath: "/app/", filename: "[name].js", chunkFilename: "[name].js" };
    const optimization = { chunkIds: "named" };
    webpack({ mode: "production", entry: "./main.js", output, optimization }, (error, stats) => {
      if (error || stats.hasErrors()) throw error ?? new Error(stats.toString());
    });`,
};
type Bundler = keyof typeof BUILDS;

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "slimvit-installed-"));
  const { draft, tensors } = tinySlimModel();
  writeModelFolder(join(folder, "models/tiny"), draft, tensors, ["f16"]);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** With node_modules of its own. @returns what its server serves */
function buildApp(bundler: Bundler, packages: string[]): string {
  const app = mkdtempSync(join(folder, `${bundler}-`));
  installPacked(app, "slimvit");
  for (const name of [bundler, ...packages]) link(join(app, "node_modules"), name);
  writeFileSync(join(app, "main.js"), MAIN);
  const page = (script: string) => `<link rel="icon" href="data:,"><script type="module" src="${script}"></script>`;
  writeFileSync(join(app, "index.html"), page("/main.js"));
  writeFileSync(join(app, "build.mjs"), BUILDS[bundler]);
  execFileSync(process.execPath, ["build.mjs"], { cwd: app, stdio: ["ignore", "ignore", "pipe"] });
  if (bundler === "webpack") writeFileSync(join(app, "dist/index.html"), page("main.js"));
  return join(app, "dist");
}

interface Visit {
  info: ModelInfo;
  /** files of the app that the page and its workers asked for */
  asked: string[];
}

/** Each visit opens the page anew, in the same browser. */
async function visits(dist: string, flags: string[], ...loads: LoadOptions[]): Promise<Visit[]> {
  let asked: string[] = [];
  const mounts = { "/app": dist, "/models": join(folder, "models") };
  const { page, origin, close } = await openPage(mounts, true, flags, (path) => asked.push(path));
  try {
    const seen: Visit[] = [];
    for (const options of loads) {
      asked = [];
      await page.goto(`${origin}/app/index.html`);
      await page.waitForFunction(() => "infoOf" in globalThis);
      const info = await page.evaluate((options) => infoOf(options), options as object);
      seen.push({ info, asked: asked.filter((path) => path.startsWith("/app/") && path !== "/app/index.html") });
    }
    return seen;
  } finally {
    await close();
  }
}

declare global {
  var infoOf: (options: object) => Promise<ModelInfo>;
}

const WASM = /ort-wasm.*\.wasm$|[0-9a-f]{20}\.wasm$/; // onnxruntime-web's, as vite and webpack call it
const MEASURES = /webgpu-[\w-]+\.js$|\/[0-9a-f]{20}\.js$/; // our webgpu.js
const TF_CHUNK = /tfjs-(core|backend-webgpu)_dist_index/; // of webpack
/** One thread, as two are slow where the machine is busy; simd then is the fastest by far for a network of this size. */
const AUTO = { threads: 1 };
const names = ({ info }: Visit) => [info.engine, ...info.tried.map(({ engine }) => engine)].sort();

describe.each<Bundler>(["vite", "webpack"])("built by %s", (bundler) => {
  test("an app without the packages builds, has nothing to measure, and loads nothing but its own page and worker", async () => {
    const [first, again] = await visits(buildApp(bundler, []), [], AUTO, AUTO);
    for (const { info, asked } of [first, again]) {
      expect(info).toMatchObject({ engine: "simd", tried: [], engineReason: "no other is installed or named" });
      expect(asked).toHaveLength(2);
      expect(asked.filter((path) => MEASURES.test(path))).toEqual([]);
    }
  });

  test("installed onnxruntime-web is measured on the first visit, and is not loaded on the next", async () => {
    const [first, again] = await visits(buildApp(bundler, ORT), [], AUTO, AUTO);
    expect(names(first)).toEqual(["onnx-wasm", "simd"]);
    expect(first.info.engineReason).toMatch(/^the fastest, [\d.]+ ms a run, measured here$/);
    expect(first.info.tried).toEqual([
      { engine: "onnx-wasm", ms: expect.any(Number), reason: expect.stringMatching(/^slower: [\d.]+ ms a run$/) },
    ]);
    expect(first.asked.filter((path) => WASM.test(path))).toHaveLength(1);
    expect(first.asked.filter((path) => MEASURES.test(path))).toHaveLength(1);

    const { engine, tried, engineReason } = again.info;
    expect({ engine, tried }).toEqual({ engine: "simd", tried: first.info.tried });
    expect(engineReason).toBe(first.info.engineReason.replace("here", "on an earlier visit"));
    expect(again.asked).toHaveLength(2); // page and worker
  });

  test("installed onnxruntime-web gets its threads", async () => {
    const [{ info }] = await visits(buildApp(bundler, ORT), [], { engine: "onnx-wasm", threads: 2 });
    expect(info).toMatchObject({ engine: "onnx-wasm", threads: 2 });
  });

  test("installed TensorFlow.js runs when asked for, and is measured where there is an adapter", async () => {
    const dist = buildApp(bundler, [...ORT, ...TF]);
    const [named, first, again] = await visits(dist, SWIFTSHADER, { engine: "tfjs-webgpu" }, AUTO, AUTO);
    expect(named.info.engine).toBe("tfjs-webgpu");
    expect(names(first)).toEqual(["onnx-wasm", "simd", "tfjs-webgpu"]);
    for (const { reason } of first.info.tried) expect(reason).toMatch(/^slower: [\d.]+ ms a run$/);
    expect(again.info.engineReason).toMatch(/on an earlier visit$/);
    expect(again.info.tried).toEqual(first.info.tried);
    expect(again.asked).toHaveLength(2);

    const [{ info, asked }] = await visits(dist, [], AUTO); // in a browser without an adapter
    expect(info.tried).toContainEqual({ engine: "tfjs-webgpu", reason: "There is no WebGPU adapter." });
    expect(asked.filter((path) => TF_CHUNK.test(path))).toEqual([]);
    expect(first.asked.filter((path) => TF_CHUNK.test(path))).toHaveLength(bundler === "webpack" ? 2 : 0);
  });
});
