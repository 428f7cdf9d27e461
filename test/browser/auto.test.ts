/** engine: "auto", on SwiftShader. Which engine is the fastest is the machine's affair; that it was measured is not. */
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { SelfTest } from "../../src/format/model.ts";
import type { ModelInfo } from "../../src/protocol.ts";
import { writeFileAtomic } from "../../tools/models/folders.ts";
import { link } from "../packages/packed.ts";
import { GPU_URLS, openGpuStage } from "./gpu.ts";
import { DIST, type Stage } from "./page.ts";

let stage: Stage;
/** paths that the page and its workers have asked for */
const asked: string[] = [];
/** of an app: its node_modules, and what it serves */
let site: string;
beforeAll(async () => {
  site = mkdtempSync(join(tmpdir(), "slimvit-site-"));
  const modules = join(site, "node_modules");
  mkdirSync(join(modules, "slimvit"), { recursive: true });
  symlinkSync(DIST, join(modules, "slimvit/dist"));
  for (const name of ["onnxruntime-web", "@tensorflow/tfjs-core", "@tensorflow/tfjs-backend-webgpu"])
    link(modules, name);
  mkdirSync(join(site, "public/engines"), { recursive: true });
  stage = await openGpuStage({ "/engines": join(site, "public/engines") });
  stage.page.context().on("request", (request) => asked.push(new URL(request.url()).pathname));
});
afterAll(async () => {
  await stage?.close();
  rmSync(site, { recursive: true, force: true });
});

const NAMED = {
  "onnxruntime-web": "/ort/ort.wasm.bundle.min.mjs",
  "@tensorflow/tfjs-core": GPU_URLS["@tensorflow/tfjs-core"],
  "@tensorflow/tfjs-backend-webgpu": GPU_URLS["@tensorflow/tfjs-backend-webgpu"],
};

/** What "auto" says of our own engines whose devices are not in this browser: SwiftShader is no real GPU. */
const LACKING = [
  { engine: "webgpu", reason: "There is no WebGPU adapter of a real GPU." },
  { engine: "webnn", reason: "There is no WebNN here." },
];
const measured = ({ tried }: Pick<ModelInfo, "tried">) => tried.filter(({ ms }) => ms !== undefined);

function infoOf(
  engineUrls: Record<string, string>,
  options: object = {},
  folder = "/models/tiny/",
): Promise<ModelInfo> {
  asked.length = 0;
  return stage.page.evaluate(
    async ({ engineUrls, options, folder }) => {
      const vit = await load({ engine: "auto", engineUrls, ...options }, folder);
      await vit.classify(picture());
      vit.dispose();
      return vit.info;
    },
    { engineUrls, options, folder },
  );
}

test("without packages and devices there is nothing to measure, and nothing else is downloaded", async () => {
  const { engine, tried, engineReason } = await infoOf({});
  expect({ engine, tried, engineReason }).toEqual({ engine: "simd", tried: LACKING, engineReason: "no other opened" });
  expect(asked.filter((path) => /ort|tfjs|onnx|engine-/.test(path))).toEqual([]);
});

test("engines that are named are measured, the fastest is taken, and the choice is kept for the device and model", async () => {
  const first = await infoOf(NAMED);
  const open = [first.engine, ...measured(first).map(({ engine }) => engine)].sort();
  expect(open).toEqual(["onnx-wasm", "simd", "tfjs-webgpu"]);
  expect(first.tried.filter(({ ms }) => ms === undefined)).toEqual(LACKING);
  const best = Number(first.engineReason.match(/^the fastest, ([\d.]+) ms a run, measured here$/)![1]);
  for (const { ms, reason } of measured(first)) {
    expect(reason).toMatch(/^slower: [\d.]+ ms a run$/);
    expect(ms).toBeGreaterThanOrEqual(best - 0.05);
  }
  const again = await infoOf(NAMED);
  expect(again.engine).toBe(first.engine);
  expect(again.tried).toEqual(first.tried);
  expect(again.engineReason).toBe(first.engineReason.replace("here", "on an earlier visit"));
});

