/** Pages with WebGPU on SwiftShader. A missing adapter fails the run. */
import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import type { openEngine as OpenEngine } from "../../src/engines/auto.ts";
import type { loadModel as LoadModel } from "../../src/loading/loadModel.ts";
import { SWIFTSHADER } from "../../tools/shared/browser.ts";
import { openStage, type Stage } from "./page.ts";

export const SHIPPED = fileURLToPath(new URL("../../models", import.meta.url));

const packageDist = (name: string) => dirname(createRequire(import.meta.url).resolve(name));

/** As a page without a bundler names the optional engines: the packages' own files. */
export const GPU_URLS = {
  "onnxruntime-web/webgpu": "/ort/ort.webgpu.bundle.min.mjs",
  "@tensorflow/tfjs-core": "/tfjs-core/tf-core.min.js",
  "@tensorflow/tfjs-backend-webgpu": "/tfjs-webgpu/tf-backend-webgpu.min.js",
};

const WEBNN_FILES = ["webnn-worker.js", "webnn-contexts.js", "webnn-refusing.js", "webnn-refuse.js"];

/** Bundled from the sources, engines to be opened on the page itself; beside them the files that they load. */
export async function bundleEngines(): Promise<string> {
  const bundle = mkdtempSync(join(tmpdir(), "slimvit-engines-"));
  await build({
    entryPoints: [fileURLToPath(new URL("engines.ts", import.meta.url))],
    outfile: join(bundle, "engines.js"),
    bundle: true,
    format: "esm",
    target: "es2022",
    external: ["onnxruntime-web", "@tensorflow"],
    logLevel: "error",
  });
  for (const file of ["gpu-worker.js", "gpu-rounds.js", "devices.js", ...WEBNN_FILES]) {
    copyFileSync(fileURLToPath(new URL(file, import.meta.url)), join(bundle, file));
  }
  return bundle;
}

/** Of a page with /bundle. */
export async function addEngines({ page }: Stage): Promise<void> {
  await page.addScriptTag({ type: "module", url: "/bundle/engines.js" });
  await page.waitForFunction(() => "openEngine" in globalThis);
}

/** A page with the package and `bundleEngines`. */
export async function openGpuStage(more: Record<string, string> = {}, flags: string[] = []): Promise<Stage> {
  const bundle = await bundleEngines();
  const mounts = {
    "/shipped": SHIPPED,
    "/bundle": bundle,
    "/tfjs-core": packageDist("@tensorflow/tfjs-core"),
    "/tfjs-webgpu": packageDist("@tensorflow/tfjs-backend-webgpu"),
    ...more,
  };
  const stage = await openStage(true, mounts, [...SWIFTSHADER, ...flags]);
  const hasAdapter = await stage.page.evaluate(async () => !!(await navigator.gpu?.requestAdapter()));
  if (!hasAdapter) {
    await stage.close();
    throw new Error(`Chromium finds no WebGPU adapter with ${SWIFTSHADER.join(" ")}.`);
  }
  await addEngines(stage);
  return {
    ...stage,
    async close() {
      await stage.close();
      rmSync(bundle, { recursive: true, force: true });
    },
  };
}

/** What devices.js says. */
export interface GpuState {
  alive: { devices: number; buffers: number; textures: number };
  losses: number;
  /** compiled so far */
  pipelines: number;
  /** of them, those that were not compiled asynchronously */
  blocking: number;
}

/** Loads take `workerUrl: "/bundle/gpu-worker.js"`; `gpu()` in the page then speaks with its devices.js. */
export async function watchDevices({ page }: Stage): Promise<void> {
  await page.evaluate((urls) => {
    const gpu = (message: object) =>
      new Promise<GpuState>((resolve) => {
        const channel = new BroadcastChannel("gpu");
        channel.onmessage = ({ data }) => {
          channel.close();
          resolve(data);
        };
        channel.postMessage(message);
      });
    Object.assign(globalThis, { gpu, urls });
  }, GPU_URLS);
}

declare global {
  var urls: Record<string, string>;
  var gpu: (message: object) => Promise<GpuState>;
  var openEngine: typeof OpenEngine;
  var loadModel: (folder: string, dtype?: string) => ReturnType<typeof LoadModel>;
}
