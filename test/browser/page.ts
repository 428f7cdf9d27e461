/** A real Chromium on the built package, and tiny model folders for it. A missing browser fails the run. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Page } from "playwright-core";
import type { Tensors, WeightsDtype } from "../../src/format/model.ts";
import { type ManifestDraft, writeModelFolder } from "../../tools/models/folders.ts";
import { type BrowserPage, openPage } from "../../tools/shared/browser.ts";
import { CLASSES, randomTensors, tinyArchitecture } from "../tools/fixtures.ts";

export const DIST = fileURLToPath(new URL("../../dist", import.meta.url));
export const ORT = dirname(createRequire(import.meta.url).resolve("onnxruntime-web"));

/** What every test in a page starts from. */
const PAGE_SCRIPT = `
  import { SlimViT, SlimViTError } from "/dist/index.js";
  const engineUrls = { "onnxruntime-web": "/ort/ort.wasm.bundle.min.mjs" };
  const load = (options = {}, source = "/models/tiny/") => SlimViT.load(source, { engine: "onnx-wasm", engineUrls, ...options });
  const picture = (width = 50, height = 40) => {
    const data = new Uint8ClampedArray(width * height * 4);
    for (let i = 0; i < data.length; i++) data[i] = i % 4 === 3 ? 255 : (i * 37 + ((i * i) >> 5)) % 256;
    return { data, width, height };
  };
  const failure = (promise) =>
    promise.then(
      () => ({ code: "none", message: "it did not fail", ours: false }),
      (error) => ({ code: error.code, message: error.message, ours: error instanceof SlimViTError }),
    );
  Object.assign(globalThis, { SlimViT, SlimViTError, engineUrls, picture, failure, load });`;

/** A slim model of 32×32 px: ragged heads, a block without a head, one without an MLP, tokens leaving. */
export function tinySlimModel(): { draft: ManifestDraft; tensors: Tensors } {
  const range = (n: number) => Array.from({ length: n }, (_, k) => k);
  const arch = tinyArchitecture({
    blocks: [
      { headDims: [8, 3], mlpHidden: 24, keepIdx: range(15), merge: 0 },
      { headDims: [], mlpHidden: 7, keepIdx: [0, 2, 3, 5, 8, 13], merge: 0 },
      { headDims: [5, 8], mlpHidden: 0, keepIdx: [0, 3, 13], merge: 0 },
    ],
  });
  const draft = {
    name: "tiny-slim",
    license: "CC0-1.0",
    ...arch,
    preprocess: {
      resize: 36,
      crop: [32, 32] as [number, number],
      interpolation: "bicubic" as const,
      mean: [0.5, 0.5, 0.5] as [number, number, number],
      std: [0.5, 0.5, 0.5] as [number, number, number],
    },
    labels: CLASSES.map((id) => ({ id, label: `a ${id}` })),
    provenance: {},
    metrics: {},
  };
  return { draft, tensors: randomTensors(arch, CLASSES.length, 4) };
}

export interface Stage extends BrowserPage {
  /** folder served at /models/ */
  models: string;
}

/** @param isolated with the headers that bring SharedArrayBuffer */
export async function openStage(
  isolated = true,
  mounts: Record<string, string> = {},
  flags: string[] = [],
  withWebnn = false,
): Promise<Stage> {
  const models = mkdtempSync(join(tmpdir(), "slimvit-browser-"));
  const { draft, tensors } = tinySlimModel();
  const dtypes: WeightsDtype[] = ["f32", "f16", "int8"];
  writeModelFolder(join(models, "tiny"), draft, tensors, dtypes);
  mkdirSync(join(models, "none"));
  writeFileSync(join(models, "not-a-picture.txt"), "no picture");
  const opened = await openPage(
    { "/dist": DIST, "/ort": ORT, "/models": models, ...mounts },
    isolated,
    flags,
    undefined,
    undefined,
    withWebnn,
  );
  // As a script, not a function: the test runner would rewrite its import().
  await opened.page.addScriptTag({ type: "module", content: PAGE_SCRIPT });
  await opened.page.waitForFunction(() => "load" in globalThis);
  return {
    ...opened,
    models,
    async close() {
      await opened.close();
      rmSync(models, { recursive: true, force: true });
    },
  };
}

/** From now on the page keeps hold of every worker it starts, to be able to break one. */
export async function keepWorkers(page: Page): Promise<void> {
  await page.evaluate(() => {
    globalThis.workers = [];
    globalThis.Worker = class extends Worker {
      constructor(url: string | URL, options?: WorkerOptions) {
        super(url, options);
        workers.push(this);
      }
    };
  });
}

/** The globals that `openStage` puts into the page, for use inside `page.evaluate`. */
declare global {
  // biome-ignore-start lint/suspicious/noExplicitAny: the page's own, built copy of the package
  var SlimViT: any;
  var SlimViTError: any;
  var engineUrls: Record<string, string>;
  var load: (options?: object, source?: unknown) => Promise<any>;
  // biome-ignore-end lint/suspicious/noExplicitAny: the page's own, built copy of the package
  var picture: (width?: number, height?: number) => { data: Uint8ClampedArray; width: number; height: number };
  var failure: (promise: Promise<unknown>) => Promise<{ code: string; message: string; ours: boolean }>;
  /** of `keepWorkers`, oldest first */
  var workers: Worker[];
}
