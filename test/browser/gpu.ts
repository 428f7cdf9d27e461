/** Pages with WebGPU on SwiftShader. A missing adapter fails the run. */
import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import type { openEngine as OpenEngine } from "../../src/engines/auto.ts";
import type { loadModel as LoadModel } from "../../src/loading/loadModel.ts";
import { SWIFTSHADER } from "../../tools/bench/browser.ts";
import { openStage, type Stage } from "./page.ts";

const SHIPPED = fileURLToPath(new URL("../../models", import.meta.url));

const packageDist = (name: string) => dirname(createRequire(import.meta.url).resolve(name));

/** As a page without a bundler names the optional engines: the packages' own files. */
export const GPU_URLS = {
  "onnxruntime-web/webgpu": "/ort/ort.webgpu.bundle.min.mjs",
  "@tensorflow/tfjs-core": "/tfjs-core/tf-core.min.js",
  "@tensorflow/tfjs-backend-webgpu": "/tfjs-webgpu/tf-backend-webgpu.min.js",
};

/** A page with the package and, bundled from the sources, engines to be opened on the page itself. */
export async function openGpuStage(more: Record<string, string> = {}, flags: string[] = []): Promise<Stage> {
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
  for (const file of ["gpu-worker.js", "gpu-rounds.js", "devices.js"]) {
    copyFileSync(fileURLToPath(new URL(file, import.meta.url)), join(bundle, file));
  }
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
  await stage.page.addScriptTag({ type: "module", url: "/bundle/engines.js" });
  await stage.page.waitForFunction(() => "openEngine" in globalThis);
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
  var loadModel: (folder: string) => ReturnType<typeof LoadModel>;
}