test.each([
  ["31 days ago", { at: Date.now() - 31 * 24 * 3600 * 1000 }],
  ["with another GPU", { devices: { gpu: "another" } }],
])("a choice that was made %s is made again", async (_, changed) => {
  await infoOf(NAMED);
  expect((await infoOf(NAMED)).engineReason).toMatch(/on an earlier visit$/);
  await stage.page.evaluate(async (changed) => {
    const cache = await caches.open("slimvit");
    for (const request of await cache.keys()) {
      if (!request.url.includes("/auto?")) continue;
      const choice = await (await cache.match(request))!.json();
      await cache.put(request, new Response(JSON.stringify({ ...choice, ...changed })));
    }
  }, changed);
  expect((await infoOf(NAMED)).engineReason).toMatch(/measured here$/);
});

test("docs/guides/engines.md names every optional engine, and the files that it says are all that they need", async () => {
  const guide = readFileSync(new URL("../../docs/guides/engines.md", import.meta.url), "utf8");
  const section = guide.split("## Name the optional engines")[1].split("\n## ")[0];
  const [copy] = section.match(/(?<=```sh\n)[^`]+/)!;
  const named: Record<string, string> = JSON.parse(
    section
      .match(/engineUrls = (\{[^}]+\})/)![1]
      .replace(/\/\/ .*/g, "")
      .replace(/,\s*\}/, "}"),
  );
  execFileSync("sh", ["-ec", copy], { cwd: site });
  const { engine, tried } = await infoOf(named, { cache: false });
  expect(tried.filter(({ ms }) => ms === undefined)).toEqual(LACKING);
  expect([engine, ...measured({ tried }).map(({ engine }) => engine)].sort()).toEqual([
    "onnx-wasm",
    "onnx-webgpu",
    "simd",
    "tfjs-webgpu",
  ]);
  for (const { reason } of measured({ tried })) expect(reason).toMatch(/^slower: [\d.]+ ms a run$/);
  expect(asked.filter((path) => /ort|tfjs|onnx/.test(path) && !path.startsWith("/engines/"))).toEqual([]);
});

test("without our own engine-tfjs.js, named by a wrong address, the other engines are measured, and that is the reason", async () => {
  const { tried } = await infoOf({ ...NAMED, "slimvit/engine-tfjs.js": "/nowhere.js" }, { cache: false });
  expect(tried).toContainEqual({
    engine: "tfjs-webgpu",
    reason: expect.stringMatching(/engine-tfjs\.js did not load .*nowhere/),
  });
  expect(tried.find(({ engine }) => engine === "onnx-wasm" || engine === "simd")!.ms).toBeGreaterThan(0);
});

test("an engine that never opens does not keep the page waiting for good", async () => {
  const never = `export const env = { wasm: {} };
    export const InferenceSession = { create: () => new Promise(() => {}) };`;
  writeFileSync(join(site, "public/engines/never.mjs"), never);
  const { engine, tried, engineReason } = await infoOf({ "onnxruntime-web": "/engines/never.mjs" }, { cache: false });
  expect({ engine, tried, engineReason }).toEqual({
    engine: "simd",
    tried: [{ engine: "onnx-wasm", reason: "It was not open after 30 s." }, ...LACKING],
    engineReason: "no other opened",
  });
});

test("an engine that does not load or disagrees with the self-test is not taken, and says why", async () => {
  const folder = join(stage.models, "tiny", "slimvit.json");
  const intact = readFileSync(folder, "utf8");
  const manifest = JSON.parse(intact);
  const nowhere = await infoOf({ "onnxruntime-web": "/nowhere.mjs" }, { cache: false });
  expect(nowhere.engine).toBe("simd");
  expect(nowhere.tried).toEqual([
    { engine: "onnx-wasm", reason: expect.stringMatching(/did not load from .*nowhere/) },
    ...LACKING,
  ]);
  expect(nowhere.engineReason).toBe("no other opened");
  for (const { logits } of Object.values<SelfTest>(manifest.variants[0].selfTest))
    logits!.forEach((v, i) => void (logits![i] = v + 3));
  writeFileAtomic(folder, JSON.stringify(manifest));
  try {
    // Only the reference, which is not held against itself, is left.
    const { engine, tried } = await infoOf({ "onnxruntime-web": NAMED["onnxruntime-web"] }, { cache: false });
    expect(engine).toBe("reference");
    expect(tried.map(({ engine }) => engine)).toEqual(["simd", "onnx-wasm", "webgpu", "webnn"]);
    for (const { reason } of tried.slice(0, 2)) expect(reason).toMatch(/wrong results/);
  } finally {
    writeFileAtomic(folder, intact);
  }
});
